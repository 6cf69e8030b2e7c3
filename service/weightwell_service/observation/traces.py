"""Traces: one OpenTelemetry span for each request. The extra ``[telemetry]`` has the libraries.

The variables ``OTEL_*`` of OpenTelemetry name the exporter, the collector, the sampler and the service.
"""

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from weightwell_service import __version__
from weightwell_service.observation.log import shown_query
from weightwell_service.observation.requests import route_of

# The key of the scope, in the scope that OpenTelemetry gets.
_WHOLE = "weightwell.scope"

# Header fields that no attribute of a span may have. A referer may be a signed address.
_SECRET = {b"authorization", b"cookie", b"proxy-authorization", b"referer", b"x-amz-security-token"}

# Routes that are asked all the time, and whose spans say nothing.
_QUIET = {"/metrics", "/health", "/healthz", "/health/live", "/health/ready"}

_GROUP = "opentelemetry_traces_exporter"


class InvalidTraces(ValueError):
    """Traces cannot be exported: a library is missing, or OTEL_TRACES_EXPORTER is not valid."""


class Traces:
    """The spans of one process, and their exporter; raise ``InvalidTraces``."""

    def __init__(self, exporter: Callable[[], Any] | None = None):
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
        except ImportError:
            raise InvalidTraces(
                "WEIGHTWELL_TRACES needs OpenTelemetry, which is not installed: pip install 'weightwell[telemetry]'"
            ) from None
        self._exporter = exporter or _exporter()
        named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        attributes: dict[str, Any] = {"process.pid": os.getpid(), "service.version": __version__}
        resource = Resource.create(attributes if named else {"service.name": "weightwell", **attributes})
        self.provider: Any = TracerProvider(resource=resource)

    def start(self) -> None:
        """Export spans, in a thread, from now on."""
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self.provider.add_span_processor(BatchSpanProcessor(self._exporter()))

    def stop(self) -> None:
        """Export the last spans and end the thread. Without an answer of the collector, this takes up to 30 s."""
        self.provider.shutdown()


def _exporter() -> Callable[[], Any]:
    """Return the class of the exporter that OTEL_TRACES_EXPORTER names."""
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = [each for each in entry_points(group=_GROUP) if each.name == name]
    if not found:
        known = sorted({each.name for each in entry_points(group=_GROUP)})
        raise InvalidTraces(f"OTEL_TRACES_EXPORTER must be otlp or one of {', '.join(known)}, got {name!r}")
    exporter: Callable[[], Any] = found[0].load()
    return exporter


class Traced:
    """The middleware: the span of each request, without spans for the parts of its body.

    OpenTelemetry gets a scope whose query has no signature and whose header has no token, so that no attribute has one.
    """

    def __init__(self, app: ASGIApp, traces: Traces):
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.metrics import NoOpMeterProvider

        async def whole(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope[_WHOLE], receive, send)

        self._app = app
        self._middleware: ASGIApp = OpenTelemetryMiddleware(
            whole,
            default_span_details=_details,
            tracer_provider=traces.provider,
            meter_provider=NoOpMeterProvider(),
            exclude_spans=["receive", "send"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request in a span."""
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        headers = [field for field in scope["headers"] if field[0] not in _SECRET]
        shown = {**scope, "query_string": shown_query(scope).encode(), "headers": headers, _WHOLE: scope}
        await self._middleware(shown, receive, send)


def _details(scope: Scope) -> tuple[str, dict[str, str]]:
    """Return the name and more attributes of the span of a request."""
    route = route_of(scope["path"])
    return f"{scope['method']} {route}", {"http.route": route}


def current_trace() -> str | None:
    """Return the identifier of the current trace, 32 hexadecimal digits; None without one."""
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None
