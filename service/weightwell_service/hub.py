"""The door of the Hugging Face Hub: repositories as the Hub's clients read them, with weights that are drawn.

The routes and header fields are those that huggingface_hub, transformers and huggingface.js use; docs/hub.md has them.
A client first asks which commit a revision is, and then reads files of that commit.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from itertools import accumulate, islice, takewhile
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.routing import Route

from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs, TooLarge
from weightwell_service.answers import json_answer
from weightwell_service.checkout import DATE, Checkout
from weightwell_service.exceptions import NotAllowed
from weightwell_service.file_response import respond
from weightwell_service.links import address
from weightwell_service.problems import PROBLEMS
from weightwell_service.repositories.failures import UpstreamError
from weightwell_service.repositories.repository import Repository
from weightwell_service.repositories.revision import FORMS, Revision
from weightwell_service.repositories.twin import Twin
from weightwell_service.service import service_of
from weightwell_service.small_file import etag_of, respond_small

# The most bytes of the body of ``paths-info``, and of paths in it.
_MOST_BODY = 2**20

# The most files and folders on a page of a listing, and the most weight files. Each of those is planned for its size,
# which takes 0.1 s for one of a large model, and clients wait for some 10 s.
_MOST_FILES, _MOST_WEIGHTS = 1000, 16

_READ_ONLY = "this hub is read-only, and has models only: their weights are drawn when they are read"

# The title of the only commit of a revision.
_TITLE = "The weights of {}"

Answer = Callable[[Request, "Place"], Awaitable[Response]]


class Refused(Exception):
    """A request that is not answered. ``code`` is the Hub's name for what is not there, None for anything else."""

    def __init__(self, code: str | None, message: str):
        super().__init__(message)
        self.code = code


class Place(Checkout):
    """A repository at a revision, as the path of a request names them."""

    @classmethod
    async def named(cls, request: Request) -> "Place":
        """Read the path of a request; raise ``Refused``, and the errors of ``Service.repository``."""
        service, parameters = service_of(request), request.path_params
        name = f"{parameters['owner']}/{parameters['name']}"
        wanted = parameters.get("revision", "main")
        repository = await service.repository(name, wanted)
        if repository is None:
            known = ", ".join(sorted(service.repositories)[:10])
            raise Refused("RepoNotFound", f"there is no repository {name[:200]!r}; this server has {known}")
        place = cls.of(service, repository, wanted)
        if place is None:
            raise Refused("RevisionNotFound", f"there is no revision {wanted[:200]!r} of {name}; expected {FORMS}")
        return place

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of every answer."""
        return {"x-repo-commit": self.commit, "cache-control": self.cache_control}

    async def entries(self, request: Request, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return what the Hub says of each of some files that exist, by path."""
        sizes = await self.sizes(request, paths)
        return {path: _entry(path, size, etag) for path, (size, etag) in sizes.items()}

    def rows(self, found: Iterable[dict[str, Any]], *, expanded: bool) -> list[dict[str, Any]]:
        """Return entries of files and folders; with the last commit of each, if they are expanded."""
        last = {"id": self.commit, "title": _TITLE.format(self.revision.name), "date": DATE}
        return [{**each, "lastCommit": last} if expanded else each for each in found]


def _entry(path: str, size: int, etag: str) -> dict[str, Any]:
    # No ``lfs``: it would need the SHA-256 of numbers that have not been drawn.
    return {"type": "file", "path": path, "size": size, "oid": etag.strip('"')}


def _answering(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers as the Hub does if something is not there."""

    async def endpoint(request: Request) -> Response:
        try:
            return await answer(request, await Place.named(request))
        except Refused as error:
            return _error(404 if error.code else 400, error.code, str(error))
        except UpstreamError as error:
            return _error(error.status, error.code, str(error))
        except (TooLarge, NotAllowed, InvalidSpec, InvalidSpecs) as error:
            return _error(PROBLEMS[type(error)][0], None, str(error))

    return endpoint


def _error(status: int, code: str | None, message: str) -> Response:
    """Return an error in the form that the Hub's clients read."""
    shown = message.encode("ascii", "backslashreplace").decode()
    headers = {"x-error-message": shown, "cache-control": "no-store", **({"x-error-code": code} if code else {})}
    return JSONResponse({"error": message}, status, headers)


# Models --------------------------------------------------------------------------------------------------------------


async def models(request: Request) -> Response:
    """List the repositories, of an author or with a text in their names."""
    query = request.query_params
    author, text = query.get("author"), (query.get("search") or "").lower()
    found = [
        _model(repository)
        for name, repository in sorted(service_of(request).repositories.items())
        if (author is None or name.startswith(f"{author}/")) and text in name.lower()
    ]
    limit = query.get("limit", "")
    return JSONResponse(found[: int(limit)] if limit.isdecimal() and len(limit) < 10 else found)


async def model(request: Request, place: Place) -> Response:
    """Describe a repository at a revision: its commit and its files, with ``blobs`` with their sizes."""
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in place.paths]
    if request.query_params.get("blobs", "").lower() in {"true", "1"}:
        for each, entry in zip(siblings, (await place.entries(request, place.paths)).values(), strict=True):
            each |= {"size": entry["size"], "blobId": entry["oid"]}
    described = {**_model(place.repository), "sha": place.commit, "siblings": siblings}
    return JSONResponse(described, headers=place.headers)


def _model(repository: Repository | Twin) -> dict[str, Any]:
    config = repository.config
    kind = config.get("model_type")
    return {
        "_id": repository.digest,
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": repository.commit(Revision()),
        "createdAt": DATE,
        "lastModified": DATE,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "library_name": "transformers" if kind else "weightwell",
        "tags": ["safetensors", *(["transformers", kind] if kind else [])],
        "config": {key: config[key] for key in ("architectures", "model_type") if key in config},
        **repository.described,
    }


async def refs(_: Request, place: Place) -> Response:
    """List the branches: main. Every seed is a revision too, but they are too many to list."""
    branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": place.repository.commit(Revision())}
    return JSONResponse({"branches": [branch], "converts": [], "tags": []})


async def commits(_: Request, place: Place) -> Response:
    """List the commits of a revision: it has one."""
    title = _TITLE.format(place.revision.name)
    commit = {"id": place.commit, "title": title, "message": "", "authors": [], "date": DATE}
    return JSONResponse([commit], headers=place.headers)


async def tree(request: Request, place: Place) -> Response:
    """List the files in a folder of a repository, a page at a time; ``cursor`` is the place of the first."""
    folder = request.path_params.get("path", "").strip("/")
    recursive, expanded = (_true(request.query_params.get(name)) for name in ("recursive", "expand"))
    inside = [path for path in place.paths if not folder or path.startswith(f"{folder}/")]
    if folder and not inside:
        raise Refused("EntryNotFound", f"there is no folder {folder[:200]!r} in {place.repository.name}")
    start = len(folder) + 1 if folder else 0
    # The files, or the files and folders directly in the folder.
    top = inside if recursive else [path[: start + len(path[start:].partition("/")[0])] for path in inside]
    listed, files = list(dict.fromkeys(top)), set(inside)
    cursor = request.query_params.get("cursor", "")
    first = int(cursor) if cursor.isdecimal() and len(cursor) < 10 else 0
    page = listed[first : first + _page(listed[first:])]
    entries = await place.entries(request, [each for each in page if each in files])
    found = [entries.get(each) or _directory(each) for each in page]
    last = first + len(page)
    more = {"link": f'<{_again(request, cursor=str(last))}>; rel="next"'} if last < len(listed) else {}
    return JSONResponse(place.rows(found, expanded=expanded), headers={**place.headers, **more})


def _true(value: object) -> bool:
    """Whether a field of a query, a form or a JSON object is true."""
    return str(value).lower() in {"true", "1"}


def _page(listed: Iterable[str]) -> int:
    """Return how many of some files and folders are on the first page."""
    weights = accumulate(each.endswith(".safetensors") for each in islice(listed, _MOST_FILES))
    return sum(1 for _ in takewhile(lambda count: count <= _MOST_WEIGHTS, weights))


def _again(request: Request, **query: str) -> str:
    """Return the address of a request with other fields in its query, as its client sees it before a proxy."""
    forwarded = request.headers.get("x-forwarded-proto", "")
    url = request.url.include_query_params(**query)
    return str(url.replace(scheme=forwarded) if forwarded in {"http", "https"} else url)


def _directory(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": etag_of(path.encode()).strip('"')}


async def paths_info(request: Request, place: Place) -> Response:
    """Describe some files. The body is JSON, or a form, with ``paths`` and perhaps ``expand``."""
    # First the body: who waits for a plan looks for a departure, and reads it meanwhile.
    paths, expanded = await _paths(request)
    known = set(place.paths)
    folders = {path[:at] for path in known for at, sign in enumerate(path) if sign == "/"}
    entries = await place.entries(request, [path for path in paths if path in known])
    found = [entries.get(path) or _directory(path) for path in paths if path in known or path in folders]
    return JSONResponse(place.rows(found, expanded=expanded), headers=place.headers)


async def _paths(request: Request) -> tuple[list[str], bool]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BODY:
            raise Refused(None, f"the body has more than {_MOST_BODY} bytes: ask for fewer paths")
    try:
        if "form" in request.headers.get("content-type", ""):
            form = parse_qs(body.decode())
            return form.get("paths", []), _true(form.get("expand", [""])[0])
        document = json.loads(body)
        paths, expanded = document["paths"], _true(document.get("expand"))
        return [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else [str(paths)], expanded
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(None, "the body must be a JSON object or a form with paths") from error


# Files ---------------------------------------------------------------------------------------------------------------


async def resolve(request: Request, place: Place) -> Response:
    """Send a file, or redirect to it at another address."""
    path = request.path_params["path"]
    file = await place.file(request, path)
    if file is None:
        raise _no_file(place, path)
    if isinstance(file, bytes):
        return respond_small(request.method, request.headers, file, path, place.headers)
    elsewhere = place.service.settings.data_url
    if elsewhere is not None and (draft := await place.draft(path)) is not None:
        url, _ = await place.planned(request, draft, lambda: address(draft.read()))
        if url is not None:
            linked = {"x-linked-size": str(file.nbytes), "x-linked-etag": file.etag}
            return Response(status_code=302, headers={**place.headers, **linked, "location": elsewhere + url})
    name = quote(path.rpartition("/")[2])
    more = {**place.headers, "content-disposition": f'attachment; filename="{name}"'}
    service = place.service
    return respond(request.method, request.headers, file, service.resources, more, service.costs_of(request))


def _no_file(place: Place, path: str) -> Refused:
    reason = place.repository.missing(path)
    where = f"{place.repository.name} at {place.revision.name}"
    return Refused("EntryNotFound", f"there is no file {path[:200]!r} in {where}{f': {reason}' if reason else ''}")


async def plan(request: Request, place: Place) -> Response:
    """Describe a weight file without generating it, as ``/plan`` does."""
    path = request.path_params["path"]
    draft = await place.draft(path)
    if draft is None:
        raise _no_file(place, path)
    service = place.service
    costs = service.costs_of(request)
    answer = await place.planned(request, draft, lambda: json_answer(service.describe(draft.read(), costs)))
    answer.headers.update(place.headers)
    return answer


async def refuse(request: Request) -> Response:
    """Refuse everything else that the Hub has, in its form."""
    if request.method in {"GET", "HEAD"}:
        return _error(404, "RepoNotFound", f"there is no {request.url.path[:200]!r} here: {_READ_ONLY}")
    return _error(403, None, f"{request.method} is refused: {_READ_ONLY}")


_REPOSITORY = "/{owner}/{name}"
_API = f"/api/models{_REPOSITORY}"
_FILE = "{revision}/{path:path}"

ROUTES = [
    Route(f"{_REPOSITORY}/resolve/{_FILE}", _answering(resolve), methods=["GET"]),
    Route(f"{_REPOSITORY}/raw/{_FILE}", _answering(resolve), methods=["GET"]),
    Route(f"{_REPOSITORY}/plan/{_FILE}", _answering(plan), methods=["GET"]),
    Route("/api/models", models, methods=["GET"]),
    Route(_API, _answering(model), methods=["GET"]),
    Route(f"{_API}/revision/{{revision}}", _answering(model), methods=["GET"]),
    Route(f"{_API}/refs", _answering(refs), methods=["GET"]),
    Route(f"{_API}/commits/{{revision}}", _answering(commits), methods=["GET"]),
    Route(f"{_API}/tree/{{revision}}", _answering(tree), methods=["GET"]),
    Route(f"{_API}/tree/{_FILE}", _answering(tree), methods=["GET"]),
    Route(f"{_API}/paths-info/{{revision}}", _answering(paths_info), methods=["POST"]),
    Route(f"/api/resolve-cache/models{_REPOSITORY}/{_FILE}", _answering(resolve), methods=["GET"]),
    Route("/api/{path:path}", refuse, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
]


def owns(path: str) -> bool:
    """Whether a path may be one of this door."""
    return path.startswith("/api/") or "/resolve/" in path or "/raw/" in path or "/plan/" in path
