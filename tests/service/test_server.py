"""The protocol with a fake transport and a fake clock; a few tests use a real socket."""

import asyncio
import errno
import itertools
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import wraps
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from weightwell_service import problems
from weightwell_service.observation import requests
from weightwell_service.observation.log import request_line
from weightwell_service.observation.metrics import Metrics
from weightwell_service.observation.requests import Observed
from weightwell_service.server import connections, make_server, protocol
from weightwell_service.server.connections import Connections
from weightwell_service.server.protocol import MAX_HEAD
from weightwell_service.settings import Settings

PATIENCE = 30.0
CLIENT = ("192.0.2.7", 5)
GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(nbytes: int, path: bytes = b"/echo", more: bytes = b"") -> bytes:
    """Return the head of a request with a body."""
    return b"POST %s HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n" % (path, more, nbytes)


class App(FastAPI):
    """Echoes bodies; ``/wait`` waits for the client to leave, or for ``go``; ``/stream`` sends ten megabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.left, self.go = threading.Event(), threading.Event(), threading.Event()
        self.state.service = SimpleNamespace(settings=Settings())
        self.state.methods = {}
        problems.install(self)
        self.api_route("/echo", methods=["GET", "HEAD", "POST"])(self._echo)
        self.get("/wait")(self._wait)
        self.get("/stream")(self._stream)

    async def _echo(self, request: Request) -> Response:
        body = await request.body()
        headers = {"client": request.client.host if request.client else "", "fields": ",".join(request.headers)}
        return PlainTextResponse(body or b"nothing", headers=headers)

    async def _wait(self, request: Request) -> Response:
        self.waiting.set()
        while not self.go.is_set():
            if await request.is_disconnected():
                self.left.set()
                break
            await asyncio.sleep(0.001)
        return PlainTextResponse("waited")

    async def _stream(self) -> Response:
        async def body() -> Any:
            for _ in range(10):
                yield bytes(10**6)

        return StreamingResponse(body(), headers={"content-length": str(10**7)})


class Wire(asyncio.Transport):
    """A transport that keeps what is written. ``unsent`` is how much of it the client has not taken."""

    def __init__(self, peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer, "sockname": ("127.0.0.1", 80)})
        self.protocol: Any = None
        self.written = bytearray()
        self.unsent = 0
        self.closed = self.aborted = self.ended = self.paused = False

    def write(self, data: Any) -> None:
        assert not self.ended
        if not self.closed:
            self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    @property
    def over(self) -> bool:
        """Whether the server sends no more."""
        return self.closed or self.ended

    def answers(self) -> list[tuple[int, dict[str, str], bytes]]:
        """Return the status, the headers and the body of every answer."""
        found, rest = [], bytes(self.written)
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            status, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(headers.get("content-length", 0))
            found.append((int(status.split()[1]), headers, rest[:length]))
            rest = rest[length:]
        return found

    def statuses(self) -> list[int]:
        return [status for status, _, _ in self.answers()]


class Bench:
    """A server without a socket, and its connections."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.app = App()
        self.server = make_server(
            self.app, Settings(**settings), clock=lambda: self.now, log_config=None, access_log=False, lifespan="off"
        )
        self.server.config.load()

    def connect(self, *received: bytes, peer: tuple[str, int] = CLIENT) -> Wire:
        wire = Wire(peer)
        make: Any = self.server.config.http_protocol_class
        wire.protocol = make(config=self.server.config, server_state=self.server.server_state, app_state={})
        wire.protocol.connection_made(wire)
        for data in received:
            wire.protocol.data_received(data)
        return wire

    async def settle(self) -> None:
        """Let the event loop run until it has no more work."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def ask(self, *received: bytes, peer: tuple[str, int] = CLIENT) -> Wire:
        wire = self.connect(*received, peer=peer)
        await self.settle()
        return wire

    async def after(self, seconds: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let so many seconds pass, and do something in each of them."""
        for _ in range(seconds):
            self.now += 1
            meanwhile()
            await self.server.on_tick(0)
            await self.settle()


def on_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on an event loop."""

    @wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        async def main() -> None:
            await test(*arguments, **options)

        asyncio.run(main())

    return run


def refused(wire: Wire, status: int) -> str:
    """Assert that the last answer is a refusal; return its detail."""
    got, headers, body = wire.answers()[-1]
    assert got == status
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert wire.over
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == status
    return str(problem["detail"])


# Deadlines -----------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_connection_that_sends_nothing_is_closed() -> None:
    bench = Bench(head_timeout=20)
    wire = bench.connect()
    await bench.after(20)
    assert not wire.closed
    await bench.after(1)
    assert wire.closed
    assert not wire.written
    assert not bench.server.server_state.connections


@on_a_loop
async def test_a_head_that_does_not_end_is_answered_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(head_timeout=20)
    wires = [bench.connect(GET[:9]) for _ in range(100)]

    def drip() -> None:
        for wire in wires:
            wire.protocol.data_received(b"a")

    await bench.after(25, drip)
    assert "within 20 s" in refused(wires[0], 408)
    await bench.after(6)
    assert all(wire.closed for wire in wires)
    assert caplog.text.count("closed 100 connections") == 1


@on_a_loop
async def test_a_client_that_asks_now_and_then_keeps_its_connection() -> None:
    bench = Bench(head_timeout=20)
    wire = await bench.ask(GET)
    for _ in range(5):
        await bench.after(19)
        wire.protocol.data_received(GET[:5])
        await bench.after(19)
        wire.protocol.data_received(GET[5:])
    await bench.settle()
    assert wire.statuses() == [200] * 6
    assert not wire.over


@on_a_loop
async def test_a_body_that_hardly_arrives_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(stall_timeout=60, min_rate=1000)
    wire = await bench.ask(post(10**6))
    await bench.after(62, lambda: wire.protocol.data_received(b"x"))
    assert "1 bytes/s" in refused(wire, 408)
    assert "refused POST /echo of 192.0.2.7:5: 408" in caplog.text
    assert "Traceback" not in caplog.text


@on_a_loop
async def test_a_body_at_the_least_rate_may_take_its_time() -> None:
    bench = Bench(stall_timeout=60, min_rate=1000)
    wire = await bench.ask(post(10**6))
    await bench.after(999, lambda: wire.protocol.data_received(bytes(1000)))
    assert not wire.over
    await bench.after(1, lambda: wire.protocol.data_received(bytes(1000)))
    assert wire.statuses() == [200]


@on_a_loop
async def test_a_reader_is_judged_by_its_rate(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(stall_timeout=60, min_rate=1000)
    slow, stalled = await bench.ask(GET.replace(b"echo", b"stream")), await bench.ask(GET.replace(b"echo", b"stream"))
    slow.unsent = stalled.unsent = 9 * 10**6

    def read() -> None:
        slow.unsent -= 20_000

    await bench.after(300, read)
    assert not slow.closed
    assert stalled.aborted
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("closed a stalled connection: 192.0.2.7:5 read 0 bytes/s over 60 s, the minimum is 1000")
    assert line.endswith("GET /stream")


@on_a_loop
async def test_a_pass_of_the_loop_writes_to_few_readers_and_a_small_request_does_not_wait_for_the_others() -> None:
    bench = Bench()
    readers = [bench.connect(GET.replace(b"echo", b"stream")) for _ in range(16)]
    small, passes, answered = bench.connect(GET), list[int](), 0
    for number in range(100):
        await asyncio.sleep(0)
        passes.append(sum(len(wire.written) for wire in readers))
        for wire in readers:
            wire.written.clear()
        answered = answered or number * bool(small.written)
    assert small.statuses() == [200]
    assert sum(passes) > 16 * 10**7
    assert max(passes) < 2**22 + 10**6 + 16 * 200  # the limit, a part, and the heads
    assert answered < 10 < len([nbytes for nbytes in passes if nbytes]) - 20


@on_a_loop
async def test_no_connection_is_closed_while_the_server_works_on_the_answer() -> None:
    bench = Bench(head_timeout=20, stall_timeout=60)
    wire = await bench.ask(GET.replace(b"echo", b"wait"), GET[:9])  # the next head waits as well
    await bench.after(1000)
    assert not wire.over
    bench.app.go.set()
    while not wire.written:
        await asyncio.sleep(0.001)
    assert wire.statuses() == [200]


# How many ------------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_at_the_limit_the_oldest_connection_without_a_request_makes_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(max_connections=3)
    idle, silent, busy = await bench.ask(GET), bench.connect(), await bench.ask(GET.replace(b"echo", b"wait"))
    fourth, fifth = await bench.ask(GET), await bench.ask(GET)
    assert (idle.aborted, silent.aborted, busy.closed) == (True, True, False)
    assert fourth.statuses() == fifth.statuses() == [200]
    await bench.after(1)
    assert "3 connections are the limit (WEIGHTWELL_MAX_CONNECTIONS): closed 2 without a request" in caplog.text
    bench.app.go.set()


@on_a_loop
async def test_at_the_limit_a_connection_is_refused_if_all_others_are_served() -> None:
    bench = Bench(max_connections=2)
    busy = [await bench.ask(GET.replace(b"echo", b"wait")) for _ in range(2)]
    wire = await bench.ask()
    assert "2 connections" in refused(wire, 503)
    assert wire.answers()[0][1]["retry-after"]
    assert not any(each.closed for each in busy)
    bench.app.go.set()


def test_the_limit_of_open_files_bounds_the_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "descriptors", lambda: 1000)
    assert Connections(Settings(max_connections=4096), lambda: 0.0).limit == 872
    assert "at most 872 connections instead of 4096: the limit of open files (ulimit -n) is 1000" in caplog.text


_DESCRIPTORS = """
import resource
from weightwell_service.server.connections import allow_descriptors, descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))
allow_descriptors(10), print(descriptors())
allow_descriptors(500), print(descriptors())
allow_descriptors(4096), print(descriptors())
allow_descriptors(10), print(descriptors())
"""


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_and_never_lowered() -> None:
    done = subprocess.run([sys.executable, "-c", _DESCRIPTORS], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["138", "628", "1000", "1000"]


def test_a_lack_of_file_descriptors_is_said_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = iter(range(120))
    shared = Connections(Settings(), lambda: next(now))

    def dup(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "dup", dup)
    for _ in range(120):
        asyncio.run(shared.sweep())
    assert caplog.text.count("no file descriptor is free") == 2


# Refusals ------------------------------------------------------------------------------------------------------------

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("received", "status", "detail"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "one Host header, got 0"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "one Host header, got 2"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400, "one Host header, got 2"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "host name"),
        (b"\x16\x03\x01\x02\x00", 400, "not a valid HTTP/1.1 request"),
        (b"GET / HTTP/3.7\r\n\r\n", 505, "HTTP/1.1"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "the target of a request must be a path"),
        (b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n\r\n", 414, "the URL and the headers may have 65536 bytes"),
        (b"GET /" + b"a" * 10**6, 414, "the URL and the headers may have 65536 bytes"),
        (HEAD + b"a: " + b"b" * MAX_HEAD + b"\r\n\r\n", 431, "65536 bytes"),
        (HEAD + b"a: " + b"b" * 10**6, 431, "65536 bytes"),
        (HEAD + b"a: b\r\n" * 20_000, 431, "65536 bytes"),
        (HEAD + b"a: b\r\n" * 256 + b"\r\n", 431, "256 fields"),
        (HEAD + b"a: b\r\n" * 2000, 431, "256 fields"),
        (post(10**9), 413, "the body has 1000000000 bytes, and this server allows 16777216"),
        (post(10**9, more=b"Expect: 100-continue\r\n"), 413, "the body has 1000000000 bytes"),
        (CHUNKED + b"zz\r\n", 400, "chunk size"),
        (CHUNKED + b"1;" + b"a" * 10**5, 431, "a chunk header of the body, may have 65536 bytes"),
        (CHUNKED + b"1\r\nx\r\n0\r\na: " + b"b" * 10**6, 431, "the trailers"),
        (CHUNKED + b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 20_000, 431, "the trailers"),
    ],
)
@on_a_loop
async def test_a_request_that_cannot_be_is_refused_with_a_problem(received: bytes, status: int, detail: str) -> None:
    bench = Bench()
    for step in (len(received), 1000):
        wire = await bench.ask(*(received[start : start + step] for start in range(0, len(received), step)))
        assert detail in refused(wire, status)
        assert wire.statuses() == [status]
        wire.protocol.data_received(GET)  # is not read any more
        await bench.after(7)
        assert wire.aborted
        assert wire.statuses() == [status]


@on_a_loop
async def test_a_refusal_of_head_has_no_body() -> None:
    wire = await Bench().ask(b"HEAD /echo HTTP/1.1\r\n\r\n")
    assert wire.written.endswith(b"\r\n\r\n")


@on_a_loop
async def test_a_refusal_waits_for_the_answers_before_it() -> None:
    for bad in (b"nonsense\r\n\r\n", CHUNKED + b"zz\r\n"):
        bench = Bench()
        wire = await bench.ask(GET.replace(b"echo", b"wait") + bad, b"more")
        await bench.after(3)
        assert not wire.written
        bench.app.go.set()
        while not wire.over:
            await asyncio.sleep(0.001)
        assert wire.statuses() == [200, 400]
        assert wire.answers()[0][2] == b"waited"


@on_a_loop
async def test_an_answer_that_comes_before_the_body_is_not_followed_by_another() -> None:
    wire = await Bench().ask(post(10**6, b"/nothing"), bytes(10**5))
    assert wire.statuses() == [404]
    assert wire.answers()[0][1]["connection"] == "close"
    assert wire.ended
    assert not wire.closed  # the client may still send, and has to be able to read the answer
    assert wire.protocol.eof_received() is False


@on_a_loop
async def test_100_continue_is_sent_when_the_body_is_read() -> None:
    wire = await Bench().ask(post(3, more=b"Expect: 100-continue\r\n"))
    assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"


# Bodies and pipelines ------------------------------------------------------------------------------------------------


@on_a_loop
async def test_trailers_are_dropped() -> None:
    wire = await Bench().ask(CHUNKED + b"1\r\nx\r\n0\r\nhost: b\r\nx-forwarded-for: 1.1.1.1\r\n\r\n" + GET)
    (status, headers, body), _ = wire.answers()
    assert (status, headers["fields"], body) == (200, "host,transfer-encoding", b"x")
    assert wire.statuses() == [200, 200]


@on_a_loop
async def test_a_body_may_come_in_many_small_chunks() -> None:
    wire = await Bench().ask(CHUNKED + b"1;a=b\r\nx\r\n" * 50_000 + b"0\r\n\r\n")
    assert wire.answers()[0][2] == b"x" * 50_000


@on_a_loop
async def test_any_number_of_small_requests_may_come_at_once() -> None:
    bench = Bench()
    wire = await bench.ask(GET * 1500)  # 73 kB
    while wire.protocol._cycles:
        await asyncio.sleep(0)
    assert wire.statuses() == [200] * 1500
    assert not wire.over


MESSAGES = {
    GET: [200],
    post(5) + b"hello": [200],
    post(10**5) + b"x" * 10**5: [200],
    post(4, b"/nothing") + b"none": [404],
    CHUNKED + b"3\r\nabc\r\n1;a=b\r\nd\r\n0\r\na: b\r\n\r\n": [200],
    post(5, more=b"Connection: Upgrade\r\nUpgrade: h2c\r\n") + b"hello": [200],
    b"\r\n" + GET: [200],
}
LAST = {
    b"": [],
    GET[:20]: [],
    post(10): [],
    b"nonsense\r\n\r\n" + GET: [400],
    GET.replace(b"Host: a\r\n", b"") + GET: [400],
    CHUNKED + b"zz\r\n" + GET: [400],
    post(10**9) + GET: [413],
    GET[:-2] + b"Connection: close\r\n\r\n": [200],
}


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(list(MESSAGES)), max_size=5),
    st.sampled_from(list(LAST)),
    st.lists(st.integers(1, 2000), min_size=1, max_size=30),
    st.booleans(),
)
def test_answers_do_not_depend_on_how_requests_arrive(
    messages: list[bytes], last: bytes, sizes: list[int], pause: bool
) -> None:
    async def scenario() -> None:
        bench, data, position = Bench(), b"".join([*messages, last]), 0
        wire = bench.connect()
        for size in itertools.cycle([*sizes, 10**5]):
            if position >= len(data) or wire.over:
                break
            wire.protocol.data_received(data[position : position + size])
            position += size
            if pause:
                await bench.settle()
        for _ in range(20):
            await bench.settle()
        expected = [*itertools.chain(*(MESSAGES[message] for message in messages)), *LAST[last]]
        # An answer without the body of its request is the last one, if it comes before the body does.
        got = wire.statuses()
        assert got == expected or (got == expected[: len(got)] and got[-1] == 404 and wire.ended)
        wire.protocol.connection_lost(None)

    asyncio.run(scenario())


@on_a_loop
async def test_what_follows_a_request_is_kept_up_to_a_limit() -> None:
    bench = Bench()
    wire = await bench.ask(GET.replace(b"echo", b"wait"), GET)
    assert not wire.paused  # so that the server sees the client leave
    wire.protocol.data_received(GET * 3000)
    assert wire.paused
    wire.protocol.connection_lost(None)


@on_a_loop
async def test_a_request_that_wishes_to_upgrade_keeps_its_body_and_its_connection() -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    request = post(10, more=upgrade) + b"0123456789"
    for step in (len(request), 7):
        data = request * 3 + GET
        wire = await Bench().ask(*(data[start : start + step] for start in range(0, len(data), step)))
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert [body for _, _, body in wire.answers()] == [b"0123456789"] * 3 + [b"nothing"]


# Leaving -------------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_disconnect_is_noticed_after_any_further_bytes() -> None:
    for more in (b"", GET, GET * 2, b"nonsense\r\n\r\n", GET[:9]):
        bench = Bench()
        wire = await bench.ask(GET.replace(b"echo", b"wait") + more)
        assert bench.app.waiting.is_set()
        wire.protocol.connection_lost(ConnectionResetError())
        while bench.server.server_state.tasks:
            await asyncio.sleep(0.001)
        assert bench.app.left.is_set()


@on_a_loop
async def test_a_client_whose_requests_are_not_read_is_looked_at_between_the_sweeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended, looks = False, 0

    def peer_ended(_: object) -> bool:
        nonlocal looks
        looks += 1
        return ended

    monkeypatch.setattr(protocol, "_peer_ended", peer_ended)
    monkeypatch.setattr(protocol, "_FIRST_LOOK", 0.001)
    monkeypatch.setattr(protocol, "_PAUSED_LOOK", 0.001)
    bench = Bench()
    wire = await bench.ask(GET.replace(b"echo", b"wait") + GET * 3000)
    monkeypatch.setattr(wire.protocol.flow, "resume_reading", lambda: None)  # as for an app that does not receive
    wire.protocol.data_received(GET)
    assert wire.paused
    while looks < 3:
        await asyncio.sleep(0)
    assert not wire.written
    ended = True
    while wire.written.count(b"102 Processing") < 2:
        await asyncio.sleep(0)
    wire.protocol.connection_lost(ConnectionResetError())
    await bench.settle()


@on_a_loop
async def test_an_upload_that_is_left_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench()
    wire = await bench.ask(post(100, b"/echo?a=1"), b"x")
    assert wire.protocol.eof_received() is False
    wire.protocol.connection_lost(None)
    await bench.settle()
    lines = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert lines == ["192.0.2.7:5 left before the end of its body: POST /echo?a=1"]


@on_a_loop
async def test_a_body_in_flight_when_the_server_stops_is_not_a_server_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench()
    wire = await bench.ask(post(100), b"x")
    wire.protocol.shutdown()
    assert not wire.over
    for task in bench.server.server_state.tasks:
        task.cancel()
    await bench.settle()
    assert "being stopped" in refused(wire, 503)
    assert wire.closed
    assert "Traceback" not in caplog.text


@pytest.fixture
def served(serve: Any) -> Iterator[tuple[App, socket.socket]]:
    """An application on a real socket, and a connection to it."""
    app = App()
    with serve(app) as url, socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), PATIENCE) as connection:
        yield app, connection


@pytest.mark.parametrize("count", [0, 1, 6000])  # the last: more than is read before the first answer
def test_a_client_that_has_closed_its_sending_side_gets_its_answers(
    served: tuple[App, socket.socket], count: int
) -> None:
    app, connection = served
    connection.sendall(GET.replace(b"echo", b"wait") + GET * count)
    connection.shutdown(socket.SHUT_WR)
    received = bytearray()
    while b"102 Processing" not in received:
        received += connection.recv(2**16)
    app.go.set()
    while part := connection.recv(2**16):
        received += part
    assert [status for status in re.findall(rb"HTTP/1.1 (\d+)", received) if status != b"102"] == [b"200"] * (1 + count)
    assert not app.left.is_set()


@pytest.mark.parametrize("more", [b"", GET, GET * 20_000], ids=["alone", "a second request", "many"])
def test_a_client_that_has_gone_ends_its_work(served: tuple[App, socket.socket], more: bytes) -> None:
    app, connection = served
    connection.sendall(GET.replace(b"echo", b"wait") + more[: 2**19])
    assert app.waiting.wait(PATIENCE)
    connection.close()
    assert app.left.wait(PATIENCE)


# The log -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forwarded", "logged"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"203.0.113.9, 127.0.0.1", "203.0.113.9"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"\x9b[31m", "127.0.0.1"),
        (b"fe80::1%\x9b[31m", "127.0.0.1"),
        (b'1.1.1.1 - "GET / HTTP/1.1" 200', "127.0.0.1"),
    ],
)
@on_a_loop
async def test_a_forwarded_address_is_an_address(
    forwarded: bytes, logged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(requests.log, "info", lambda _, client, *__, **___: seen.append(client))
    bench = Bench()
    bench.app.add_middleware(Observed, measured=Metrics(), line=request_line)
    wire = bench.connect(peer=("127.0.0.1", 5))
    wire.protocol.data_received(GET[:-2] + b"X-Forwarded-For: " + forwarded + b"\r\n\r\n")
    await bench.settle()
    assert [client.rpartition(":")[0] for client in seen] == [logged]


def test_the_server_leaves_the_log_of_requests_to_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.Config.configure_logging", lambda _: None)
    assert make_server(App(), Settings()).config.access_log is False
