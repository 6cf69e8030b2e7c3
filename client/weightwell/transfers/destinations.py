"""Destinations: the memory or file that receives the bytes of a body.

A destination yields buffers: writable memory for the next bytes. A request for the next buffer means that the last one
is full. Sockets are read straight into buffers, which saves a copy. The head of a body comes first and in order. After
it, several connections may fill disjoint ranges at once, each with its own buffers. A new request for the head starts
over.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

from weightwell.answers import spec_of
from weightwell.exceptions import InvalidFile, TransportError, UnexpectedResponse
from weightwell.memory import Memory, allocate
from weightwell.safetensors import PREFIX, Header, etag_of, header_length, read_header
from weightwell.transfers.spans import Span

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 20  # bytes written to a file at once
MAX_DOCUMENT = 256 << 20  # bytes of JSON: the plan of 100,000 tensors takes about 60 MB

T = TypeVar("T")


class Destination(ABC):
    """The destination of a body.

    ``parallel``: ranges may arrive in any order and several at once. ``parallel_elements``: the same for ranges of
    whole elements of the tensors in it.
    """

    parallel = False
    parallel_elements = False

    @abstractmethod
    def head(self, total: int, etag: str | None, tag: str | None) -> Iterator[memoryview]:
        """Yield the buffers of the head of a body of ``total`` bytes with this strong entity tag.

        ``tag`` is the entity tag for range requests, or None if ranges are not possible.
        """

    def there(self) -> Sequence[Span]:
        """Return the spans of the body that an earlier attempt received. Call this after the head."""
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:  # noqa: ARG002 - for those that have more than a head
        """Yield the buffers of the bytes ``[start, stop)`` after the head; their lengths add up."""
        return iter(())

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":  # noqa: ARG002 - for those with data
        """Return the memories (n, uint8) of a GPU for some bytes of one tensor, in order; None for memory of the host.

        They are like buffers: a request for the next one means that the last one is full.
        """
        return None


class DataDestination(ABC):
    """The destination of a safetensors file's data; offsets count from its first byte.

    ``parallel``: ranges may arrive in any order and several at once. ``parallel_elements``: the same for ranges of
    whole elements only. ``needs_head``: ``open`` uses the head; without it, it gets no bytes.
    """

    parallel = False
    parallel_elements = False
    needs_head = True

    @abstractmethod
    def open(self, head: bytes, size: int, etag: str | None) -> Sequence[Span]:
        """Prepare for ``size`` bytes of data, which follow the ``head`` of the file with this strong entity tag.

        Return the spans of the data that an earlier attempt received.
        """

    @abstractmethod
    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the buffers of the bytes ``[start, stop)``; their lengths add up."""

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":  # noqa: ARG002 - for a device
        """Return the memories (n, uint8) of a GPU for the bytes ``[start, stop)`` of one tensor; else None."""
        return None


class Document(Destination, Generic[T]):
    """A JSON document in memory. The whole document counts as head.

    ``read`` returns the result, or raises ``UnexpectedResponse``. It is called while the connection is still in use, so
    that a connection with wrong answers is not used again.
    """

    def __init__(self, read: Callable[[Any], T]):
        self._read = read
        self._results: list[T] = []

    def head(self, total: int, _etag: str | None, _tag: str | None) -> Iterator[memoryview]:
        """Yield the buffers of the whole document."""
        if total > MAX_DOCUMENT:
            raise UnexpectedResponse(f"expected a JSON document of at most {MAX_DOCUMENT} bytes, got {total}")
        body = yield from collected(total)
        try:
            document = json.loads(body)
        except ValueError as error:
            raise UnexpectedResponse(f"expected a JSON document, got {bytes(body[:80])!r}") from error
        self._results = [self._read(document)]

    def result(self) -> T:
        """Return the result of ``read`` for the document, which is complete."""
        return self._results[0]


class Region(Destination):
    """The bytes of a buffer, from ``start`` on in a file of ``total`` bytes with an entity tag."""

    def __init__(self, start: int, buffer: memoryview, total: int, etag: str):
        self.start, self.stop = start, start + len(buffer)
        self.total = total
        self.etag = etag
        self._buffer = buffer

    def head(self, _total: int, _etag: str | None, _tag: str | None) -> Iterator[memoryview]:
        """Yield nothing: a region has no head."""
        return iter(())

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the memory of the range."""
        yield self._buffer[start - self.start : stop - self.start]


class SafetensorsFile(Destination):
    """A safetensors file: its header is checked before memory is taken for its data.

    ``accept`` takes the header and returns the size of the data, or raises ``InvalidFile``.
    """

    def __init__(self, accept: Callable[[Header], int], data: DataDestination):
        self.parallel = data.parallel
        self.parallel_elements = data.parallel or data.parallel_elements
        self._accept = accept
        self._data = data
        self._head: Callable[[], bytes] = bytes
        self._spec: Mapping[str, Any] | None = None
        self._offset = 0  # of the data in the file
        self._there: Sequence[Span] = ()

    def head(self, total: int, etag: str | None, tag: str | None) -> Iterator[memoryview]:
        """Yield the buffers of the length of the header and of the header."""
        if total < PREFIX:
            raise InvalidFile(f"expected a safetensors file, got a body of {total} bytes")
        prefix = yield from collected(PREFIX)
        header = yield from collected(header_length(prefix, total))
        size = self._accept(read_header(header))
        head = bytes(prefix + header)
        if len(head) + size != total:
            raise InvalidFile(f"the file has {len(head) + size} bytes by its header, and {total} by its Content-Length")
        if etag not in {None, own := etag_of(head)}:
            raise InvalidFile(f"the ETag belongs to another file: expected {own}, got {etag}")
        self._offset = len(head)
        self.begin(lambda: head, size, tag)

    def begin(
        self, head: Callable[[], bytes], size: int, tag: str | None = None, spec: Mapping[str, Any] | None = None
    ) -> None:
        """Prepare for ``size`` bytes of data after a head that belongs to the request, and which ``head`` returns.

        ``tag`` is the entity tag for range requests, or None if ranges are not possible. ``spec`` is the spec in the
        head, if the caller has it. Unless the head was received, later offsets count from the first byte of the data.
        """
        self._head, self._spec = head, spec
        self._there = self._data.open(head() if self._data.needs_head else b"", size, tag)

    @property
    def header(self) -> Header:
        """The header of the file, which has begun."""
        return read_header(self._head()[PREFIX:])

    @property
    def spec(self) -> Mapping[str, Any]:
        """The spec of the file, which has begun."""
        return spec_of(self.header.metadata) if self._spec is None else self._spec

    def there(self) -> Sequence[Span]:
        """Return the spans of the file that an earlier attempt received."""
        return [(start + self._offset, stop + self._offset) for start, stop in self._there]

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the buffers of a range of the data."""
        return self._data.buffers(start - self._offset, stop - self._offset)

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":
        """Return the memories of a GPU for some bytes of one tensor; None for memory of the host."""
        return self._data.on_device(start - self._offset, stop - self._offset)


class InMemory(DataDestination):
    """Data in new memory, aligned for every element type."""

    parallel = True
    needs_head = False

    def __init__(self) -> None:
        self.memory: Memory = bytearray()

    def open(self, _head: bytes, size: int, _etag: str | None) -> Sequence[Span]:
        """Take the memory, or keep that of an earlier attempt."""
        if len(self.memory) != size:
            self.memory = allocate(size)
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the memory of the range."""
        yield memoryview(self.memory)[start:stop]


class InFile(DataDestination):
    """The head and the data in a binary file, in order, from its current position."""

    parallel = False

    def __init__(self, file: BinaryIO):
        self._file = file
        self._origin: int | None = None
        self._started = False

    def open(self, head: bytes, _size: int, _etag: str | None) -> Sequence[Span]:
        """Truncate the file to its first position, and write the head."""
        if not self._started:
            self._started = True
            self._origin = self._file.tell() if self._file.seekable() else None
        elif self._origin is None:
            raise TransportError(
                "the connection broke, and a pipe cannot be rewound: save to a file instead, or try again"
            )
        else:
            self._file.seek(self._origin)
            self._file.truncate()
        self._write(memoryview(head))
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield buffers that are written to the file as they fill."""
        for buffer in blocks(stop - start):
            yield buffer
            self._write(buffer)

    def _write(self, data: memoryview) -> None:
        """Write all of the data; a file without a buffer may take a part of it at a time."""
        while data:
            count: int | None = self._file.write(data)
            data = data[len(data) if count is None else count :]  # some objects with a write method return None


def blocks(size: int) -> Iterator[memoryview]:
    """Yield buffers of ``size`` bytes in all, which share the memory of one block."""
    block = memoryview(bytearray(min(BLOCK, size)))
    for start in range(0, size, BLOCK):
        yield block[: size - start]


def collected(size: int) -> Generator[memoryview, None, bytearray]:
    """Yield buffers of ``size`` bytes in all, and return the bytes. Memory grows only as bytes arrive."""
    body = bytearray()
    for buffer in blocks(size):
        yield buffer
        body += buffer
    return body
