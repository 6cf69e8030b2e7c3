"""The core without any I/O: whatever the pieces, the breaks and the restarts, the bytes end up in their places."""

import logging
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.destinations import Document, InMemory, SafetensorsFile
from weightwell.exceptions import InvalidFile, TransportError, TruncatedBody, UnexpectedResponse
from weightwell.progress import Progress
from weightwell.retry import Retry
from weightwell.spec import TensorSpec
from weightwell.transfer import Transfer

if TYPE_CHECKING:
    pass

SPEC = TensorSpec.of((5, 7), "ones")
DATA = bytes(range(140))
HEADER = b'{"weight":{"dtype":"F32","shape":[5,7],"data_offsets":[0,140]}}'
FILE = len(HEADER).to_bytes(8, "little") + HEADER + DATA
REQUEST = httpx.Request("GET", "http://weights.test/init")


def transfer_of(memory: InMemory, retries: int = 100) -> Transfer:
    return Transfer(SPEC.request, SafetensorsFile(SPEC.check, memory), Retry(retries), Progress("", wanted=False))


def answer(transfer: Transfer, *, ranges: bool = True) -> bytes:
    """Answer the next request; return the body."""
    start = int(transfer.message["headers"].get("Range", "bytes=0-")[6:-1]) if ranges else 0
    body, headers = FILE[start:], {"ETag": '"one"'}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(FILE) - 1}/{len(FILE)}"
    headers["Content-Length"] = str(len(body))
    transfer.begin(httpx.Response(206 if start else 200, headers=headers, request=REQUEST))
    return body


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, len(FILE) - 1), st.integers(1, 60)),
        max_size=8,
    )
)
def test_any_pieces_breaks_and_restarts_give_the_same_tensor(attempts: list[tuple[bool, int, int]]) -> None:
    memory = InMemory()
    transfer = transfer_of(memory)
    for ranges, sent, piece in [*attempts, (True, len(FILE), 33)]:
        body = answer(transfer, ranges=ranges)[:sent]
        for start in range(0, len(body), piece):
            transfer.feed(body[start : start + piece])
        if transfer.remaining:
            transfer.wait_after(httpx.ReadError("broken", request=REQUEST))
        else:
            transfer.end()
            break
    assert transfer.complete
    assert bytes(memory.memory) == DATA


def test_windows_are_filled_in_place() -> None:
    memory = InMemory()
    transfer = transfer_of(memory)
    body = answer(transfer)
    while transfer.remaining:
        window = transfer.window()
        window[:1] = body[transfer.position : transfer.position + 1]
        transfer.advance(1)
    transfer.end()
    assert bytes(memory.memory) == DATA


def test_an_end_before_the_last_byte_is_truncation() -> None:
    transfer = transfer_of(InMemory())
    transfer.feed(answer(transfer)[:-1])
    with pytest.raises(TruncatedBody):
        transfer.end()
    assert not transfer.complete


def test_a_file_shorter_than_its_header_promises_is_refused() -> None:
    transfer = transfer_of(InMemory())
    transfer.begin(httpx.Response(200, headers={"Content-Length": str(len(FILE) - 1)}, request=REQUEST))
    with pytest.raises(InvalidFile, match="promises"):
        transfer.feed(FILE[:-1])


def test_a_tensor_without_elements_is_complete_with_its_header() -> None:
    spec = TensorSpec.of((0, 3), "ones")
    header = b'{"weight":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}}'
    file = len(header).to_bytes(8, "little") + header
    memory = InMemory()
    transfer = Transfer(spec.request, SafetensorsFile(spec.check, memory), Retry(), Progress("", wanted=False))
    transfer.begin(httpx.Response(200, headers={"Content-Length": str(len(file))}, request=REQUEST))
    transfer.feed(file)
    transfer.end()
    assert (transfer.complete, len(memory.memory)) == (True, 0)


def test_an_empty_document_is_no_document() -> None:
    document = Document()
    transfer = Transfer(SPEC.request, document, Retry(), Progress("", wanted=False))
    transfer.begin(httpx.Response(200, headers={"Content-Length": "0"}, request=REQUEST))
    transfer.end()
    with pytest.raises(UnexpectedResponse):
        document.parsed()


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
        transfer_of(InMemory()).wait_after(error)


def test_a_wait_is_announced_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="weightwell"):
        wait = transfer_of(InMemory()).wait_after(httpx.ConnectError("refused", request=REQUEST))
    assert caplog.messages == [
        "no server answers at http://weights.test (refused); start it there, or correct base_url; "
        f"trying again in {wait:.1f} s"
    ]
