"""Parts: files in the making, which survive what interrupts them.

The file for ``PATH`` is written to ``PATH.part``, and takes its path when it is complete. From time to time what has
come is forced onto the disk, and only then recorded in ``PATH.part.json``; so whatever kills the process or the
machine, the record claims no byte that is not there. Whoever saves the same file next, by its entity tag, goes on from
the record; a part of another file is replaced. The lock on the part is held by one process, for as long as it lives.
"""

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from weightwell.files import disk, record
from weightwell.files.record import Record
from weightwell.transfers.destinations import BLOCK
from weightwell.transfers.spans import Span, Spans

PERIOD = 2.0  # seconds of work that a crash may cost
SHARE = 0.1  # the largest share of the time that recording may take
FULL = {errno.ENOSPC, errno.EDQUOT}


class Part:
    """The part of the file at ``path``; a destination for its data. Close it, whatever happens.

    Raises BlockingIOError where another process saves to the same path, and OSError where there is no room.
    """

    parallel = True

    def __init__(self, path: Path):
        self._given = path
        self._path = Path(os.path.realpath(path))  # a link stays a link
        self._part = self._path.with_name(self._path.name + ".part")
        self._record = self._path.with_name(self._path.name + ".part.json")
        self._lock = Lock()
        self._buffers: list[bytearray] = []
        self._begun = False  # whether a head has come
        self._size = self._offset = 0  # of the file, and of the data in it
        self._etag: str | None = None
        self._there = Spans()  # in the file
        self._due = 0.0  # when to record
        try:
            self._descriptor = disk.open_locked(self._part)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    @property
    def destination(self) -> "Part":
        """Where the data goes."""
        return self

    def open(self, head: bytes, size: int, etag: str | None) -> Sequence[Span]:
        """Take up the part where it is one of this file, or begin it; return the spans of the data that are there."""
        self._begun, self._offset, self._size, self._etag = True, len(head), len(head) + size, etag
        found = Record.read(self._record)
        with self._explained():
            if found is None or (found.etag, found.size) != (etag, self._size) or self._length() != self._size:
                self._begin()
                found = None
            self._write(memoryview(head), 0)
        self._there = Spans(found.spans if found else ())
        self._due = time.monotonic() + PERIOD
        return [(max(start - self._offset, 0), stop - self._offset) for start, stop in self._there]

    def windows(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield windows that are written to their place in the part as they fill."""
        buffer = self._buffers.pop() if self._buffers else bytearray(BLOCK)
        position, end = start + self._offset, stop + self._offset
        while position < end:
            window = memoryview(buffer)[: end - position]
            yield window
            with self._explained():
                self._write(window, position)
                self._note(position, position + len(window))
            position += len(window)
        self._buffers.append(buffer)

    def commit(self) -> None:
        """Put the file in its place, for good: once this returns, not even a power cut takes it away."""
        with self._explained():
            os.fsync(self._descriptor)
        if not disk.LOCKS:
            self._release()  # Windows does not rename what is open
        self._part.replace(self._path)
        record.remove(self._record)
        disk.sync_directory(self._path.parent)
        self._release()

    def close(self) -> None:
        """Keep the part where it can be gone on with, and remove it otherwise; do nothing after ``commit``."""
        if self._descriptor < 0:
            return
        if self._etag is not None and any(self._there):
            with suppress(OSError):  # then it is the last record that counts
                self._keep()
        elif self._begun or not self._length():  # else nothing came that could tell whose part it is
            record.remove(self._record)
            self._part.unlink(missing_ok=True)
        self._release()

    def _begin(self) -> None:
        """Begin a part of nothing. No record may speak of it, not even after a power cut."""
        if self._record.exists():
            record.remove(self._record)
            disk.sync_directory(self._part.parent)
        os.ftruncate(self._descriptor, 0)
        disk.allocate(self._descriptor, self._size)

    def _length(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _write(self, data: memoryview, position: int) -> None:
        while data:
            count = disk.write_at(self._descriptor, data, position)
            data, position = data[count:], position + count

    def _note(self, start: int, stop: int) -> None:
        """Take note that a span has been written, and record it when it is time."""
        with self._lock:
            self._there.add(start, stop)
            if self._etag is None or time.monotonic() < self._due:
                return
            self._due = float("inf")  # whoever comes meanwhile writes on
        began = time.monotonic()
        self._keep()
        ended = time.monotonic()
        self._due = ended + max(PERIOD, (ended - began) / SHARE)

    def _keep(self) -> None:
        """Force what is there onto the disk, and record it."""
        with self._lock:
            there = Record.of(self._etag or "", self._size, self._there)
        disk.sync_data(self._descriptor)
        there.write(self._record)

    def _release(self) -> None:
        """Let go of the part, and of the lock with it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of which path an error is, and of a full disk how much was needed."""
        try:
            yield
        except OSError as error:
            reason = str(error.strerror)
            if error.errno in FULL:
                free = shutil.disk_usage(self._part.parent).free
                reason += f": the file takes {self._size} bytes, and {free} are free beside what has come"
            raise OSError(error.errno, reason, str(self._given)) from error
