"""Problems: the status of each exception, and the RFC 9457 body that describes it."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from weightwell_engine.exceptions import (
    Busy,
    DeviceUnavailable,
    GeneratorUnsound,
    InvalidSpec,
    InvalidSpecs,
    MalformedDocument,
    TooLarge,
    UnsupportedSpec,
    WeightwellError,
)
from weightwell_engine.generators.devices import no_memory
from weightwell_service.exceptions import NotAllowed, PreconditionFailed, RangeNotSatisfiable, UnsupportedEncoding
from weightwell_service.observation.record import current

MEDIA_TYPE = "application/problem+json"

# The single table: status, name of the problem type, and title of each exception.
PROBLEMS: dict[type[WeightwellError], tuple[int, str, str]] = {
    MalformedDocument: (400, "malformed-body", "The body cannot be read"),
    InvalidSpec: (422, "invalid-spec", "Invalid spec"),
    InvalidSpecs: (422, "invalid-spec", "Invalid spec"),
    UnsupportedSpec: (422, "unsupported-spec", "Not supported by this generator"),
    UnsupportedEncoding: (415, "unsupported-encoding", "The body is compressed"),
    TooLarge: (413, "too-large", "Too large for this server"),
    NotAllowed: (403, "not-allowed", "Not allowed for this client"),
    PreconditionFailed: (412, "precondition-failed", "The file has another ETag"),
    RangeNotSatisfiable: (416, "range-not-satisfiable", "The range holds no byte of the file"),
    Busy: (503, "busy", "The server is busy"),
    DeviceUnavailable: (503, "device-unavailable", "The device cannot be used"),
    GeneratorUnsound: (500, "generator-unsound", "The generator gives wrong numbers on this machine"),
}

_LONGEST_ECHO = 200


class FieldProblem(BaseModel):
    """One invalid field."""

    field: str
    got: Annotated[Any, Field(description="the value received, shortened if it is long")]
    expected: str
    hint: Annotated[str, Field(description="a suggestion, or null")] = ""
    detail: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: Annotated[str, Field(description="a URN that names the kind of problem, or about:blank")]
    title: str
    status: int
    detail: Annotated[str, Field(description="what was received, what is allowed, what to do")]
    errors: list[FieldProblem] = []
    request_id: Annotated[str, Field(description="identifier of the request, as in the log and in X-Request-Id")] = ""


def install(app: FastAPI) -> None:
    """Register handlers that answer every exception with a problem body."""
    for exception in PROBLEMS:
        app.add_exception_handler(exception, _known)
    app.add_exception_handler(MemoryError, _no_memory)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


async def _known(_: Request, error: Exception) -> Response:
    status, kind, title = PROBLEMS[type(error)]  # type: ignore[index]
    headers = headers_of(error, status)
    if isinstance(error, TooLarge | NotAllowed):
        # The clients of the Hub show this field. Their file may be refused when it is sent, past the door of the Hub.
        headers["x-error-message"] = str(error).encode("unicode_escape").decode("ascii")
    errors = [_field(each) for each in error.errors] if isinstance(error, InvalidSpec | InvalidSpecs) else []
    return problem(status, kind, title, str(error), headers, errors)


def headers_of(error: Exception, status: int) -> dict[str, str]:
    """Return the header fields that belong to an error with this status."""
    headers = {}
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size}"
    if isinstance(error, PreconditionFailed):
        headers["etag"] = error.etag
    if status == 503:
        headers["retry-after"] = str(error.retry_after if isinstance(error, Busy) else 1)
    return headers


async def _no_memory(request: Request, error: Exception) -> Response:
    del error
    return await _known(request, no_memory())


def _field(error: InvalidSpec) -> FieldProblem:
    hint = {"hint": error.hint} if error.hint else {}
    got = _echo(error.got)
    return FieldProblem(field=error.field, got=got, expected=error.expected, **hint, detail=error.detail)


def _echo(value: object) -> object:
    """Return a value that JSON can represent, shortened if it is long."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # not a JSON value, such as an infinity, or nested too deeply
        return reprlib.repr(value)
    if len(text) > _LONGEST_ECHO:
        return text[:_LONGEST_ECHO] + "..."
    return value


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError(f"expected an HTTPException, got {type(error).__name__}")
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405 and (methods := request.app.state.methods.get(request.url.path)):
        headers["allow"] = ", ".join(sorted(methods))
    detail = error.detail
    if error.status_code == 404:
        detail = f"no such path: {reprlib.repr(request.url.path)}; see /docs"
    if "allow" in headers:
        detail = f"the method must be one of {headers['allow']}, got {request.method}"
    return problem(error.status_code, "about:blank", error.detail, detail, headers)


def refusal(status: int, detail: str, headers: Mapping[str, str]) -> Response:
    """Return the answer to a request that is refused because of its client: 401, or 429."""
    kind, title = REFUSALS[status]
    # The clients of the Hub show this field.
    return problem(status, kind, title, detail, {"x-error-message": detail, **headers})


REFUSALS = {
    401: ("unauthorized", "A token is needed"),
    429: ("limit-of-client", "The client has reached a limit"),
}


async def _unknown(_: Request, error: Exception) -> Response:
    del error  # the log has it; its text may hold internals
    title, detail = "Internal error", "the server failed; its log has the reason"
    return problem(500, "internal", title, detail, {"connection": "close"})  # as uvicorn does after an exception


def problem(
    status: int, kind: str, title: str, detail: str, headers: Mapping[str, str], errors: Sequence[FieldProblem] = ()
) -> Response:
    """Return a problem response; ``kind`` is the last part of the type's URN, or about:blank."""
    urn = kind if kind == "about:blank" else f"urn:weightwell:problem:{kind}"
    listed: dict[str, Any] = {"errors": list(errors)} if errors else {}
    if (record := current()) is not None:
        record.reason = title if kind == "about:blank" else kind
        listed["request_id"] = record.identifier
    body = Problem(type=urn, title=title, status=status, detail=detail, **listed)
    # In ASCII, because received text may contain half of a surrogate pair.
    text = json.dumps(body.model_dump(exclude_unset=True), allow_nan=False)
    return Response(text, status, {"cache-control": "no-store", **headers}, media_type=MEDIA_TYPE)
