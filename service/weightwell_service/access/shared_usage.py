"""Usage of several processes: what each client has used, in files that they share."""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from weightwell_service.access.usage import MOST_CLIENTS, Usage, Used
from weightwell_service.processes import is_alive

# The number of files. Each client has its place in one of them.
_FILES = 64

# A row: the client, by a part of the SHA-256 of its key, a process, and two numbers. If the process is 0, they are a
# day and the bytes of that day, else the open answers of the process, and 0.
_ROW = struct.Struct("<16sqqq")


class SharedUsage(Usage):
    """What every client has used in all processes of a server, in files of a folder.

    A process that has died has no open answers. Changing a file takes some microseconds, in which it is locked.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time):
        super().__init__(clock)
        self._folder = folder
        self._files: dict[int, int] = {}

    @contextmanager
    def _changing(self, key: str) -> Iterator[Used]:
        client = sha256(key.encode()).digest()[:16]
        file = self._file(client[0] % _FILES)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            table = _Table(os.pread(file, os.fstat(file).st_size, 0))
            used = table.used(client)
            yield used
            table.change(client, used)
            data = table.data()
            os.pwrite(file, data, 0)
            os.ftruncate(file, len(data))
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _file(self, number: int) -> int:
        if number not in self._files:
            self._files[number] = os.open(self._folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)
        return self._files[number]


class _Table:
    """The rows of one file, the client that was changed last at the end."""

    def __init__(self, data: bytes):
        self._days: dict[bytes, tuple[int, int]] = {}
        self._open: dict[bytes, dict[int, int]] = {}
        whole = len(data) - len(data) % _ROW.size  # a full disk may have cut off the last row
        for client, process, first, second in _ROW.iter_unpack(data[:whole]):
            if process:
                self._open.setdefault(client, {})[process] = first
            else:
                self._days[client] = first, second

    def used(self, client: bytes) -> Used:
        """Return what a client has used."""
        counts = self._open.get(client, {})
        others = sum(count for process, count in counts.items() if process != os.getpid() and is_alive(process))
        return Used(counts.get(os.getpid(), 0), others, *self._days.get(client, (0, 0)))

    def change(self, client: bytes, used: Used) -> None:
        """Replace what a client has used, and forget another one if there are too many."""
        self._days.pop(client, None)
        self._days[client] = used.day, used.nbytes
        counts = {process: count for process, count in self._open.get(client, {}).items() if is_alive(process)}
        counts[os.getpid()] = used.responses
        self._open[client] = {process: count for process, count in counts.items() if count}
        if len(self._days) > MOST_CLIENTS // _FILES:
            idle = next((each for each in self._days if not any(map(is_alive, self._open.get(each, ())))), None)
            if idle is not None:
                del self._days[idle]
                self._open.pop(idle, None)

    def data(self) -> bytes:
        """Return the rows."""
        days = [_ROW.pack(client, 0, *day) for client, day in self._days.items()]
        counts = [
            _ROW.pack(client, process, count, 0) for client, row in self._open.items() for process, count in row.items()
        ]
        return b"".join([*days, *counts])
