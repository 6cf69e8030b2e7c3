"""The core without any I/O: whatever the pieces, the breaks and the restarts, the bytes end up in their places."""

import io
import json
import logging
from random import Random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.exceptions import FileChanged, InvalidFile, TransportError, TruncatedBody, UnexpectedResponse
from weightwell.safetensors import etag_of
from weightwell.spec import TensorSpec
from weightwell.transfers import growth, shares
from weightwell.transfers import transfer as transfers
from weightwell.transfers.destinations import DataDestination, Document, InFile, InMemory, SafetensorsFile
from weightwell.transfers.progress import Progress
from weightwell.transfers.retry import Retry
from weightwell.transfers.spans import Span
from weightwell.transfers.transfer import Receiver, Transfer


def file_of(shape: list[int], data: bytes) -> bytes:
    """The file of a tensor of ones."""
    tensor = {"shape": shape, "scheme": "ones", "dtype": "float32", "seed": 0}
    metadata = {"spec": json.dumps({"generator": "philox", "tensors": {"weight": tensor}})}
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": metadata, "weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


SPEC = TensorSpec.of((5, 7), "ones")
DATA = bytes(range(140))
FILE = file_of([5, 7], DATA)
HEAD = len(FILE) - len(DATA)
ETAG = etag_of(FILE[:HEAD])
REQUEST = httpx.Request("GET", "http://weights.test/init")


def transfer_of(data: DataDestination, wait: float | None = 1000, connections: int = 1) -> Transfer:
    """A transfer in a world where no time passes."""
    progress, retry = Progress("", wanted=False), Retry(wait, clock=lambda: 0.0)
    return Transfer(SPEC.request, SafetensorsFile(SPEC.accept, data), retry, progress, connections)


def sole(transfer: Transfer) -> Receiver:
    """The first receiver of a transfer."""
    receiver = transfer.enlist()
    assert receiver is not None
    assert receiver.proceed()
    return receiver


def answer(receiver: Receiver, *, ranges: bool = True, etag: str = ETAG) -> bytes:
    """Answer the next request of a receiver; return the body."""
    headers = {"ETag": etag}
    asked = receiver.message["headers"].get("Range", "")
    wanted = asked if ranges else ""
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, stop = int(first or 0), int(last) + 1 if last else len(FILE)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(FILE)}"
    headers["Content-Length"] = str(stop - start)
    receiver.begin(httpx.Response(206 if wanted else 200, headers=headers, request=REQUEST))
    return FILE[start:stop]


def broken() -> httpx.ReadError:
    return httpx.ReadError("broken", request=REQUEST)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is worth several connections, and divided into blocks of a few bytes."""
    make_small(monkeypatch)


def make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shares, "BLOCK", 8)
    patch.setattr(shares, "LEAST", 16)
    patch.setattr(transfers, "WIDE", 1)
    patch.setattr(growth, "PERIOD", 0)
    patch.setattr(growth, "NOTICEABLE", 0)
    patch.setattr(growth, "WORTHWHILE", 0)


# One connection -------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, len(FILE) - 1), st.integers(1, 60)),
        max_size=8,
    )
)
def test_any_pieces_breaks_and_restarts_give_the_same_tensor(attempts: list[tuple[bool, int, int]]) -> None:
    memory = InMemory()
    transfer = transfer_of(memory)
    receiver = sole(transfer)
    for ranges, sent, piece in [*attempts, (True, len(FILE), 33)]:
        body = answer(receiver, ranges=ranges)[:sent]
        for start in range(0, len(body), piece):
            receiver.feed(body[start : start + piece])
        if receiver.remaining:
            receiver.wait_after(broken())
        else:
            receiver.end()
            break
    assert transfer.complete
    assert not receiver.proceed()
    assert bytes(memory.memory) == DATA


def test_windows_are_filled_in_place() -> None:
    memory = InMemory()
    receiver = sole(transfer_of(memory))
    body = answer(receiver)
    while receiver.remaining:
        window = receiver.window()
        window[:1] = body[receiver.position : receiver.position + 1]
        receiver.advance(1)
    receiver.end()
    assert bytes(memory.memory) == DATA


def test_an_end_before_the_last_byte_is_truncation() -> None:
    transfer = transfer_of(InMemory())
    receiver = sole(transfer)
    receiver.feed(answer(receiver)[:-1])
    with pytest.raises(TruncatedBody):
        receiver.end()
    assert not transfer.complete


def test_a_file_shorter_than_its_header_promises_is_refused() -> None:
    receiver = sole(transfer_of(InMemory()))
    receiver.begin(httpx.Response(200, headers={"Content-Length": str(len(FILE) - 1)}, request=REQUEST))
    with pytest.raises(InvalidFile, match="promises"):
        receiver.feed(FILE[:-1])


def test_a_tensor_without_elements_is_complete_with_its_header() -> None:
    spec = TensorSpec.of((0, 3), "ones")
    file = file_of([0, 3], b"")
    memory = InMemory()
    transfer = Transfer(spec.request, SafetensorsFile(spec.accept, memory), Retry(), Progress("", wanted=False))
    receiver = sole(transfer)
    receiver.begin(httpx.Response(200, headers={"Content-Length": str(len(file))}, request=REQUEST))
    receiver.feed(file)
    receiver.end()
    assert (transfer.complete, len(memory.memory)) == (True, 0)


def test_an_empty_document_is_no_document() -> None:
    document = Document(lambda answer: answer)
    receiver = sole(Transfer(SPEC.request, document, Retry(), Progress("", wanted=False)))
    receiver.begin(httpx.Response(200, headers={"Content-Length": "0"}, request=REQUEST))
    with pytest.raises(UnexpectedResponse):
        receiver.end()


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
def test_what_is_there_is_not_asked_for(there: list[Span], asked: list[str]) -> None:
    half = Half(*there)
    transfer = transfer_of(half)
    receiver = sole(transfer)
    ranges = []
    while receiver.proceed():
        receiver.feed(answer(receiver))
        receiver.end()
        ranges.append(f"bytes={receiver.asked[0]}-" if receiver.asked else None)
    expected = [None, *(text.partition("-")[0] + "-" for text in asked)]
    assert ranges == expected
    assert transfer.complete
    assert bytes(half.memory) == DATA


def test_what_is_there_is_asked_for_where_the_server_has_no_ranges() -> None:
    half = Half((0, 100))
    transfer = transfer_of(half)
    receiver = sole(transfer)
    while receiver.proceed():
        receiver.feed(answer(receiver, ranges=False))
        receiver.end()
    assert transfer.complete
    assert bytes(half.memory) == DATA


# Several connections -------------------------------------------------------------------------------------------------


def began(transfer: Transfer, count: int) -> list[Receiver]:
    """The receivers of a transfer whose head has come, all of them answered."""
    first = sole(transfer)
    first.feed(answer(first)[: HEAD + 1])
    receivers = [first, *(transfer.enlist() for _ in range(count - 1))]
    assert all(receivers)
    return [receiver for receiver in receivers if receiver]


@given(st.randoms(use_true_random=True))
def test_any_number_of_connections_that_break_anywhere_bring_the_same_tensor(random: Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        memory = InMemory()
        transfer = transfer_of(memory, connections=4)
        receiver = sole(transfer)
        bodies = {receiver: answer(receiver)}
        while bodies:
            receiver = random.choice(list(bodies))
            body, piece = bodies[receiver], random.randrange(20)
            receiver.feed(body[:piece])
            bodies[receiver] = body[piece:]
            if not receiver.remaining:
                receiver.end()
                del bodies[receiver]
                if receiver.proceed():
                    bodies[receiver] = answer(receiver)
            elif random.random() < 0.2:
                final = len(bodies) > 1 and random.random() < 0.3
                if receiver.wait_after(UnexpectedResponse("nonsense") if final else broken()) is None:
                    del bodies[receiver]
                else:
                    bodies[receiver] = answer(receiver)
            for _ in range(transfer.vacancies()):
                if another := transfer.enlist():
                    bodies[another] = answer(another)
        assert transfer.complete
        assert bytes(memory.memory) == DATA


@pytest.mark.usefixtures("small")
def test_a_receiver_that_gives_up_leaves_its_range_to_the_others() -> None:
    transfer = transfer_of(InMemory(), connections=2)
    first, second = began(transfer, 2)
    assert second.wait_after(InvalidFile("nonsense")) is None
    while first.proceed():
        first.feed(answer(first))
        first.end()
    assert transfer.complete


@pytest.mark.usefixtures("small")
def test_the_last_receiver_that_gives_up_says_why() -> None:
    transfer = transfer_of(InMemory(), wait=0, connections=2)
    first, second = began(transfer, 2)
    assert first.wait_after(broken()) is None
    with pytest.raises(TransportError):
        second.wait_after(broken())


@pytest.mark.usefixtures("small")
def test_a_file_that_changes_under_several_starts_over_for_all() -> None:
    transfer = transfer_of(InMemory(), connections=2)
    _, second = began(transfer, 2)
    with pytest.raises(FileChanged) as caught:
        answer(second, ranges=False, etag='"two"')
    with pytest.raises(FileChanged):
        second.wait_after(caught.value)
    transfer.start_over(caught.value)
    receiver = sole(transfer)
    receiver.feed(answer(receiver))
    receiver.end()
    assert transfer.complete


def test_a_file_that_changes_every_time_is_an_error() -> None:
    transfer = transfer_of(InMemory(), wait=100)
    for now in (0.0, 99.0):
        transfer.retry.clock = lambda now=now: now  # type: ignore[misc]
        transfer.start_over(FileChanged("again"))
    transfer.retry.clock = lambda: 100.0
    with pytest.raises(FileChanged, match="again"):
        transfer.start_over(FileChanged("again"))


@pytest.mark.usefixtures("small")
def test_a_server_that_stops_serving_ranges_is_left_to_those_who_have_one() -> None:
    transfer = transfer_of(InMemory(), connections=2)
    _, second = began(transfer, 2)
    with pytest.raises(UnexpectedResponse) as caught:
        answer(second, ranges=False)
    assert second.wait_after(caught.value) is None
    assert transfer.vacancies() == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_a_file_without_a_strong_etag_has_one_connection(etag: str) -> None:
    transfer = transfer_of(InMemory(), connections=8)
    receiver = sole(transfer)
    receiver.feed(answer(receiver, etag=etag)[:100])
    assert transfer.vacancies() == 0


@pytest.mark.usefixtures("small")
def test_a_stream_has_one_connection() -> None:
    transfer = transfer_of(InFile(io.BytesIO()), connections=8)
    receiver = sole(transfer)
    receiver.feed(answer(receiver)[:100])
    assert transfer.vacancies() == 0


def test_a_file_that_is_not_long_has_one_connection() -> None:
    transfer = transfer_of(InMemory(), connections=8)
    receiver = sole(transfer)
    receiver.feed(answer(receiver)[:100])
    assert transfer.vacancies() == 0


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
        sole(transfer_of(InMemory())).wait_after(error)


def test_a_wait_is_announced_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="weightwell"):
        wait = sole(transfer_of(InMemory(), wait=None)).wait_after(httpx.ConnectError("refused", request=REQUEST))
    assert caplog.messages == [
        "nobody answers at http://weights.test (refused): start a server with `weightwell-service`, or give the "
        "address of one: base_url=, --url or WEIGHTWELL_URL; "
        f"trying again in {wait:.1f} s, for up to 3 s more; wait= sets this"
    ]
