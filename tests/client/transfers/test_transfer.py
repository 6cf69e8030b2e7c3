"""The transfer core without I/O: every byte reaches its place, for any buffers, broken connections and restarts."""

import io
import json
import logging
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.exceptions import (
    FileChanged,
    InvalidFile,
    ServerProblem,
    TimedOut,
    TransportError,
    TruncatedBody,
    UnexpectedResponse,
)
from weightwell.safetensors import etag_of
from weightwell.spec import TensorSpec
from weightwell.transfers import transfer as transfers
from weightwell.transfers.destinations import DataDestination, Document, InFile, InMemory, SafetensorsFile
from weightwell.transfers.progress import Progress
from weightwell.transfers.retry import Pause, Retry
from weightwell.transfers.spans import Span
from weightwell.transfers.transfer import Ask, Flow, Step, Transfer


def file_of(shape: list[int], data: bytes) -> bytes:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}
    tensor = {"scheme": "ones", "shape": shape, "dtype": "float32", "seed": 0}
    metadata = {"format": "pt", "spec": json.dumps({"generator": "philox", "tensors": {"weight": tensor}})}
    header = json.dumps({"__metadata__": metadata, "weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


SPEC = TensorSpec.of((5, 7), "ones")
DATA = bytes(range(140))
FILE = file_of([5, 7], DATA)
HEAD = len(FILE) - len(DATA)
ETAG = etag_of(FILE[:HEAD])
REQUEST = httpx.Request("GET", "http://weights.test/init")
BROKEN = httpx.ReadError("broken", request=REQUEST)


def transfer_of(data: DataDestination, wait: float | None = 1000, **options: Any) -> Transfer:
    """A transfer in a world where no time passes."""
    progress, retry = Progress("", wanted=False), Retry(wait, clock=lambda: 0.0)
    return Transfer(SPEC.request, SafetensorsFile(SPEC.accept, data), retry, progress, **options)


class Wire:
    """A connection without a network: it takes the steps of a flow, and answers its requests with ``FILE``.

    ``asked`` holds the ranges that were requested, and ``started`` the flows that the flow wants to be run.
    """

    def __init__(self, flow: Flow):
        self.asked: list[str] = []
        self.started: list[Flow] = []
        self.pauses: list[Pause] = []
        self.flow = flow
        self.body = b""
        self.step: Step | None = next(flow)

    def send(self, value: Any) -> None:
        try:
            self.step = self.flow.send(value)
        except StopIteration:
            self.step = None

    def throw(self, error: Exception) -> None:
        try:
            self.step = self.flow.throw(error)
        except StopIteration:
            self.step = None

    def answer(
        self, *, ranges: bool = True, etag: str = ETAG, sent: int = len(FILE), cost: str = "proportional"
    ) -> None:
        """Answer a request; ``sent`` bytes of the body will come."""
        assert isinstance(self.step, Ask)
        wanted = self.step.options["headers"].get("Range", "")
        self.asked.append(wanted)
        first, _, last = wanted.removeprefix("bytes=").partition("-") if ranges else ("", "", "")
        start, stop = int(first or 0), int(last) + 1 if last else len(FILE)
        headers = {"ETag": etag, "Content-Length": str(stop - start), transfers.RANGE_COST: cost}
        if wanted and ranges:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(FILE)}"
        self.body = FILE[start:stop][:sent]
        self.send(httpx.Response(206 if wanted and ranges else 200, headers=headers, request=REQUEST))

    def receive(self, count: int = len(FILE)) -> None:
        """Receive some bytes of the body."""
        assert isinstance(self.step, memoryview)
        data = self.body[: min(count, len(self.step))]
        self.step[: len(data)] = data
        self.body = self.body[len(data) :]
        self.send(len(data))

    def go_on(self, count: int = len(FILE), **answer: Any) -> None:
        """Take one step of any kind."""
        if isinstance(self.step, Ask):
            self.answer(**answer)
        elif isinstance(self.step, memoryview):
            self.receive(count)
        elif isinstance(self.step, Pause):
            self.pauses.append(self.step)
            self.send(None)
        elif self.step is not None:
            self.started += self.step
            self.send(None)

    def finish(self) -> None:
        """Take all steps."""
        while self.step is not None:
            self.go_on()


def body_begun(transfer: Transfer, **answer: Any) -> Wire:
    """The first connection of a transfer, when the head of the file has come."""
    wire = Wire(transfer.flow())
    wire.answer(**answer)
    position = 0
    while isinstance(wire.step, memoryview) and position < HEAD:
        position += len(wire.step)
        wire.receive()
    return wire


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is worth several connections."""
    monkeypatch.setattr(transfers, "WIDE", 1)


# One connection -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(1, 60)), max_size=8))
def test_any_pieces_and_breaks_give_the_same_tensor(attempts: list[tuple[int, int]]) -> None:
    memory = InMemory()
    transfer = transfer_of(memory)
    wire = Wire(transfer.flow())
    for sent, piece in [*attempts, (len(FILE), 33)]:
        while wire.step is not None and not (isinstance(wire.step, memoryview) and not wire.body and wire.asked):
            asks = isinstance(wire.step, Ask)
            wire.go_on(piece, sent=sent)
            if asks and not wire.body:
                break
        if wire.step is not None and isinstance(wire.step, memoryview) and not transfer.complete:
            wire.throw(BROKEN)
    wire.finish()
    assert transfer.complete
    assert bytes(memory.memory) == DATA


def test_an_end_before_the_last_byte_is_truncation() -> None:
    wire = Wire(transfer_of(InMemory(), wait=0).flow())
    wire.answer(sent=HEAD + 3)
    with pytest.raises(TruncatedBody) as caught:
        wire.finish()
    assert (caught.value.received, caught.value.promised) == (HEAD + 3, len(FILE))


def test_more_than_the_promised_body_is_refused() -> None:
    wire = Wire(transfer_of(InMemory()).flow())
    wire.answer()
    wire.body += b"\0"
    with pytest.raises(UnexpectedResponse, match="longer than its Content-Length"):
        wire.finish()


def test_a_connection_that_breaks_after_the_last_byte_breaks_nothing() -> None:
    transfer = transfer_of(InMemory())
    wire = Wire(transfer.flow())
    wire.answer()
    while wire.body:
        wire.receive()
    wire.throw(BROKEN)
    assert wire.step is None
    assert transfer.complete


def test_a_tensor_without_elements_is_all_header() -> None:
    spec, file, memory = TensorSpec.of((0, 3), "ones"), file_of([0, 3], b""), InMemory()
    transfer = Transfer(spec.request, SafetensorsFile(spec.accept, memory), Retry(), Progress("", wanted=False))
    wire = Wire(transfer.flow())
    wire.send(httpx.Response(200, headers={"Content-Length": str(len(file))}, request=REQUEST))
    wire.body = file
    wire.finish()
    assert (transfer.complete, len(memory.memory)) == (True, 0)


def test_an_empty_document_is_no_document() -> None:
    document = Document(lambda answer: answer)
    wire = Wire(Transfer(SPEC.request, document, Retry(), Progress("", wanted=False)).flow())
    with pytest.raises(UnexpectedResponse):
        wire.send(httpx.Response(200, headers={"Content-Length": "0"}, request=REQUEST))


# What is there already -----------------------------------------------------------------------------------------------


class Half(InMemory):
    """Memory in which some of the data is there from an earlier attempt."""

    def __init__(self, *there: Span):
        super().__init__()
        self.memory = bytearray(len(DATA))
        for start, stop in there:
            self.memory[start:stop] = DATA[start:stop]
        self._there = there

    def open(self, head: bytes, size: int, etag: str | None) -> tuple[Span, ...]:
        super().open(head, size, etag)
        return self._there if etag else ()


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ([(0, 140)], []),
        ([(0, 100)], [f"bytes={HEAD + 100}-"]),
        ([(40, 140)], []),
        ([(40, 60), (80, 100)], [f"bytes={HEAD + 60}-{HEAD + 79}", f"bytes={HEAD + 100}-"]),
        ([(0, 10), (20, 30)], [f"bytes={HEAD + 10}-{HEAD + 19}", f"bytes={HEAD + 30}-"]),
    ],
)
def test_what_is_there_is_not_requested(there: list[Span], asked: list[str]) -> None:
    half = Half(*there)
    transfer = transfer_of(half)
    wire = Wire(transfer.flow())
    wire.finish()
    assert wire.asked == ["", *asked]
    assert transfer.complete
    assert bytes(half.memory) == DATA


# Several connections -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_ranges_are_equal() -> None:
    transfer = transfer_of(InMemory(), connections=4)
    wire = body_begun(transfer)
    wire.finish()
    others = [Wire(flow) for flow in wire.started]
    for other in others:
        other.finish()
    edges = [HEAD + 35, HEAD + 69, HEAD + 70, HEAD + 104, HEAD + 105]
    assert [other.asked for other in others] == [
        [f"bytes={edges[0]}-{edges[1]}"],
        [f"bytes={edges[2]}-{edges[3]}"],
        [f"bytes={edges[4]}-"],
    ]
    assert wire.asked == [""]
    assert transfer.complete


@given(st.randoms(use_true_random=True))
def test_any_number_of_connections_that_break_anywhere_bring_the_same_tensor(random: Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfers, "WIDE", 1)
        memory = InMemory()
        transfer = transfer_of(memory, connections=random.randrange(1, 7))
        wires = [Wire(transfer.flow())]
        while wires:
            wire = random.choice(wires)
            if isinstance(wire.step, memoryview) and random.random() < 0.1:
                wire.throw(BROKEN)
            else:
                wire.go_on(random.randrange(1, 20))
            wires += [Wire(flow) for flow in wire.started]
            wire.started.clear()
            if wire.step is None:
                wires.remove(wire)
        assert transfer.complete
        assert bytes(memory.memory) == DATA


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("cost", ["whole", ""])
def test_a_file_whose_ranges_cost_as_much_as_the_whole_has_one_connection(cost: str) -> None:
    wire = body_begun(transfer_of(InMemory(), connections=8), cost=cost)
    wire.finish()
    assert (wire.asked, wire.started) == ([""], [])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_a_file_without_a_strong_etag_has_one_connection(etag: str) -> None:
    wire = body_begun(transfer_of(InMemory(), connections=8), etag=etag)
    wire.finish()
    assert (wire.asked, wire.started) == ([""], [])


@pytest.mark.usefixtures("small")
def test_a_stream_has_one_connection() -> None:
    wire = body_begun(transfer_of(InFile(io.BytesIO()), connections=8))
    wire.finish()
    assert (wire.asked, wire.started) == ([""], [])


def test_a_file_that_is_not_long_has_one_connection() -> None:
    wire = body_begun(transfer_of(InMemory(), connections=8))
    wire.finish()
    assert (wire.asked, wire.started) == ([""], [])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("etag", "message"), [('"two"', "has changed since"), (ETAG, "sent the whole file")])
def test_a_whole_file_in_place_of_a_range_starts_over(etag: str, message: str) -> None:
    memory = InMemory()
    transfer = transfer_of(memory, connections=2)
    wire = body_begun(transfer)
    wire.go_on()
    other = Wire(wire.started[0])
    with pytest.raises(FileChanged, match=message) as caught:
        other.answer(ranges=False, etag=etag)
    transfer.start_over(caught.value)
    wires = [Wire(transfer.flow())]
    for each in wires:
        each.finish()
        wires += [Wire(flow) for flow in each.started]
    assert len(wires) == (2 if etag != ETAG else 1)
    assert transfer.complete
    assert bytes(memory.memory) == DATA


def test_a_file_that_changes_every_time_is_an_error() -> None:
    transfer = transfer_of(InMemory(), wait=100)
    for now in (0.0, 99.0):
        transfer.retry.clock = lambda now=now: now  # type: ignore[misc]
        transfer.start_over(FileChanged("again"))
    transfer.retry.clock = lambda: 100.0
    with pytest.raises(FileChanged, match="again"):
        transfer.start_over(FileChanged("again"))


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        httpx.LocalProtocolError("our own mistake", request=REQUEST),
        httpx.ProxyError("the proxy refuses", request=REQUEST),
        httpx.PoolTimeout("our own connections are busy", request=REQUEST),
        httpx.ReadTimeout("before any answer", request=REQUEST),
        InvalidFile("another file"),
    ],
)
def test_what_would_only_happen_again_is_not_tried_again(error: Exception) -> None:
    with pytest.raises((TransportError, InvalidFile)):
        Wire(transfer_of(InMemory()).flow()).throw(error)


@pytest.mark.parametrize("error", [RecursionError("too deep"), UnicodeError("not ASCII")])
def test_an_answer_that_python_cannot_read_is_unexpected(error: Exception) -> None:
    with pytest.raises(UnexpectedResponse, match="the answer cannot be read"):
        Wire(transfer_of(InMemory()).flow()).throw(error)


def test_a_pause_that_ends_after_the_deadline_is_not_made() -> None:
    wire = Wire(transfer_of(InMemory(), deadline=0.2).flow())
    with pytest.raises(TimedOut, match="deadline="):
        wire.throw(httpx.ConnectError("refused", request=REQUEST))


def test_the_text_of_an_error_is_read_up_to_a_limit() -> None:
    wire = Wire(transfer_of(InMemory(), wait=0).flow())
    wire.send(httpx.Response(500, request=REQUEST))
    wire.body = b"x" * (10 * transfers.MAX_ERROR)
    with pytest.raises(ServerProblem, match="xxx"):
        wire.finish()
    assert 0 <= 9 * transfers.MAX_ERROR - len(wire.body) < 4096


def test_a_wait_is_announced_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(transfer_of(InMemory(), wait=None).flow())
    with caplog.at_level(logging.WARNING, logger="weightwell"):
        wire.throw(httpx.ConnectError("refused", request=REQUEST))
    assert isinstance(wire.step, Pause)
    assert caplog.messages == [
        "no server answers at http://weights.test (refused): start a server with `weightwell-service`, or give the "
        "address of one: base_url=, --url or WEIGHTWELL_URL; "
        f"trying again in {wire.step.seconds:.1f} s, for up to 3 s more; wait= sets this"
    ]
