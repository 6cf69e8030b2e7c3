"""OpenAPI descriptions of responses: files and problems."""

from typing import Any

from weightwell_service.openapi.requests import REF, Schema


def _header(description: str, **schema: Any) -> Schema:
    return {"description": description, "schema": {"type": "string", **schema}}


FILE_HEADERS = {
    "ETag": _header("strong validator: the same tag means the same bytes", pattern='^"[0-9a-f]{32}"$'),
    "Accept-Ranges": _header("byte ranges are supported", enum=["bytes"]),
    "Cache-Control": _header("immutable if the generator is portable; otherwise caches must revalidate"),
    "Weightwell-Generator": _header("the generator, its version, and everything else that the numbers depend on"),
    "Weightwell-Range-Cost": _header(
        "the cost of a range for the server: proportional to its length, or that of the whole file",
        enum=["proportional", "whole"],
    ),
    "Weightwell-Unused-Rules": _header(
        "the rules of the request that no tensor uses, at most the first 100; absent if there are none",
        pattern=r"^rules\.\d+(, rules\.\d+)*$",
    ),
}
_CONTENT_RANGE = {
    "Content-Range": _header("the first and last byte, and the size of the file", pattern=r"^bytes (\d+-\d+|\*)/\d+$")
}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": REF.format(model="Problem")}}}


def problem(description: str, **headers: Schema) -> Schema:
    """Describe an error response with a problem body."""
    return {"description": description, "content": _PROBLEM, **({"headers": headers} if headers else {})}


_RETRY = {"Retry-After": _header("seconds to wait")}
FILE = {"description": "the safetensors file", "content": _BINARY, "headers": FILE_HEADERS}
REFUSALS: dict[int | str, Schema] = {
    401: problem("a server with tokens needs one", **{"WWW-Authenticate": _header("Bearer")}),
    403: problem("not allowed for this client, such as a generator"),
    412: problem("If-Match names another file", ETag=FILE_HEADERS["ETag"]),
    413: problem("larger than this server allows"),
    422: problem("a field has an invalid value; `errors` lists every such field"),
    429: problem("the client has reached a limit", **_RETRY),
    500: problem("the self-check of the generator fails on this machine"),
    503: problem("busy, or the device is lost", **_RETRY),
}
NOT_MODIFIED: dict[int | str, Schema] = {
    304: {"description": "If-None-Match names this file", "headers": FILE_HEADERS},
}
RANGED: dict[int | str, Schema] = {
    206: {**FILE, "description": "the requested bytes of the file", "headers": FILE_HEADERS | _CONTENT_RANGE},
    416: problem("the range holds no byte of the file", **_CONTENT_RANGE),
}
