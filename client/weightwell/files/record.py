"""Records: the log of an incomplete file, with the spans of bytes that have been written.

The first line names the file by its entity tag and its size in bytes. Each further line, ``[start, stop, crc]``, says
that the bytes ``[start, stop)`` were written, and gives their CRC-32. Bytes that have another CRC-32 when the log is
read were damaged, or never reached the disk, and do not count.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from weightwell.files import disk
from weightwell.transfers.spans import Span


class Record:
    """The log at ``path``. Several threads may write to it."""

    def __init__(self, path: Path):
        self._path = path
        self._descriptor = disk.open_file(path, os.O_APPEND)

    def spans(self, etag: str, size: int, read: Callable[[int, int], bytes]) -> list[Span]:
        """Return the intact spans of the file with this entity tag and size; ``read`` reads a span of it."""
        text = disk.read_at(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        head, *entries = map(_parsed, text.split(b"\n"))
        return list(_intact(entries, size, read)) if head == {"etag": etag, "size": size} else []

    def begin(self, etag: str, size: int) -> None:
        """Start the log of an empty file."""
        os.ftruncate(self._descriptor, 0)
        self._append({"etag": etag, "size": size})

    def add(self, start: int, data: memoryview) -> None:
        """Note that these bytes have been written at ``start``."""
        self._append([start, start + len(data), zlib.crc32(data)])

    def close(self) -> None:
        """Close the log."""
        os.close(self._descriptor)

    def _append(self, value: object) -> None:
        os.write(self._descriptor, json.dumps(value).encode() + b"\n")


def _parsed(line: bytes) -> object:
    """Return the value of a line, or None for an incomplete line."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _intact(entries: list[object], size: int, read: Callable[[int, int], bytes]) -> Iterator[Span]:
    """Yield the spans whose bytes have the CRC-32 of their entry."""
    for entry in entries:
        match entry:
            case [int(start), int(stop), int(crc)] if 0 <= start <= stop <= size:
                if zlib.crc32(read(start, stop)) == crc:
                    yield start, stop
