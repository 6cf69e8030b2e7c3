"""The door of S3: repositories as objects of buckets, read-only, with weights that are drawn when they are read.

    s3://acme/model/config.json                          the repository acme/model at main
    s3://acme/model@seed-42-bfloat16/model.safetensors   the same at a revision

A bucket is an owner. Signatures are not checked. docs/s3.md has the operations.
"""

import re
import secrets
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, tostring

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from weightwell_engine.exceptions import WeightwellError
from weightwell_service.checkout import DATE, Checkout
from weightwell_service.exceptions import PreconditionFailed
from weightwell_service.file_response import respond
from weightwell_service.problems import PROBLEMS, headers_of
from weightwell_service.repositories.failures import UpstreamError
from weightwell_service.repositories.library import is_name
from weightwell_service.service import Service, service_of
from weightwell_service.small_file import respond_small

# ``DATE`` as a header field.
LAST_MODIFIED = "Tue, 01 Jan 1980 00:00:00 GMT"

REGION = "us-east-1"

# The most keys of a listing.
MAX_KEYS = 1000

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_OWNER = {"ID": "weightwell", "DisplayName": "weightwell"}

# The status of each code of this module.
_STATUS = {
    "AccessDenied": 403,
    "InvalidArgument": 400,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NotImplemented": 501,
}

# The code of each status of ``problems.PROBLEMS``, and of errors of an upstream Hub.
_CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    416: "InvalidRange",
    500: "InternalError",
    502: "InternalError",
    503: "SlowDown",
    504: "InternalError",
}

# Parts of buckets and objects that S3 has and this server does not, as they are named in a query.
_MISSING = {
    *("acl", "accelerate", "analytics", "attributes", "cors", "encryption", "inventory", "legal-hold", "lifecycle"),
    *("logging", "metrics", "notification", "object-lock", "ownershipControls", "policy", "policyStatus"),
    *("publicAccessBlock", "replication", "requestPayment", "retention", "tagging", "torrent", "uploadId", "uploads"),
    *("versions", "website"),
}

# Characters that XML 1.0 cannot have: control characters and halves of surrogate pairs.
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Content = str | Sequence[tuple[str, "Content"]]


class Refused(Exception):
    """A request that is not answered, with S3's code for it."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Door:
    """The ASGI application: answers or refuses, and gives each request an identifier."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        identifier = secrets.token_hex(8).upper()
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message["headers"], (b"x-amz-request-id", identifier.encode())]}
            await send(message)

        request = Request(scope, receive)
        try:
            response = await _answer(request)
            await response(scope, receive, sending)
        except (Refused, WeightwellError) as error:
            if begun:
                raise
            await _refusal(request, error, identifier)(scope, receive, sending)


ROUTES = [Route("/s3/{path:path}", Door()), Route("/s3", Door())]


def owns(path: str) -> bool:
    """Whether a path is one of this door."""
    return path.startswith("/s3")


async def _answer(request: Request) -> Response:
    """Return the answer to a request; raise ``Refused`` or an error of ``problems.PROBLEMS``."""
    if request.method not in {"GET", "HEAD"}:
        raise Refused("AccessDenied", f"{request.method} is refused: objects are drawn when they are read, read only")
    if missing := _MISSING & set(request.query_params):
        raise Refused("NotImplemented", f"this server has no {min(missing)!r} of buckets or objects")
    service = service_of(request)
    bucket, _, key = request.path_params.get("path", "").partition("/")
    if not bucket:
        return _buckets(service)
    has_twins = service.twins is not None and is_name(f"{bucket}/name")
    if not has_twins and not any(name.startswith(f"{bucket}/") for name in service.repositories):
        raise Refused("NoSuchBucket", f"there is no bucket {bucket[:200]!r}; buckets are the owners of repositories")
    if key:
        return await _object(request, service, bucket, key)
    if request.method == "HEAD":
        return Response(headers={"x-amz-bucket-region": REGION})
    if "location" in request.query_params:
        return _document("LocationConstraint", "")  # empty means us-east-1
    if "versioning" in request.query_params:
        return _document("VersioningConfiguration", "")  # empty means that there was never any
    return await _listing(request, service, bucket)


def _buckets(service: Service) -> Response:
    owners = sorted({name.partition("/")[0] for name in service.repositories})
    buckets = [("Bucket", [("Name", owner), ("CreationDate", DATE)]) for owner in owners]
    return _document("ListAllMyBucketsResult", [("Owner", list(_OWNER.items())), ("Buckets", buckets)])


# Objects -------------------------------------------------------------------------------------------------------------


async def _object(request: Request, service: Service, bucket: str, key: str) -> Response:
    """Send an object, or a range of it."""
    folder, _, path = key.partition("/")
    checkout = await _checkout(service, bucket, folder)
    file = None if checkout is None else await checkout.file(request, path)
    if checkout is None or file is None:
        raise Refused("NoSuchKey", f"there is no key {key[:200]!r}; keys are name/file and name@seed-42/file")
    headers = _unmarked(request.headers)
    more = {"last-modified": LAST_MODIFIED, "cache-control": checkout.cache_control}
    if isinstance(file, bytes):
        response = respond_small(request.method, headers, file, path, more)
    else:
        response = respond(request.method, headers, file, service.resources, more, service.costs_of(request))
    response.headers["etag"] = marked(response.headers["etag"])
    return response


async def _checkout(service: Service, bucket: str, folder: str) -> Checkout | None:
    """Return the checkout of the first part of a key: ``name`` or ``name@revision``."""
    name, at, revision = folder.partition("@")
    wanted = revision if at else "main"
    repository = await service.repository(f"{bucket}/{name}", wanted)
    return None if repository is None else Checkout.of(service, repository, wanted)


def marked(etag: str) -> str:
    """Return an entity tag in the form of an object that was uploaded in parts.

    Clients such as rclone and s3cmd take 32 hexadecimal digits for the MD5 of the object, and compare.
    """
    return f'{etag[:-1]}-1"'


def _unmarked(headers: Headers) -> Headers:
    """Return the header fields of a request with the entity tags of files."""
    tags = {b"if-match", b"if-none-match", b"if-range"}
    return Headers(raw=[(name, value.replace(b'-1"', b'"') if name in tags else value) for name, value in headers.raw])


# Listings ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """What a request wants to be listed, in version 1 or 2 of the operation."""

    version: int
    prefix: str
    delimiter: str
    most: int
    after: str
    as_url: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Listing":
        """Read a query; raise ``Refused``."""
        version = 2 if query.get("list-type") == "2" else 1
        after = query.get("start-after" if version == 2 else "marker", "")
        if version == 2 and (token := query.get("continuation-token")):
            after = _read_token(token)
        most = query.get("max-keys") or str(MAX_KEYS)
        if not (most.isascii() and most.isdecimal() and len(most) < 10):
            raise Refused("InvalidArgument", f"max-keys must be an integer from 0 to {MAX_KEYS}, got {most[:80]!r}")
        if (encoding := query.get("encoding-type", "")) not in {"", "url"}:
            raise Refused("InvalidArgument", f"encoding-type must be url, got {encoding[:80]!r}")
        return cls(
            version=version,
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            most=min(int(most), MAX_KEYS),
            after=after,
            as_url=encoding == "url",
        )

    def items(self, keys: Sequence[str]) -> list[tuple[str, bool]]:
        """Return keys and common prefixes after the last one that the client has, in order; True for a prefix."""
        found: dict[str, bool] = {}
        rolled_up = self.delimiter and self.after.endswith(self.delimiter) and self.after != self.prefix
        for key in keys:
            if not key.startswith(self.prefix) or key <= self.after or (rolled_up and key.startswith(self.after)):
                continue
            at = key.find(self.delimiter, len(self.prefix)) if self.delimiter else -1
            found[key if at < 0 else key[: at + len(self.delimiter)]] = at >= 0
        return list(found.items())

    def text(self, value: str) -> str:
        """Return a key as the client wants it to be written."""
        return quote(value, safe="/") if self.as_url else value


async def _listing(request: Request, service: Service, bucket: str) -> Response:
    """List keys. Only the files on the page are planned, for their sizes."""
    wanted = Listing.of(request.query_params)
    checkouts = await _listed(service, bucket, wanted.prefix)
    items = wanted.items(sorted(f"{folder}/{path}" for folder, each in checkouts.items() for path in each.paths))
    page = items[: wanted.most]
    content: list[tuple[str, Content]] = []
    for name, is_prefix in page:
        if is_prefix:
            content.append(("CommonPrefixes", [("Prefix", wanted.text(name))]))
            continue
        folder, _, path = name.partition("/")
        size, etag = (await checkouts[folder].sizes(request, [path]))[path]
        fields: list[tuple[str, Content]] = [("Key", wanted.text(name)), ("LastModified", DATE)]
        fields += [("ETag", marked(etag)), ("Size", str(size)), ("StorageClass", "STANDARD")]
        if wanted.version == 1 or request.query_params.get("fetch-owner") == "true":
            fields.append(("Owner", list(_OWNER.items())))
        content.append(("Contents", fields))
    last = page[-1][0] if page and len(items) > len(page) else None
    return _document("ListBucketResult", [*_head(request, bucket, wanted, last, len(page)), *content])


async def _listed(service: Service, bucket: str, prefix: str) -> dict[str, Checkout]:
    """Return the checkouts that are listed, by the first part of their keys.

    Those are the main revision of every repository, and the revision or the twin that a prefix names with the slash
    after it: all are too many to list.
    """
    names = [name.partition("/")[2] for name in service.repositories if name.startswith(f"{bucket}/")]
    folder, slash, _ = prefix.partition("/")
    folders = [folder] if "@" in folder or slash else names
    try:
        found = {each: await _checkout(service, bucket, each) for each in folders if each.startswith(folder)}
    except UpstreamError as error:
        if error.status != 404:
            raise
        return {}
    return {each: checkout for each, checkout in found.items() if checkout is not None}


def _head(
    request: Request, bucket: str, wanted: Listing, last: str | None, count: int
) -> Iterator[tuple[str, Content]]:
    """Yield the fields of a listing before its keys. ``last`` is the last of this page, if there are more."""
    query = request.query_params
    yield "Name", bucket
    yield "Prefix", wanted.text(wanted.prefix)
    yield "MaxKeys", str(wanted.most)
    yield "IsTruncated", str(last is not None).lower()
    if wanted.delimiter:
        yield "Delimiter", wanted.text(wanted.delimiter)
    if wanted.as_url:
        yield "EncodingType", "url"
    if wanted.version == 1:
        yield "Marker", wanted.text(wanted.after)
        if last is not None:
            yield "NextMarker", wanted.text(last)
        return
    yield "KeyCount", str(count)
    if token := query.get("continuation-token"):
        yield "ContinuationToken", token
    if "start-after" in query:
        yield "StartAfter", wanted.text(query["start-after"])
    if last is not None:
        yield "NextContinuationToken", urlsafe_b64encode(last.encode("utf-8", "surrogatepass")).decode()


def _read_token(token: str) -> str:
    """Return the key after which a listing goes on; raise ``Refused``."""
    try:
        return b64decode(token, altchars=b"-_", validate=True).decode("utf-8", "surrogatepass")
    except ValueError:
        raise Refused("InvalidArgument", f"continuation-token is not one of this server: {token[:80]!r}") from None


# Documents -----------------------------------------------------------------------------------------------------------


def refusal(scope: Scope, status: int, message: str, headers: Mapping[str, str]) -> Response:
    """Return the answer to a request that is refused because of its client: 401, which S3 writes as 403, or 429."""
    code, status = ("AccessDenied", 403) if status == 401 else ("SlowDown", 503)
    fields = [("Code", code), ("Message", message), ("Resource", scope["path"])]
    return _document("Error", fields, status, {"cache-control": "no-store", **headers}, namespace="")


def _refusal(request: Request, error: Exception, identifier: str) -> Response:
    """Return an error as S3 writes it; raise an error that no table has."""
    headers = {"cache-control": "no-store"}
    if isinstance(error, Refused):
        code, status = error.code, _STATUS[error.code]
    elif isinstance(error, UpstreamError):
        code, status = _CODES[error.status], error.status
    elif type(error) in PROBLEMS:
        status = PROBLEMS[type(error)][0]  # type: ignore[index]
        code = _CODES.get(status, "InvalidRequest")
        headers |= headers_of(error, status)
        if isinstance(error, PreconditionFailed):
            headers["etag"] = marked(error.etag)
    else:
        raise error
    fields = [("Code", code), ("Message", str(error)), ("Resource", request.url.path), ("RequestId", identifier)]
    return _document("Error", fields, status, headers, namespace="")


def _document(
    name: str,
    content: Content,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    namespace: str = _NAMESPACE,
) -> Response:
    """Return an XML document of nested elements."""
    root = Element(name, {"xmlns": namespace} if namespace else {})
    _fill(root, content)
    body = '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode")
    return Response(body, status, dict(headers or {}), media_type="application/xml")


def _fill(element: Element, content: Content) -> None:
    if isinstance(content, str):
        element.text = _FORBIDDEN.sub("?", content)
        return
    for name, each in content:
        _fill(SubElement(element, name), each)
