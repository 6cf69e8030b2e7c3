"""Small files: responses of content in memory, with ranges and preconditions, like files on a disk."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from mimetypes import guess_type

from starlette.datastructures import Headers
from starlette.responses import Response

from weightwell_service.exceptions import PreconditionFailed
from weightwell_service.ranges import etag_in, range_applies, select_range

_TEXT = {".json": "application/json", ".md": "text/markdown; charset=utf-8", ".txt": "text/plain; charset=utf-8"}
_TEXT |= {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_TEXT |= {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@lru_cache(256)  # Python keeps the hash of bytes, so a file in memory is read once
def etag_of(content: bytes) -> str:
    """Return the strong entity tag of a content, in quotes."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def respond_small(
    method: str, request: Headers, content: bytes, name: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer a GET or HEAD for a content, given its file name and more lower-case headers.

    Raises ``PreconditionFailed`` and ``RangeNotSatisfiable``.
    """
    etag = etag_of(content)
    if "if-match" in request and not etag_in(", ".join(request.getlist("if-match")), etag, weak=False):
        raise PreconditionFailed(etag)
    common = {"accept-ranges": "bytes", "etag": etag, "x-content-type-options": "nosniff", **(headers or {})}
    if etag_in(", ".join(request.getlist("if-none-match")), etag, weak=True):
        return Response(status_code=304, headers=common)
    wanted = None
    if method == "GET" and range_applies(request.get("if-range"), etag):
        wanted = select_range(request.get("range"), len(content))
    start, stop = wanted or (0, len(content))
    common |= {"content-length": str(stop - start), "content-type": media_type(name)}
    if wanted:
        common["content-range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    body = b"" if method == "HEAD" else content[start:stop]
    return Response(body, 206 if wanted else 200, common)


def media_type(name: str) -> str:
    """Return the media type of a file by the end of its name."""
    known = next((kind for end, kind in _TEXT.items() if name.endswith(end)), None)
    return known or guess_type(name)[0] or "application/octet-stream"
