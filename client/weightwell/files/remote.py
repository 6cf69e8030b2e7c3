"""File objects: a file that is read by ranges, as an ``io.RawIOBase``. Nothing is stored."""

import io
from collections.abc import Callable
from typing import Any, Protocol


class Readable(Protocol):
    """The bytes of a file, in any order."""

    @property
    def nbytes(self) -> int:
        """The size of the file in bytes."""

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fill a buffer with the bytes from ``start`` on, up to the end of the file; return the number of bytes."""

    def close(self) -> None:
        """Release its resources."""


class OpenFile(io.RawIOBase):
    """A file that is generated as it is read: seekable, read-only and not buffered.

    Each ``read`` is one request to a server. ``io.BufferedReader(file, 1 << 20)`` makes few large requests of many
    small reads. ``name`` is the address of the file. Several threads may not use one file at once.
    """

    mode = "rb"

    def __init__(self, source: Readable, name: str):
        self.name = name
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in bytes, and return it. A position after the end is allowed, and has no bytes."""
        self._check_open()
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.nbytes}
        if whence not in origins:
            raise ValueError(f"whence must be 0, 1 or 2, got {whence!r}")
        position = origins[whence] + offset
        if position < 0:
            raise ValueError(f"a position must be 0 or more, got {position}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes, up to the end of the file; return the number of bytes."""
        self._check_open()
        view = memoryview(buffer).cast("B")[: max(self._source.nbytes - self._position, 0)]
        count = self._source.read_into(self._position, view) if view else 0
        self._position += count
        return count

    def readall(self) -> bytes:
        """Return all bytes from the position to the end of the file."""
        self._check_open()
        rest = bytearray(max(self._source.nbytes - self._position, 0))
        return bytes(memoryview(rest)[: self.readinto(rest)])

    def close(self) -> None:
        """Close the file; further reads are a ValueError."""
        if not self.closed:
            super().close()
            self._source.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._source.nbytes} bytes: {self.name}>"

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")  # as Python's own files


class HttpReadable:
    """A file on a server. ``read`` fills a buffer with the bytes from a position on, or raises."""

    def __init__(self, nbytes: int, read: Callable[[int, memoryview], int]):
        self.nbytes = nbytes
        self._read = read

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fill a buffer with the bytes from ``start`` on, up to the end of the file; return the number of bytes."""
        part = buffer[: max(self.nbytes - start, 0)]
        return self._read(start, part) if part else 0

    def close(self) -> None:
        """Do nothing: the connections are those of the client."""
