"""Responses: files, refusals and JSON, as OpenAPI describes them."""

from typing import Any

from weightwell_engine.description import KINDS
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.schemes import SCHEMES
from weightwell_service.openapi.schemas import INTEGER, INTEGERS, NUMBER, REF, TEXT, Schema, an_object, optional


def _header(description: str, **schema: Any) -> Schema:
    return {"description": description, "schema": {"type": "string", **schema}}


FILE_HEADERS = {
    "ETag": _header("strong validator: the same tag is the same bytes", pattern='^"[0-9a-f]{32}"$'),
    "Accept-Ranges": _header("ranges of bytes can be asked for", enum=["bytes"]),
    "Cache-Control": _header("immutable where the generator is portable; otherwise to be revalidated"),
    "Weightwell-Generator": _header("the generator, its version, and what else the numbers depend on"),
}
_CONTENT_RANGE = {"Content-Range": _header("which bytes of how many", pattern=r"^bytes (\d+-\d+|\*)/\d+$")}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": REF.format(model="Problem")}}}


def problem(description: str, **headers: Schema) -> Schema:
    """Describe a refusal, whose body is a problem."""
    return {"description": description, "content": _PROBLEM, **({"headers": headers} if headers else {})}


_RETRY = {"Retry-After": _header("seconds to wait")}
FILE = {"description": "the safetensors file", "content": _BINARY, "headers": FILE_HEADERS}
REFUSALS: dict[int | str, Schema] = {
    412: problem("If-Match names another file", ETag=FILE_HEADERS["ETag"]),
    413: problem("larger than this server allows"),
    422: problem("a field has a value that it cannot have; `errors` names every such field"),
    500: problem("the generator fails its self-check on this machine"),
    503: problem("busy, or the device is lost", **_RETRY),
}
NOT_MODIFIED: dict[int | str, Schema] = {
    304: {"description": "If-None-Match names this file", "headers": FILE_HEADERS},
}
RANGED: dict[int | str, Schema] = {
    206: {**FILE, "description": "the wanted bytes of it", "headers": FILE_HEADERS | _CONTENT_RANGE},
    416: problem("the range holds no byte of the file", **_CONTENT_RANGE),
}


def json_of(description: str, schema: Schema) -> Schema:
    """Describe an answer in JSON."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_OUTLINED_TENSOR = an_object(
    shape=INTEGERS,
    slice=optional(TEXT),
    dtype={"type": "string", "enum": list(DTYPES)},
    seed={"anyOf": [INTEGER, TEXT]},
    scheme={"type": "string", "enum": list(SCHEMES)},
    parameters={"type": "object"},
    rule={
        **optional(TEXT),
        "description": "path of the rule that the scheme comes from, such as rules.0 or preset.2",
    },
    law=an_object(kind={"type": "string", "enum": list(KINDS.values())}, words=TEXT),
    mean={**NUMBER, "description": "of an element, before it is rounded to the dtype"},
    std={**NUMBER, "description": "of an element, before it is rounded to the dtype"},
    fan_in=optional(INTEGER),
    fan_out=optional(INTEGER),
    data_offsets={**INTEGERS, "description": "where its bytes begin and end, from the end of the file's header"},
    nbytes=INTEGER,
)
OUTLINE = an_object(
    url={**optional(TEXT), "description": "path and query under which GET has the file; null if that is too long"},
    url_note={**optional(TEXT), "description": "what to do where there is no url"},
    refusal={**optional(TEXT), "description": "why this server would not draw the file, if it would not"},
    etag=TEXT,
    generator=an_object(name=TEXT, identity=TEXT, portable={"type": "boolean"}),
    nbytes={**INTEGER, "description": "size of the file"},
    header_nbytes={**INTEGER, "description": "size of what precedes the data in the file"},
    unused={**INTEGERS, "description": "places of the rules that no tensor took; of a preset's, nothing is said"},
    tensors={"type": "object", "additionalProperties": {"anyOf": [_OUTLINED_TENSOR, an_object(alias=TEXT)]}},
)
PRESET = an_object(
    name=TEXT,
    summary=TEXT,
    references={"type": "array", "items": TEXT},
    parameters={"type": "array", "items": {"type": "object"}},
    example=an_object(preset={"type": "object"}, rules={"type": "array", "items": {"type": "object"}}),
)
