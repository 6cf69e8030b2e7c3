"""Traces: the spans of requests, as a collector gets them."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from weightwell_service.app import create_app
from weightwell_service.observation import traces
from weightwell_service.observation.log import WithRequest
from weightwell_service.observation.record import begin
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

TOKENS = Path(__file__).parent.parent / "access" / "tokens.toml"
RIGHT = {"Authorization": "Bearer right"}
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def http(serve: Serve, exporter: InMemorySpanExporter) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        # Spans are exported when they end, so that nothing waits for a thread.
        patch.setattr(
            traces.Traces, "start", lambda self: self.provider.add_span_processor(SimpleSpanProcessor(exporter))
        )
        app = create_app(Settings(threads=2, tokens_file=TOKENS, open_metrics=True, traces=True))
        with serve(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30, headers=RIGHT) as client:
            yield client


@pytest.fixture
def spans(http: httpx.Client, exporter: InMemorySpanExporter) -> Callable[[str], list[Any]]:
    """A function that asks for a path, and returns the spans of the request."""

    def ask(path: str, **headers: str) -> list[Any]:
        exporter.clear()
        http.get(path, headers=headers)
        http.get("/schemes")  # the span of a request ends before the next request of its connection begins
        return [span for span in exporter.get_finished_spans() if span.name != "GET /schemes"]

    return ask


def test_a_request_has_one_span_whatever_the_size_of_its_answer(spans: Callable[..., list[Any]]) -> None:
    (span,) = spans("/init?shape=1024,4096&scheme=normal")  # 16 MiB, in many chunks
    assert span.name == "GET /init"
    assert span.attributes["http.route"] == "/init"
    assert span.attributes["http.status_code"] == 200
    assert span.resource.attributes["service.name"] == "weightwell"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/s3/acme/model.safetensors", "GET /s3"),
        ("/acme/model/resolve/main/config.json", "GET /resolve"),
        ("/x/y/z", "GET other"),
    ],
)
def test_a_span_has_the_name_of_a_route(spans: Callable[..., list[Any]], path: str, name: str) -> None:
    assert [span.name for span in spans(path)] == [name]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/healthz", "/metrics"])
def test_health_and_metrics_have_no_spans(spans: Callable[..., list[Any]], path: str) -> None:
    assert spans(path) == []


def test_a_span_belongs_to_the_trace_of_its_client(spans: Callable[..., list[Any]]) -> None:
    (span,) = spans("/gain", traceparent=PARENT)
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]


@pytest.mark.parametrize("convention", ["", "http", "http/dup"])
def test_no_attribute_has_a_secret(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, convention: str
) -> None:
    from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability

    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", convention)
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", ".*")
    wanted = traces.Traces(exporter=lambda: exporter)
    wanted.provider.add_span_processor(SimpleSpanProcessor(exporter))
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append((scope["query_string"], dict(scope["headers"])))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    query = b"shape=3&signature=5ec4e7&X-Amz-Credential=5ec4e7%2F2026&X-Amz-Security-Token=5ec4e7&junk=\xff"
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/init",
        "raw_path": b"/init",
        "query_string": query,
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 9),
        "headers": [
            *((b"host", b"a"), (b"authorization", b"Bearer 5ec4e7"), (b"cookie", b"5ec4e7"), (b"x-a", b"b")),
            *((b"referer", b"http://a/init?signature=5ec4e7"), (b"x-amz-security-token", b"5ec4e7")),
        ],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(_: Any) -> None:
        pass

    exporter.clear()
    asyncio.run(traces.Traced(app, wanted)(scope, receive, send))
    (span,) = exporter.get_finished_spans()
    shown = str(dict(span.attributes or {}))
    assert "5ec4e7" not in shown
    assert "shape=3" in shown
    assert seen == [(query, dict(scope["headers"]))]  # the application has all of it


def test_a_line_of_the_log_has_the_trace_of_its_request(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(WithRequest())
    with caplog.at_level(logging.INFO, "weightwell_service.observation.requests"):
        http.get("/gain", headers={"traceparent": PARENT})
        http.get("/health/live")  # after it, the line about the request before is written
    line, *_ = (each for each in caplog.records if "/gain" in each.getMessage())
    assert line.__dict__["trace_id"] == PARENT.split("-")[1]


def test_a_line_without_a_trace_has_no_field_for_it() -> None:
    begin([])
    line = logging.LogRecord("", 0, "", 0, "", None, None)
    assert WithRequest().filter(line)
    assert "trace_id" not in vars(line)


def test_without_traces_their_libraries_are_not_imported() -> None:
    program = """
import sys
from weightwell_service.app import create_app
from weightwell_service.settings import Settings
create_app(Settings())
sys.exit(any(name.startswith(("opentelemetry.sdk", "opentelemetry.instrumentation")) for name in sys.modules))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(traces.InvalidTraces, match=r"pip install 'weightwell\[telemetry\]'"):
        traces.Traces()


def test_an_exporter_that_is_unknown_is_named_with_those_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(traces.InvalidTraces, match="must be otlp or one of console, otlp_proto_http, got 'zipkin'"):
        traces.Traces()


def test_the_service_has_the_name_that_the_operator_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "weights-eu")
    assert traces.Traces().provider.resource.attributes["service.name"] == "weights-eu"
