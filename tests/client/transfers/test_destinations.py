"""Destinations yield buffers that add up to the body, at every attempt."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.exceptions import InvalidFile, TransportError
from weightwell.transfers import destinations
from weightwell.transfers.destinations import DataDestination, Document, InFile, InMemory, SafetensorsFile


def fill(windows: Iterator[memoryview], data: bytes) -> None:
    stream = io.BytesIO(data)
    for window in windows:
        stream.readinto(window)


def receive(destination: DataDestination, head: bytes, data: bytes) -> None:
    destination.open(head, len(data), None)
    fill(destination.buffers(0, len(data)), data)


def test_a_document_may_be_received_twice() -> None:
    document = Document(lambda answer: answer["a"])
    fill(document.head(9, None, None), b'{"a": 1} ')
    fill(document.head(8, None, None), b'{"a": 2}')
    assert document.result() == 2


@given(st.binary(max_size=5000), st.integers(1, 700), st.integers(0, 5000))
def test_a_file_holds_its_head_and_its_data(data: bytes, block: int, middle: int) -> None:
    file = io.BytesIO()
    destination = InFile(file)
    destination.open(b"head", len(data), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(destinations, "BLOCK", block)
        fill(destination.buffers(0, min(middle, len(data))), data[:middle])
        fill(destination.buffers(min(middle, len(data)), len(data)), data[middle:])
    assert file.getvalue() == b"head" + data


def test_a_file_that_takes_a_part_at_a_time_gets_all() -> None:
    class Unbuffered(io.RawIOBase, BinaryIO):
        def __init__(self) -> None:
            self.taken = bytearray()

        def write(self, data: Any) -> int:
            self.taken += data[:3]
            return min(3, len(data))

    file = Unbuffered()
    receive(InFile(file), b"head", b"0123456789")
    assert file.taken == b"head0123456789"


def test_memory_that_starts_over_is_not_taken_twice() -> None:
    destination = InMemory()
    receive(destination, b"head", bytes(1 << 20))
    memory = destination.memory
    receive(destination, b"head", b"\1" * (1 << 20))
    assert destination.memory is memory
    assert memory[:] == b"\1" * (1 << 20)


def test_memory_takes_ranges_in_any_order() -> None:
    destination = InMemory()
    destination.open(b"head", 6, None)
    fill(destination.buffers(4, 6), b"ef")
    fill(destination.buffers(0, 4), b"abcd")
    assert destination.memory[:] == b"abcdef"


def test_a_new_attempt_keeps_the_bytes_before_the_file() -> None:
    file = io.BytesIO(b"before")
    file.seek(0, io.SEEK_END)
    destination = InFile(file)
    receive(destination, b"head", b"0123456789")
    receive(destination, b"head", b"abcd")
    assert file.getvalue() == b"beforeheadabcd"


def test_a_pipe_cannot_start_over() -> None:
    read, write = os.pipe()
    with open(read, "rb"), open(write, "wb") as pipe:  # noqa: PTH123 - descriptors have no path
        destination = InFile(pipe)
        receive(destination, b"head", b"abcd")
        with pytest.raises(TransportError, match="pipe"):
            destination.open(b"head", 4, None)


def test_a_disk_that_is_full_is_said_by_the_system() -> None:
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb", buffering=0) as full:
        receive(InFile(full), b"head", b"abcd")


@pytest.mark.parametrize("total", range(8))
def test_a_body_too_short_for_a_header_is_no_file(total: int) -> None:
    with pytest.raises(InvalidFile):
        next(SafetensorsFile(lambda _: 0, InMemory()).head(total, None, None))
