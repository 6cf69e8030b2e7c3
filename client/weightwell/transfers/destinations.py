"""Destinations: where the bytes of a body go.

A destination hands out windows: writable memory for the next bytes. A window is full when the next one is asked for, or
when its range is over; reading sockets straight into windows is what makes receiving fast. The head of a body comes
first and in order. After it, several connections may fill disjoint ranges at once, each through windows of its own.
Starting over is asking for the head again.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from weightwell.exceptions import InvalidFile, TransportError, UnexpectedResponse
from weightwell.memory import Memory, allocate, populate
from weightwell.safetensors import PREFIX, Header, etag_of, header_length, read_header
from weightwell.transfers.spans import Span

BLOCK = 1 << 20  # bytes written to a file at once

T = TypeVar("T")


class Destination(Protocol):
    """Where a body goes. ``parallel`` says whether ranges may come in any order, and several at once."""

    parallel: bool

    def head(self, total: int, etag: str | None, tag: str | None) -> Iterator[memoryview]:
        """Yield the windows of what must come first of a body of ``total`` bytes with this strong entity tag.

        ``tag`` is the entity tag by which a part of the body can be asked for; None where it cannot be.
        """

    def there(self) -> Sequence[Span]:
        """Return the spans of the body that need not come, now that its head is known."""

    def windows(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the windows of the bytes ``[start, stop)`` after the head; their lengths add up."""


class DataDestination(Protocol):
    """Where the data of a safetensors file goes; offsets count from its first byte."""

    parallel: bool

    def open(self, head: bytes, size: int, etag: str | None) -> Sequence[Span]:
        """Prepare for ``size`` bytes of data, which follow the ``head`` of the file with this strong entity tag.

        Return the spans of the data that are there from an earlier attempt.
        """

    def windows(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the windows of the bytes ``[start, stop)``; their lengths add up."""


class Document(Generic[T]):
    """A JSON document in memory: all of it is head.

    ``read`` returns what is made of it, or raises ``UnexpectedResponse``: while the connection that brought it is still
    in use, so that one that brings the wrong answers is not used again.
    """

    parallel = False

    def __init__(self, read: Callable[[Any], T]):
        self._read = read
        self._results: list[T] = []

    def head(self, total: int, _etag: str | None, _tag: str | None) -> Iterator[memoryview]:
        """Yield one window for all of it."""
        body = bytearray(total)
        yield memoryview(body)
        try:
            document = json.loads(body)
        except ValueError as error:
            raise UnexpectedResponse(f"expected a JSON document, got {bytes(body[:80])!r}") from error
        self._results = [self._read(document)]

    def there(self) -> Sequence[Span]:
        """Return nothing: no part of a document is kept."""
        return ()

    def windows(self, _start: int, _stop: int) -> Iterator[memoryview]:
        """Yield nothing: nothing is left after the head."""
        return iter(())

    def result(self) -> T:
        """Return what was made of the document, which has come."""
        return self._results[0]


class SafetensorsFile:
    """A safetensors file: its header is read and judged before its data is given a place.

    ``accept`` takes the header and returns the size of the data, or raises ``InvalidFile``.
    """

    def __init__(self, accept: Callable[[Header], int], data: DataDestination):
        self.parallel = data.parallel
        self._accept = accept
        self._data = data
        self._offset = 0  # of the data in the file
        self._there: Sequence[Span] = ()

    def head(self, total: int, etag: str | None, tag: str | None) -> Iterator[memoryview]:
        """Yield the windows of the length of the header and of the header."""
        if total < PREFIX:
            raise InvalidFile(f"a body of {total} bytes is no safetensors file")
        prefix = bytearray(PREFIX)
        yield memoryview(prefix)
        header = bytearray(header_length(prefix, total))
        yield memoryview(header)
        size = self._accepted(read_header(header))
        self._offset = PREFIX + len(header)
        if self._offset + size != total:
            raise InvalidFile(f"the header promises {self._offset + size} bytes, and the response {total}")
        head = bytes(prefix + header)
        if etag not in {None, own := etag_of(head)}:
            raise InvalidFile(f"the ETag of the answer is that of another file: expected {own}, got {etag}")
        self._there = self._data.open(head, size, tag)

    def _accepted(self, header: Header) -> int:
        """Return the size of the data of a file with this header; raise ``InvalidFile`` if it is another file."""
        return self._accept(header)

    def there(self) -> Sequence[Span]:
        """Return the spans of the file of which the data is there."""
        return [(start + self._offset, stop + self._offset) for start, stop in self._there]

    def windows(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the windows of a range of the data."""
        return self._data.windows(start - self._offset, stop - self._offset)


class InMemory:
    """Data in memory of its own, aligned for every element type."""

    parallel = True

    def __init__(self) -> None:
        self.memory: Memory = bytearray()

    def open(self, _head: bytes, size: int, _etag: str | None) -> Sequence[Span]:
        """Take the memory; starting over must not take it twice."""
        if len(self.memory) != size:
            self.memory = allocate(size)
        return ()

    def windows(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield one window for all of the range."""
        populate(self.memory, start, stop)
        yield memoryview(self.memory)[start:stop]


class InFile:
    """The head and the data in a binary file, in order, from where it stands."""

    parallel = False

    def __init__(self, file: BinaryIO):
        self._file = file
        self._origin: int | None = None
        self._started = False

    def open(self, head: bytes, _size: int, _etag: str | None) -> Sequence[Span]:
        """Go to where the file stood at first, leaving nothing behind it, and write the head."""
        if not self._started:
            self._started = True
            self._origin = self._file.tell() if self._file.seekable() else None
        elif self._origin is None:
            raise TransportError("the connection broke, and what is already written to a pipe cannot be written again")
        else:
            self._file.seek(self._origin)
            self._file.truncate()
        self._write(memoryview(head))
        return ()

    def windows(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield windows that are written to the file as they fill."""
        for window in blocks(stop - start):
            yield window
            self._write(window)

    def _write(self, data: memoryview) -> None:
        """Write all of the data; a file without a buffer may take a part of it at a time."""
        while data:
            count: int | None = self._file.write(data)
            data = data[len(data) if count is None else count :]  # what only looks like a file need not count


def blocks(size: int) -> Iterator[memoryview]:
    """Yield windows of ``size`` bytes in all that share the memory of one block."""
    block = memoryview(bytearray(min(BLOCK, size)))
    while size:
        window = block[: min(BLOCK, size)]
        yield window
        size -= len(window)
