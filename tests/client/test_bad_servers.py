"""A malicious or broken server causes an exception, but no hang and no growth of memory."""

import gzip
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import weightwell
from weightwell.transfers import destinations, wire
from weightwell.transfers import transfer as transfers

if TYPE_CHECKING:
    from tests.client.conftest import Answer, Asked, Server

Connect = Callable[..., Any]

SHAPE = (300, 700)
SIZE = 840_000
MIB = 1 << 20
BOMB = gzip.compress(bytes(64 * MIB))


class RawServer:
    """Sends the same bytes to every connection, over and over where they are ``endless``, until the client leaves."""

    def __init__(self, sent: bytes, *, endless: bytes = b"", pause: float = 0.0):
        self.bytes_sent = 0
        self._sent, self._endless, self._pause = sent, endless, pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._stopping.set()
        socket.create_connection(self._listener.getsockname()).close()
        for thread in [self._acceptor, *self._threads]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._stopping.is_set():
                return connection.close()
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(self._sent)
            while self._endless and not self._stopping.wait(self._pause):
                connection.sendall(self._endless)
                self.bytes_sent += len(self._endless)


@pytest.fixture
def raw() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(*args: Any, **options: Any) -> RawServer:
        servers.append(RawServer(*args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def memory() -> Iterator[Callable[[], int]]:
    """The peak of the memory that Python has taken since the test began, in bytes."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def head(status: str, **headers: object) -> bytes:
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode("latin-1")


# Bodies that are no tensor --------------------------------------------------------------------------------------------


def test_an_endless_error_is_read_up_to_a_limit(
    raw: Callable[..., RawServer], connect: Connect, memory: Callable[[], int]
) -> None:
    server = raw(head("500 Oops", Content_Length=1 << 40), endless=b"x" * MIB)
    with pytest.raises(weightwell.ServerProblem, match="Oops: xxx"):
        connect(server.url, wait=0).gain("relu")
    assert memory() < 8 * MIB


def test_an_error_that_is_compressed_is_not_decompressed(
    fake: "Server", connect: Connect, memory: Callable[[], int]
) -> None:
    fake.faults.append(fake.answer(500, BOMB, Content_Encoding="gzip"))
    with pytest.raises(weightwell.ServerProblem):
        connect(fake.url, wait=0).gain("relu")
    assert memory() < 8 * MIB


def test_a_document_is_no_larger_than_a_limit(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.change(Content_Length=str(destinations.MAX_DOCUMENT + 1)))
    with pytest.raises(weightwell.UnexpectedResponse, match="a JSON document of at most"):
        connect(fake.url).gain("relu")


@pytest.mark.parametrize("total", [1 << 30, 1 << 50])
@pytest.mark.parametrize("verb", ["gain", "init"])
def test_a_promised_length_takes_no_memory(
    raw: Callable[..., RawServer], connect: Connect, memory: Callable[[], int], verb: str, total: int
) -> None:
    length = min(total, destinations.MAX_DOCUMENT) if verb == "gain" else total
    prefix = (99_999_000).to_bytes(8, "little")
    server = raw(head("200 OK", Content_Length=length) + prefix, endless=b" ", pause=0.05)
    client = connect(server.url, wait=0, deadline=0.5)
    with pytest.raises(weightwell.WeightwellError):
        client.gain("relu") if verb == "gain" else client.init(3, "ones", framework="numpy")
    assert memory() < 8 * MIB


DEEP = b"[" * 100_000


@pytest.mark.parametrize("status", [200, 422])
def test_json_that_is_too_deep_is_an_unexpected_response(fake: "Server", connect: Connect, status: int) -> None:
    fake.faults.append(fake.answer(status, DEEP + b"]" * 100_000))
    with pytest.raises((weightwell.UnexpectedResponse, weightwell.InvalidRequest)):
        connect(fake.url).gain("relu")


# Heads ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("etag", ['"caf\xe9"', '"a b"', '"a\x7f"', '"x'])
def test_an_etag_that_cannot_be_sent_back_is_none(fake: "Server", connect: Connect, etag: str) -> None:
    def odd(_: "Asked", answer: "Answer") -> "Answer":
        return replace(answer.with_headers(ETag=etag.encode("latin-1").decode("latin-1")), sent=500_000)

    fake.faults.append(odd)
    tensor = connect(fake.url).init(SHAPE, "ones")
    assert np.asarray(tensor).tobytes() == fake.pattern(SIZE)
    assert "if-range" not in fake.requests[1].headers


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "0x10"])
def test_a_length_that_is_no_length_is_refused(fake: "Server", connect: Connect, length: str) -> None:
    fake.faults.append(fake.change(Content_Length=length))
    with pytest.raises((weightwell.UnexpectedResponse, weightwell.TransportError)):
        connect(fake.url, wait=0).gain("relu")


def test_endless_informational_responses_do_not_extend_the_timeout(
    raw: Callable[..., RawServer], connect: Connect
) -> None:
    server = raw(b"", endless=head("100 Continue") + head("103 Early Hints", Link="</x>"), pause=0.01)
    before = time.monotonic()
    with pytest.raises(weightwell.TimedOut, match="a larger timeout="):
        connect(server.url, wait=0, timeout=0.3).gain("relu")
    assert time.monotonic() - before < 20


def test_a_connection_that_is_used_again_is_limited_as_well(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url, timeout=0.5, wait=0)
    assert client.gain("relu") == 1.5
    fake.faults.append(fake.stall(0))
    with pytest.raises(weightwell.WeightwellError):
        client.init(3, "ones")
    assert client.gain("relu") == 1.5


# Deadlines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("long", [False, True])
def test_a_body_that_trickles_ends_at_the_deadline(
    raw: Callable[..., RawServer], fake: "Server", connect: Connect, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    monkeypatch.setattr(wire, "LONG", 1 if long else 1 << 60)
    file = fake.file_of({"shape": "300,700", "scheme": "ones", "dtype": "float32"})
    answer = head("200 OK", Content_Length=len(file), ETag=fake.etag_of(file)) + file[:5000]
    server = raw(answer, endless=b"x", pause=0.01)
    with pytest.raises(weightwell.TimedOut, match="deadline="):
        connect(server.url, deadline=0.3).init(SHAPE, "ones")


def test_pauses_end_at_the_deadline(fake: "Server", connect: Connect) -> None:
    fake.faults.extend([fake.refuse(503, retry_after="30")] * 9)
    client = connect(fake.url, deadline=20)
    with pytest.raises(weightwell.TimedOut, match="deadline="):
        client.gain("relu")
    assert client.naps == []


def test_several_connections_end_at_the_deadline(
    fake: "Server", connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "WIDE", 1)
    fake.faults.extend([fake.stall(1000)] * 8)
    with pytest.raises(weightwell.TimedOut, match="deadline="):
        connect(fake.url, deadline=0.3).init(SHAPE, "ones")


# Ranges that cost as much as the whole --------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", ["whole", ""])
def test_a_file_whose_ranges_are_expensive_comes_over_one_connection(
    fake: "Server", connect: Connect, monkeypatch: pytest.MonkeyPatch, cost: str
) -> None:
    monkeypatch.setattr(transfers, "WIDE", 1)
    fake.faults.append(fake.change(Weightwell_Range_Cost=cost))
    connect(fake.url).init(SHAPE, "normal", generator="torch")
    assert len(fake.requests) == 1


# Other bytes under the same name --------------------------------------------------------------------------------------


def other_range(asked: "Asked", answer: "Answer") -> "Answer":
    """A 206 with other bytes under the same entity tag."""
    return replace(answer, body=bytes(len(answer.body))) if "range" in asked.headers else answer


def test_verify_finds_a_range_with_other_bytes(fake: "Server", connect: Connect, tmp_path: Path) -> None:
    fake.faults.extend([fake.cut(500_000), other_range])
    with pytest.raises(weightwell.InvalidFile, match="differs from a second download"):
        connect(fake.url).save(tmp_path / "weight", SHAPE, "ones", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_verify_keeps_a_file_that_is_right(fake: "Server", connect: Connect, tmp_path: Path) -> None:
    connect(fake.url).save(tmp_path / "weight", SHAPE, "ones", verify=True)
    assert (tmp_path / "weight").read_bytes() == fake.file_of(fake.requests[0].fields)
    assert [asked.method for asked in fake.requests] == ["GET", "GET"]
    assert list(tmp_path.iterdir()) == [tmp_path / "weight"]


@pytest.mark.parametrize("target", ["stream", "device"])
def test_verify_needs_a_file_that_can_be_read_again(
    fake: "Server", connect: Connect, tmp_path: Path, target: str
) -> None:
    with (tmp_path / "weight").open("wb") as file, pytest.raises(ValueError, match="verify=True needs"):
        connect(fake.url).save(file if target == "stream" else "/dev/null", 3, "ones", verify=True)


def test_a_part_that_was_damaged_is_downloaded_again(
    fake: "Server", connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "BLOCK", 4096)
    fake.faults.append(fake.cut(500_000))
    client = connect(fake.url, wait=0)
    with pytest.raises(weightwell.TruncatedBody):
        client.save(tmp_path / "weight", SHAPE, "ones")
    with (tmp_path / "weight.part").open("r+b") as part:
        part.seek(100_000)
        part.write(bytes(4096))
    client.save(tmp_path / "weight", SHAPE, "ones")
    assert (tmp_path / "weight").read_bytes() == fake.file_of(fake.requests[0].fields)
    assert len(fake.requests) == 4  # the first attempt; the head, the damaged blocks, and the rest


@pytest.mark.parametrize("name", ["weight.part", "weight.part.json"])
def test_a_fifo_in_the_way_is_an_error(fake: "Server", connect: Connect, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="is not a regular file: remove it"):
        connect(fake.url).save(tmp_path / "weight", SHAPE, "ones")
