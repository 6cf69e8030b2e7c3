"""How drawing follows reading: nothing is drawn for nobody, and nobody waits for what somebody else does not read.

A probe stands in for the generator: it says what was drawn of it, and waits or fails where a test says so.
"""

import gc
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from weightwell_engine.engine import Engine
from weightwell_engine.generators import Drawing
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.plan import Piece, Plan
from weightwell_service import file_response
from weightwell_service.app import create_app
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]
Probing = Callable[..., AbstractContextManager[tuple[httpx.Client, "Probe"]]]

PATIENCE = 30.0
CHUNKS = 1024
QUERY = {"shape": f"{CHUNKS},{2**18}", "scheme": "ones", "generator": "torch"}  # chunks of 1 MiB, in float32

# What a stalled connection may hold: chunks drawn ahead, the server's buffers, and the kernel's on both sides.
FEW = 32


class Probe:
    """A generator that draws nothing in particular; ``at`` is called in its thread with the number of each chunk."""

    name = "torch"
    identity = "probe"
    portable = True
    chunk = 2**20
    concurrency = 1

    def __init__(self, at: Callable[[int], None], nbytes: int):
        self.at = at
        self.nbytes = nbytes
        self.drawn = 0
        self.drawn_nbytes = 0
        self.opened = 0
        self.closed = threading.Event()

    def warm_up(self) -> None:
        """Be ready."""

    def check(self, plan: Plan) -> None:
        """Draw everything."""

    def instant(self, plan: Plan) -> bool:
        """Be drawn in a thread."""
        del plan
        return False

    def footprint(self, plan: Plan) -> int:
        """Block as the test demands."""
        del plan
        return self.nbytes

    def kept(self, plan: Plan) -> int:
        """Keep all that it holds."""
        del plan
        return self.nbytes

    def cost(self, piece: Piece) -> int:
        """Take a nanosecond for a byte."""
        return piece.nbytes

    def before(self, piece: Piece) -> int:
        """Need nothing before a piece."""
        del piece
        return 0

    def whole(self, piece: Piece) -> int:
        """Draw no matrices."""
        del piece
        return 0

    def approach(self, drawing: Drawing, piece: Piece) -> Iterator[None]:
        """Draw nothing before a piece."""
        del drawing, piece
        return iter(())

    def allocate(self, nbytes: int) -> memoryview:
        """Return memory of zeros."""
        return memoryview(bytearray(nbytes))

    def open(self, plan: Plan) -> "Probe.Drawing":
        """Open a drawing."""
        del plan
        self.opened += 1
        return Probe.Drawing(self)

    class Drawing:
        """One file in the drawing."""

        def __init__(self, probe: "Probe"):
            self._probe = probe

        def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
            """Count a chunk."""
            assert sum(piece.nbytes for piece in pieces) == len(out)
            self._probe.drawn += 1
            self._probe.drawn_nbytes += len(out)
            self._probe.at(self._probe.drawn - 1)

        def close(self) -> None:
            """Notice that nothing more will be drawn."""
            self._probe.closed.set()


@pytest.fixture
def probing(serve: Serve) -> Probing:
    """A service that draws with a probe: ``with probing(at=..., nbytes=..., **settings) as (client, probe):``."""

    @contextmanager
    def probing(
        at: Callable[[int], None] = lambda _: None, nbytes: int = 0, **options: Any
    ) -> Iterator[tuple[httpx.Client, Probe]]:
        probe = Probe(at, nbytes)
        engine = Engine(Cpu(), threads=2, generators={probe.name: probe})
        app = create_app(Settings(**{"threads": 2, **options}), engine)
        with serve(app) as url, httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
            yield client, probe

    return probing


@contextmanager
def reader(client: httpx.Client, query: dict[str, str]) -> Iterator[socket.socket]:
    """Ask for a file and read nothing of it."""
    url = client.build_request("GET", "/init", params=query).url
    with socket.socket() as connection:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.connect((url.host, url.port))
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n" % url.raw_path)
        yield connection


# Drawing no more than is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("HEAD", {}, 200),
        ("GET", {"if-none-match": "*"}, 304),
        ("GET", {"if-match": '"another"'}, 412),
        ("GET", {"range": "bytes=99999999999-"}, 416),
    ],
)
def test_an_answer_without_a_file_draws_nothing(
    probing: Probing, method: str, headers: dict[str, str], status: int
) -> None:
    with probing() as (client, probe):
        assert client.request(method, "/init", params=QUERY, headers=headers).status_code == status
        assert probe.opened == 0


def test_a_range_draws_its_own_bytes_only(probing: Probing) -> None:
    with probing() as (client, probe):
        got = client.get("/init", params=QUERY, headers={"range": f"bytes={500 * 2**20}-{502 * 2**20}"})
        assert len(got.content) == 2 * 2**20 + 1
        assert probe.drawn_nbytes <= 2 * 2**20 + 64  # with the rest of the elements at both ends


def test_a_disconnect_stops_the_drawing(probing: Probing) -> None:
    with probing() as (client, probe):
        with reader(client, QUERY) as connection:
            connection.recv(1)
        assert probe.closed.wait(PATIENCE)
        assert probe.drawn < FEW


def test_a_disconnect_before_the_first_chunk_stops_the_drawing(probing: Probing) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        begun.set()
        assert go.wait(PATIENCE)

    with probing(at=wait) as (client, probe):
        with reader(client, QUERY):
            assert begun.wait(PATIENCE)
        client.get("/health/live")
        go.set()
        assert probe.closed.wait(PATIENCE)
        assert probe.drawn < FEW


def test_a_stalled_client_costs_few_chunks_and_is_closed(probing: Probing, caplog: pytest.LogCaptureFixture) -> None:
    with probing(stall_timeout=0.2) as (client, probe), reader(client, QUERY) as connection:
        assert probe.closed.wait(PATIENCE)
        assert probe.drawn < FEW
        with suppress(ConnectionResetError):  # or an early end, if all that had been sent is read first
            assert sum(iter(lambda: len(connection.recv(2**20)), 0)) < FEW * 2**20
    assert "closed a stalled connection" in caplog.text


def test_stalled_clients_do_not_delay_others(probing: Probing) -> None:
    with (
        probing(threads=1) as (client, _),
        reader(client, QUERY) as first,
        reader(client, QUERY) as second,
    ):
        first.recv(1)
        second.recv(1)
        assert len(client.get("/init", params={**QUERY, "slice": "0:20,:"}).content) > 20 * 2**20


def test_the_service_answers_while_all_its_threads_draw(probing: Probing) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        begun.set()
        assert go.wait(PATIENCE)

    with probing(at=wait, threads=1) as (client, _), ThreadPoolExecutor(1) as elsewhere:
        drawing = elsewhere.submit(client.get, "/init", params={**QUERY, "slice": "0:3,:"})
        try:
            assert begun.wait(PATIENCE)
            assert client.get("/health/live").status_code == 200
            assert client.head("/init", params=QUERY).status_code == 200
        finally:
            go.set()
        assert drawing.result().status_code == 200


# Failing -------------------------------------------------------------------------------------------------------------


def failing_at(piece: int) -> Callable[[int], None]:
    def fail(number: int) -> None:
        if number == piece:
            raise RuntimeError("secret")

    return fail


def test_a_failure_before_the_first_byte_is_a_problem_that_tells_nothing(probing: Probing) -> None:
    with probing(at=failing_at(0)) as (client, _):
        got = client.get("/init", params=QUERY)
        assert got.status_code == 500
        assert got.headers["content-type"] == "application/problem+json"
        assert got.headers["cache-control"] == "no-store"
        assert got.headers["connection"] == "close"
        assert got.json()["status"] == 500
        assert "secret" not in got.text


def test_a_failure_after_the_first_byte_leaves_a_body_that_is_seen_to_be_short(probing: Probing) -> None:
    with probing(at=failing_at(5)) as (client, _):
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            client.get("/init", params=QUERY)
        assert client.get("/health/live").status_code == 200


def test_a_failure_is_in_the_log(probing: Probing, caplog: pytest.LogCaptureFixture) -> None:
    with probing(at=failing_at(0)) as (client, _), caplog.at_level(logging.ERROR):
        client.get("/init", params=QUERY)
    assert "secret" in caplog.text


def test_whole_tensors_do_not_delay_others_and_stop_at_a_disconnect(serve: Serve) -> None:
    app = create_app(Settings(threads=1))
    with serve(app) as url, httpx.Client(base_url=url, trust_env=False) as client, ThreadPoolExecutor(1) as elsewhere:
        large = {"shape": "4000,4000", "scheme": "orthogonal"}
        drawing = elsewhere.submit(httpx.get, f"{url}/init", params=large, timeout=PATIENCE, trust_env=False)
        while not app.state.service.resources.budget.used:
            client.get("/health/live")
        small = client.get("/init", params={"shape": "3", "scheme": "normal"})
        assert small.status_code == 200
        assert not drawing.done()
        assert len(drawing.result().content) > 4 * 4000**2
        with reader(client, large):
            while not app.state.service.resources.budget.used:
                client.get("/health/live")
        while app.state.service.resources.budget.used:
            client.get("/health/live")
        assert client.get("/init", params={"shape": "64,64", "scheme": "orthogonal"}).status_code == 200


# Memory --------------------------------------------------------------------------------------------------------------


class Gate:
    """Lets nothing be drawn until it is opened; ``begun`` is set when something would be."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self, _: int) -> None:
        self.begun.set()
        assert self.open.wait(PATIENCE)


SHORT = {**QUERY, "slice": "0:3,:"}


def test_memory_in_use_is_waited_for(probing: Probing) -> None:
    gate = Gate()
    with probing(at=gate, nbytes=60, max_resident_bytes=100) as (client, probe), ThreadPoolExecutor(2) as elsewhere:
        first = elsewhere.submit(client.get, "/init", params=SHORT)
        assert gate.begun.wait(PATIENCE)
        second = elsewhere.submit(client.get, "/init", params=SHORT)
        client.get("/health/live")
        assert probe.opened == 1
        gate.open.set()
        assert first.result().status_code == second.result().status_code == 200


def test_memory_that_does_not_come_free_in_time_is_busy(probing: Probing) -> None:
    gate = Gate()
    limits = {"max_resident_bytes": 100, "queue_timeout": 0.01}
    with probing(at=gate, nbytes=60, **limits) as (client, _), ThreadPoolExecutor(1) as elsewhere:
        first = elsewhere.submit(client.get, "/init", params=SHORT)
        try:
            assert gate.begun.wait(PATIENCE)
            refused = client.get("/init", params=SHORT)
        finally:
            gate.open.set()
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:weightwell:problem:busy"
        assert int(refused.headers["retry-after"]) > 0
        assert first.result().status_code == client.get("/init", params=SHORT).status_code == 200


def test_more_responses_than_are_sent_at_once_are_busy(probing: Probing) -> None:
    gate = Gate()
    with probing(at=gate, max_responses=1) as (client, _), ThreadPoolExecutor(1) as elsewhere:
        first = elsewhere.submit(client.get, "/init", params=SHORT)
        try:
            assert gate.begun.wait(PATIENCE)
            refused = client.get("/init", params=SHORT)
        finally:
            gate.open.set()
        assert refused.status_code == 503
        assert "WEIGHTWELL_MAX_RESPONSES" in refused.json()["detail"]
        assert first.result().status_code == client.get("/init", params=SHORT).status_code == 200


def test_what_is_not_drawn_in_time_is_busy_and_the_service_not_ready(probing: Probing) -> None:
    gate = Gate()
    with probing(at=gate, drawing_timeout=0.05) as (client, probe):
        try:
            refused = client.get("/init", params=SHORT)
            assert refused.status_code == 503
            assert "nothing was drawn for 0.05 s" in refused.json()["detail"]
            assert probe.closed.is_set()
            stuck = client.get("/health/ready")
            assert stuck.status_code == 503
            assert stuck.json()["reason"].startswith("the lane draw-torch has work and has drawn nothing for")
        finally:
            gate.open.set()
        while client.get("/health/ready").status_code != 200:
            pass


def test_memory_that_the_machine_does_not_have_is_busy(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with probing(at=fail) as (client, probe):
        drawing = client.get("/init", params=SHORT)
        monkeypatch.setattr(probe, "check", fail)
        planning = client.get("/init", params={**SHORT, "seed": "1"})
    for refused in (drawing, planning):
        assert refused.status_code == 503
        assert "this machine is out of memory" in refused.json()["detail"]


def test_a_generator_that_is_switched_off_is_nowhere(serve: Serve) -> None:
    with serve(create_app(Settings(threads=1, torch_generator="off"))) as url, httpx.Client(base_url=url) as client:
        refused = client.get("/init", params=SHORT)
        assert refused.status_code == 422
        assert "switched off on this server (WEIGHTWELL_TORCH_GENERATOR=off)" in refused.json()["detail"]
        assert set(client.get("/health/ready").json()["generators"]) == {"philox"}
        assert [each["name"] for each in client.get("/schemes").json()["generators"]] == ["philox"]


@pytest.mark.parametrize("piece", [0, 5])
def test_memory_comes_free_after_a_failure(probing: Probing, piece: int) -> None:
    with probing(at=failing_at(piece), nbytes=60, max_resident_bytes=100) as (client, probe):
        try:
            client.get("/init", params=QUERY)
        except httpx.RemoteProtocolError:
            assert piece > 0
        probe.at = lambda _: None
        assert client.get("/init", params={**QUERY, "slice": "0:3,:"}).status_code == 200


def test_a_file_that_takes_more_memory_than_there_is_is_refused(probing: Probing) -> None:
    with probing(nbytes=101, max_resident_bytes=100) as (client, probe):
        assert client.head("/init", params=QUERY).status_code == 413
        assert probe.opened == 0


# Many at once --------------------------------------------------------------------------------------------------------

REQUESTS = [
    {"shape": "700,701", "scheme": "kaiming_normal", "seed": "1"},
    {"shape": "700,701", "scheme": "kaiming_normal", "seed": "2"},
    {"shape": "700,701", "scheme": "uniform", "dtype": "float64"},
    {"shape": "300,301", "scheme": "trunc_normal"},
    {"shape": "200,300", "scheme": "orthogonal"},
    {"shape": "200,300", "scheme": "sparse", "sparsity": "0.5"},
    {"shape": "700,701", "scheme": "normal", "dtype": "bfloat16"},
    {"shape": "1200,1201", "scheme": "eye"},
]


def test_long_bodies_are_parsed_one_by_one_and_do_not_delay_others(
    probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Semaphore(0), threading.Event()

    def wait(_: Plan) -> None:
        begun.release()
        assert go.wait(PATIENCE)

    with probing() as (client, probe), ThreadPoolExecutor(2) as elsewhere:
        long = {**QUERY, "shape": "3", "seed": "7", "slice": " " * 2**17 + ":"}
        monkeypatch.setattr(probe, "check", wait)
        reading = [elsewhere.submit(client.post, "/plan", json=long) for _ in range(2)]
        try:
            assert begun.acquire(timeout=PATIENCE)
            assert client.post("/plan", json={**QUERY, "generator": "philox"}).status_code == 200
            assert not begun.acquire(blocking=False)
        finally:
            go.set()
        assert {each.result().status_code for each in reading} == {200}
        assert begun.acquire(timeout=PATIENCE)


def test_ranges_of_one_file_plan_it_once(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Plan] = []
    with probing() as (client, probe):
        monkeypatch.setattr(probe, "check", checked.append)
        for start in range(0, 2000, 100):
            got = client.get("/init", params=QUERY, headers={"range": f"bytes={start}-{start + 99}"})
            assert got.status_code == 206
    assert len(checked) == 1


def test_a_small_file_takes_no_thread(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    query = {**QUERY, "shape": "16,16"}
    with probing(at=lambda _: threads.append(threading.current_thread().name)) as (client, probe):
        assert client.get("/init", params=query).status_code == 200
        monkeypatch.setattr(probe, "instant", lambda _: True)
        assert client.get("/init", params=query).status_code == 200
        assert client.get("/init", params=QUERY, headers={"range": "bytes=1000-1099"}).status_code == 206
    small_in_a_thread, small, *large = [name.partition("_")[0] for name in threads]
    assert (small_in_a_thread, small, set(large)) == ("draw-torch", "uvicorn", {"draw-torch"})


def test_a_small_file_is_drawn_once_and_kept(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_response, "_KEPT", 2)

    def get(client: httpx.Client, name: str, **headers: str) -> bytes:
        return client.get("/init", params={**QUERY, "shape": "16,16", "name": name}, headers=headers).content

    with probing() as (client, probe):
        monkeypatch.setattr(probe, "instant", lambda _: True)
        part = get(client, "a", range="bytes=8-99")
        assert probe.drawn == 0  # bytes of the header
        whole = get(client, "a")
        assert (get(client, "a"), get(client, "a", range="bytes=8-99"), whole[8:100]) == (whole, part, part)
        assert probe.drawn == 1
        get(client, "b")
        get(client, "b", range="bytes=-8")
        assert probe.drawn == 2
        get(client, "c")  # one too many
        assert [get(client, name) for name in "cba"][-1] == whole
        assert probe.drawn == 5
        for _ in range(2):
            client.get("/init", params={**QUERY, "shape": "1024"})  # too large to be kept
        assert probe.drawn == 7


def test_what_is_there_at_the_start_is_not_looked_through_for_garbage(probing: Probing) -> None:
    gc.unfreeze()  # what the tests have frozen
    with probing() as (client, _):
        assert client.get("/health/ready").status_code == 200
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == 50_000
    assert gc.get_threshold()[0] < 50_000


def test_requests_at_once_are_answered_as_each_alone(http: httpx.Client) -> None:
    def body(query: dict[str, str]) -> bytes:
        return http.get("/init", params=query).content

    alone = [body(query) for query in REQUESTS]
    with ThreadPoolExecutor(8) as readers:
        assert list(readers.map(body, REQUESTS * 3)) == alone * 3
