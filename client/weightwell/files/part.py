"""Parts: incomplete files, which survive an interruption.

The file for ``PATH`` is written to ``PATH.part``, and renamed when it is complete. ``PATH.part.json`` records the
bytes that have been written (``weightwell.files.record``). The next save of the same file requests only the rest. Files
are the same if their entity tag and length are equal. A part of another file is replaced. One process at a time holds
the lock on a part.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from weightwell.files import disk
from weightwell.files.comparison import Claim
from weightwell.files.record import Record
from weightwell.transfers.destinations import DataDestination, blocks
from weightwell.transfers.spans import Span

FULL = {errno.ENOSPC, errno.EDQUOT}


class Part(DataDestination):
    """The part of the file at ``path``; a destination for its data. Always close it.

    Raises BlockingIOError where another process saves to the same path, and OSError where the disk is full.
    """

    parallel = True

    def __init__(self, path: Path):
        self._given = path
        self._path = Path(os.path.realpath(path))  # a symbolic link is followed, and not replaced
        self.path = self._path.with_name(self._path.name + ".part")
        self._record_path = self._path.with_name(self._path.name + ".part.json")
        self._record: Record | None = None
        self._keep = True  # unknown until the head of the file has arrived
        self._size = self._offset = 0  # of the file, and of the data in it
        with self._explained():
            self._descriptor = disk.open_locked(self.path)

    @property
    def destination(self) -> "Part":
        """The path of the part."""
        return self

    def open(self, head: bytes, size: int, etag: str | None) -> Sequence[Span]:
        """Continue the part if it belongs to this file, else start it; return the spans of data that it has."""
        self._offset, self._size = len(head), len(head) + size
        self._close_record()
        with self._explained():
            there = self._resumed(etag) if etag else []
            if not there:
                os.ftruncate(self._descriptor, 0)
                disk.allocate(self._descriptor, self._size)
            self._write(memoryview(head), 0)
        self._keep = bool(there)
        return [(start - self._offset, stop - self._offset) for start, stop in there]

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield buffers that are written to their place in the part as they fill."""
        position = start + self._offset
        for buffer in blocks(stop - start):
            yield buffer
            with self._explained():
                self._write(buffer, position)
                if self._record is not None:
                    self._record.add(position, buffer)
                    self._keep = True
            position += len(buffer)

    def claim(self) -> Claim:
        """Return the file as it is now, for a comparison."""
        return Claim(self.path)

    def commit(self) -> None:
        """Write the file to the disk, and rename it to its path."""
        with self._explained():
            os.fsync(self._descriptor)
        self._close_record()
        self._record_path.unlink(missing_ok=True)
        if not disk.LOCKS:
            self._release()  # Windows does not rename open files
        self.path.replace(self._path)
        self._release()

    def discard(self) -> None:
        """Mark the part for deletion."""
        self._keep = False

    def close(self) -> None:
        """Keep the part if it can be continued, and remove it otherwise; do nothing after ``commit``."""
        if self._descriptor < 0:
            return
        self._close_record()
        if not (self._keep and os.fstat(self._descriptor).st_size):
            self._record_path.unlink(missing_ok=True)
            if not disk.LOCKS:
                self._release()
            self.path.unlink(missing_ok=True)
        self._release()

    def _resumed(self, etag: str) -> list[Span]:
        """Return the spans that the part has of the file with this entity tag, and record all further writes."""
        self._record = Record(self._record_path)
        there = []
        if os.fstat(self._descriptor).st_size == self._size:
            there = self._record.spans(etag, self._size, lambda start, stop: self._read(start, stop - start))
        if not there:
            self._record.begin(etag, self._size)
        return there

    def _read(self, start: int, size: int) -> bytes:
        return disk.read_at(self._descriptor, size, start)

    def _write(self, data: memoryview, position: int) -> None:
        while data:
            count = disk.write_at(self._descriptor, data, position)
            data, position = data[count:], position + count

    def _close_record(self) -> None:
        if self._record is not None:
            self._record.close()
            self._record = None

    def _release(self) -> None:
        """Close the part, which unlocks it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Add the caller's path to every error, and the bytes needed to the error of a full disk."""
        try:
            yield
        except OSError as error:
            reason = str(error.strerror)
            if error.errno in FULL:
                free = shutil.disk_usage(self.path.parent).free
                reason += f": the file takes {self._size} bytes, and {free} are free in addition to the existing part"
            raise OSError(error.errno, reason, str(self._given)) from error
