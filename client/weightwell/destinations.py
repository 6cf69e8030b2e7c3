"""Destinations: where the bytes of a body go.

A destination hands out windows, one after another: writable memory for the next bytes. It is asked for the next window
when the last one is full, and once more after the end. Reading sockets straight into windows is what makes receiving
fast; starting over is asking for the windows again.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Protocol

from weightwell.exceptions import InvalidFile, TransportError, UnexpectedResponse
from weightwell.memory import Memory, allocate
from weightwell.safetensors import PREFIX, Entry, entries_of, header_length

BLOCK = 1 << 20  # bytes written to a file at once


class Destination(Protocol):
    """Where a body goes."""

    def windows(self, total: int) -> Iterator[memoryview]:
        """Yield the windows of a body of ``total`` bytes; their lengths add up to ``total``."""


class DataDestination(Protocol):
    """Where the data of a safetensors file goes."""

    def windows(self, head: bytes, size: int) -> Iterator[memoryview]:
        """Yield the windows of ``size`` bytes of data, which follow the ``head`` of the file."""


class Document:
    """A JSON document in memory."""

    def __init__(self) -> None:
        self._body = bytearray()

    def windows(self, total: int) -> Iterator[memoryview]:
        """Yield one window for all of it."""
        self._body = bytearray(total)
        yield memoryview(self._body)

    def parsed(self) -> Any:
        """Return the document; raise ``UnexpectedResponse`` where it is not JSON."""
        try:
            return json.loads(self._body)
        except ValueError as error:
            raise UnexpectedResponse(f"expected a JSON document, got {bytes(self._body[:80])!r}") from error


class SafetensorsFile:
    """A safetensors file: its header is read and judged before its data is given a place.

    ``check`` takes the entries of the header and returns the size of the data, or raises ``InvalidFile``.
    """

    def __init__(self, check: Callable[[Mapping[str, Entry]], int], data: DataDestination):
        self._check = check
        self._data = data

    def windows(self, total: int) -> Iterator[memoryview]:
        """Yield the windows of the length of the header, of the header, and of the data."""
        if total < PREFIX:
            raise InvalidFile(f"a body of {total} bytes is no safetensors file")
        prefix = bytearray(PREFIX)
        yield memoryview(prefix)
        header = bytearray(header_length(prefix, total))
        yield memoryview(header)
        size = self._check(entries_of(header))
        if PREFIX + len(header) + size != total:
            raise InvalidFile(f"the header promises {PREFIX + len(header) + size} bytes, and the response {total}")
        yield from self._data.windows(bytes(prefix + header), size)


class InMemory:
    """Data in memory of its own, aligned for every element type."""

    def __init__(self) -> None:
        self.memory: Memory = bytearray()

    def windows(self, _head: bytes, size: int) -> Iterator[memoryview]:
        """Yield one window for all of the data."""
        if len(self.memory) != size:  # starting over must not take the memory twice
            self.memory = allocate(size)
        yield memoryview(self.memory)


class InFile:
    """The head and the data in a binary file, from where it stands."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._origin: int | None = None
        self._started = False

    def windows(self, head: bytes, size: int) -> Iterator[memoryview]:
        """Yield windows that are written to the file as they fill."""
        self._start()
        self._file.write(head)
        block = memoryview(bytearray(min(BLOCK, size)))
        while size:
            window = block[: min(BLOCK, size)]
            yield window
            self._file.write(window)
            size -= len(window)

    def _start(self) -> None:
        """Go to where the file stood at first, leaving nothing behind it."""
        if not self._started:
            self._started = True
            self._origin = self._file.tell() if self._file.seekable() else None
        elif self._origin is None:
            raise TransportError("the connection broke, and what is already written to a pipe cannot be written again")
        else:
            self._file.seek(self._origin)
            self._file.truncate()
