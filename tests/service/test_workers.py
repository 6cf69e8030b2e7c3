"""Several processes that serve one port: their parts, their deaths, restarts and ends, as clients see them."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

import weightwell
from weightwell_service import __version__
from weightwell_service.settings import Settings
from weightwell_service.workers import part_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for this")

PATIENCE = 60.0


class Running:
    """A service in a process of its own, and the lines of its log so far."""

    def __init__(self, *flags: str):
        command = [sys.executable, "-m", "weightwell_service", "--port", "0", *flags]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        found = self.wait_for(r"(?:serving on|Uvicorn running on) (http://127\.0\.0\.1:\d+)")
        self.url = found[1]

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Return the match of a pattern in the log when there are so many."""
        deadline = time.monotonic() + PATIENCE
        while len(found := list(re.finditer(pattern, "".join(self.lines)))) < count:
            assert time.monotonic() < deadline, (pattern, self.lines)
            time.sleep(0.05)
        return found[count - 1]

    def workers(self) -> list[int]:
        """Return the processes that have started, the latest last."""
        return [int(each) for each in re.findall(r"Started server process \[(\d+)\]", "".join(self.lines))]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        self.send(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self._reader.join()
            if self.process.stderr is not None:
                self.process.stderr.close()


@contextmanager
def running(*flags: str) -> Iterator[Running]:
    service = Running(*flags)
    try:
        yield service
    finally:
        service.end()


class Collector(ThreadingHTTPServer):
    """A collector of traces, which keeps the processes whose spans it gets."""

    def __init__(self) -> None:
        self.spans: Counter[int] = Counter()
        super().__init__(("127.0.0.1", 0), Collection)


class Collection(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (process,) = (each.value.int_value for each in resource.resource.attributes if each.key == "process.pid")
            self.server.spans[process] += sum(len(scope.spans) for scope in resource.scope_spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens") / "tokens.toml"


@pytest.fixture(scope="module")
def service(collector: Collector, tokens: Path) -> Iterator[Running]:
    limits = {"right": "", "narrow": "max_responses = 5", "daily": "bytes_per_day = 10_000"}
    tokens.write_text(
        "".join(
            f'[[tokens]]\nname = "{name}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\n{limit}\n'
            for name, limit in limits.items()
        )
    )
    flags = ["--workers", "2", "--threads", "2", "--tokens-file", str(tokens), "--open-metrics", "--traces"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # ms
        patch.setenv("NO_PROXY", "127.0.0.1")
        with running(*flags, "--max-responses", "10", "--saturation", "0.5") as service:
            service.wait_for("Application startup complete", 2)
            yield service


@pytest.fixture
def http(service: Running) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_keepalive_connections=0)  # each request may come to another process
    headers = {"Authorization": "Bearer right"}
    with httpx.Client(base_url=service.url, trust_env=False, timeout=30, limits=limits, headers=headers) as client:
        yield client


def value(http: httpx.Client, name: str, **labels: str) -> float:
    found = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found.get((f"weightwell_{name}", frozenset(labels.items())), 0.0)


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


SMALL, LARGE = "/init?shape=64&scheme=normal", "/init?shape=10000,10000&scheme=normal"


def reading(service: Running, path: str, token: str) -> socket.socket:
    """Ask for a file, and read nothing of it."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), PATIENCE)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return connection


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_process_has_its_part_of_the_limits() -> None:
    whole = Settings(threads=3, max_responses=9, max_connections=10, max_resident_bytes=2**30)
    part = part_of(whole, 4)
    assert (part.threads, part.max_responses, part.max_connections) == (1, 3, 3)
    assert part.max_resident_bytes == 2**28
    assert part.max_total_request_bytes == 64 * 2**20
    assert part_of(whole, 100).max_total_request_bytes == whole.max_request_bytes
    assert part.model_copy(update={"threads": 3, "max_responses": 9}).max_bytes == whole.max_bytes


def test_both_processes_answer_with_the_same_bytes(http: httpx.Client) -> None:
    digests = {sha256(http.get("/init?shape=1000,10&scheme=normal").content).hexdigest() for _ in range(20)}
    assert len(digests) == 1


def test_each_process_sends_the_spans_of_its_requests(
    service: Running, http: httpx.Client, collector: Collector
) -> None:
    eventually(lambda: http.get("/schemes").status_code == 200 and set(service.workers()) <= collector.spans.keys())


def test_the_metrics_are_those_of_all_processes(http: httpx.Client) -> None:
    labels = {"route": "/gain", "method": "GET", "status": "200"}
    before = value(http, "requests_total", **labels)
    for _ in range(30):
        assert http.get("/gain?nonlinearity=relu").status_code == 200
    assert {value(http, "requests_total", **labels) for _ in range(10)} == {before + 30}
    eventually(lambda: value(http, "memory_limit_bytes") == 4 * 2**30)  # two halves, mirrored once a second
    assert value(http, "info", version=__version__, device="cpu") == 1


def test_the_limits_of_a_token_hold_for_all_processes_together(service: Running, http: httpx.Client) -> None:
    length = len(http.get(SMALL).content)
    answers = [http.get(SMALL, headers=bearing("daily")) for _ in range(40)]
    assert [each.status_code for each in answers].count(200) == 10_000 // length
    assert {each.headers.get("retry-after") is None for each in answers if each.status_code == 429} == {False}
    with ExitStack() as readers:
        # As many connections as it takes until each process has some: all are answered or refused together.
        heads = [readers.enter_context(reading(service, LARGE, "narrow")).recv(12) for _ in range(20)]
        assert heads.count(b"HTTP/1.1 200") == 5
        assert heads.count(b"HTTP/1.1 429") == 15
    eventually(lambda: http.get(SMALL, headers=bearing("narrow")).status_code == 200)


def test_the_load_of_a_server_is_that_of_all_processes(service: Running, http: httpx.Client) -> None:
    eventually(lambda: {http.get("/health/ready").status_code for _ in range(10)} == {200})
    with ExitStack() as readers:
        for _ in range(6):  # of 10: at least one process is below a half of its own limit
            assert readers.enter_context(reading(service, LARGE, "right")).recv(12) in {
                b"HTTP/1.1 200",
                b"HTTP/1.1 503",
            }
        # The loads are written once a second.
        eventually(lambda: {http.get("/health/ready").status_code for _ in range(10)} == {503})
        assert http.get("/health/ready").json()["reason"].startswith("saturated: ")
        assert http.get("/gain").status_code == 200
    eventually(lambda: {http.get("/health/ready").status_code for _ in range(10)} == {200})


def test_a_process_that_dies_is_replaced_and_a_transfer_is_continued(service: Running) -> None:
    with weightwell.Client(service.url, token="right", connections=1, wait=60) as client:
        expected = sha256(client.init((1000, 1000), "normal", framework="numpy").tobytes()).hexdigest()
        for worker in service.workers()[-2:]:
            os.kill(worker, signal.SIGKILL)
            assert sha256(client.init((1000, 1000), "normal", framework="numpy").tobytes()).hexdigest() == expected
    service.wait_for(r"Child process \[\d+\] died", 2)
    service.wait_for("Application startup complete", 4)


def test_sighup_replaces_the_processes_one_by_one_and_no_request_is_lost(service: Running, http: httpx.Client) -> None:
    before = len(service.workers())
    service.send(signal.SIGHUP)
    answers = []
    while len(service.workers()) < before + 2:
        answers.append(http.get("/init?shape=64&scheme=normal").status_code)
    service.wait_for("Application startup complete", before + 2)
    answers += [http.get("/gain").status_code for _ in range(20)]
    assert set(answers) == {200}


def test_sighup_with_an_invalid_file_is_one_line_and_replaces_nothing(
    service: Running, http: httpx.Client, tokens: Path
) -> None:
    before, valid = len(service.workers()), tokens.read_text()
    tokens.write_text("[[tokens]]")
    service.send(signal.SIGHUP)
    service.wait_for(r"tokens\.toml.*; the processes are not replaced\n")
    tokens.write_text(valid)
    assert http.get("/gain").status_code == 200
    assert len(service.workers()) == before
    assert "Traceback" not in "".join(service.lines)


def test_while_draining_a_server_is_not_ready_and_answers() -> None:
    with running("--drain-seconds", "1.5") as service:
        with httpx.Client(base_url=service.url, trust_env=False, timeout=30) as http:
            assert http.get("/health/ready").status_code == 200
            service.send(signal.SIGTERM)
            service.wait_for("draining for 1.5 s")
            ready: dict[str, Any] = http.get("/health/ready").json()
            assert ready["reason"] == "starting or stopping"
            assert http.get("/init?shape=4&scheme=normal").status_code == 200
        assert service.process.wait(PATIENCE) in {0, -signal.SIGTERM}


def test_sigterm_ends_all_processes() -> None:
    service = Running("--workers", "2")
    service.wait_for("Application startup complete", 2)
    workers = service.workers()
    assert service.end() == 0
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
