"""Requests: ASGI middleware around the whole application that measures each request, and logs it when it has ended."""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weightwell_service.observation.record import Ended, begin

log = logging.getLogger(__name__)

_EXACT = {
    *("/", "/init", "/plan", "/gain", "/signal", "/inspect", "/schemes", "/presets"),
    *("/docs", "/openapi.json", "/metrics"),
    *("/health", "/healthz", "/health/live", "/health/ready"),
}


def route_of(path: str) -> str:
    """Return the route of a path. There are few of them, whatever clients ask for."""
    if path in _EXACT:
        return path
    if path == "/s3" or path.startswith("/s3/"):
        return "/s3"
    for door in ("/api", "/guide", "/page"):
        if path.startswith(f"{door}/"):
            return door
    return "/resolve" if "/resolve/" in path or "/raw/" in path else "other"


class Measured(Protocol):
    """What counts requests."""

    def begin(self, route: str) -> None:
        """Count a request that has begun."""

    def end(self, ended: Ended) -> None:
        """Count a request that has ended."""


class Observed:
    """The middleware. ``line`` writes the request line of a scope; None logs no requests.

    ``trace`` returns the identifier of the current trace; None without traces.
    """

    def __init__(
        self,
        app: ASGIApp,
        measured: Measured,
        line: Callable[[Any], str] | None,
        trace: Callable[[], str | None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._app = app
        self._measured = measured
        self._line = line
        self._trace = trace
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and measure it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record, route, began = begin(scope["headers"]), route_of(scope["path"]), self._clock()
        if self._trace is not None:
            record.trace = self._trace()
        self._measured.begin(route)
        status, sent, first = 0, 0, 0.0

        async def observed(message: Message) -> None:
            nonlocal status, sent, first
            if message["type"] == "http.response.start":
                status, first = message["status"], self._clock() - began
                message["headers"] = [*message["headers"], (b"x-request-id", record.identifier.encode())]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            seconds = self._clock() - began
            ended = Ended(route, scope["method"], status, record.reason, sent, first, seconds)
            self._measured.end(ended)
            if self._line is not None:
                _log(scope, ended, self._line(scope))


def _log(scope: Scope, ended: Ended, line: str) -> None:
    found = scope.get("state", {}).get("client")
    client = scope.get("client")
    fields = {
        "client": f"{client[0]}:{client[1]}" if client else None,
        "token": found.name if found and found.kind == "token" else None,
        "status": ended.status or None,
        "nbytes": ended.sent,
        "seconds": round(ended.seconds, 6),
        "reason": ended.reason,
    }
    log.info(
        '%s %s "%s HTTP/%s" %s %d bytes %.4f s',
        fields["client"] or "-",
        fields["token"] or "-",
        line,
        scope.get("http_version", "?"),
        ended.status or "-",
        ended.sent,
        ended.seconds,
        extra={"request": fields},
    )
