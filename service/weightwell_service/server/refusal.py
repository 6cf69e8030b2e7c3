"""Refusals: error responses of the server, for requests that do not reach the application."""

import logging
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from weightwell_engine.exceptions import Busy, TooLarge
from weightwell_service.problems import PROBLEMS, problem

log = logging.getLogger(__name__)

# The parser's message for an unknown HTTP version.
_WRONG_VERSION = "Invalid HTTP version"


class Refusal(Exception):
    """The error response to a request that does not reach the application. The connection is then closed."""

    def __init__(self, status: int, detail: str):
        self.status = status
        self.detail = detail
        super().__init__(detail)

    def encode(self, headers: list[tuple[bytes, bytes]], *, body: bool = True) -> bytes:
        """Return the response with the common headers; without a body for HEAD."""
        kind, title = _TYPES.get(self.status, ("about:blank", HTTPStatus(self.status).phrase))
        extra = {"connection": "close", **({"retry-after": "1"} if self.status == 503 else {})}
        response = problem(self.status, kind, title, self.detail, extra)
        lines = [b"%s: %s\r\n" % header for header in [*headers, *response.raw_headers]]
        return b"".join([STATUS_LINE[self.status], *lines, b"\r\n", bytes(response.body) if body else b""])


_TYPES = {status: (kind, title) for status, kind, title in (PROBLEMS[TooLarge], PROBLEMS[Busy])}


def refusal_of(error: httptools.HttpParserError) -> Refusal:
    """Return the refusal for a parser error, or the refusal that a callback of the parser raised."""
    cause, reason = error.__context__, str(error)
    if isinstance(cause, Refusal):
        return cause
    if isinstance(error, httptools.HttpParserCallbackError):
        if not isinstance(cause, httptools.HttpParserError):
            log.error("a request was refused because of an internal error", exc_info=cause)
        return Refusal(
            400, "the target of a request must be a path, with a query if there is one, such as /init?shape=3"
        )
    if reason == _WRONG_VERSION:
        return Refusal(505, "the version must be HTTP/1.1 or HTTP/1.0")
    return Refusal(400, f"this is not a valid HTTP/1.1 request: {reason}")
