"""Usage of several processes: what each token has used, in files that they share."""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weightwell_service.access.usage import Usage, Used
from weightwell_service.processes import is_alive


class SharedUsage(Usage):
    """What every token has used in all processes of a server, in a file for each token.

    A file has the day and its bytes, and then for each process its number and its open answers. A process that has died
    has no open answers. Changing a file takes some microseconds, in which it is locked.
    """

    _HEAD = struct.Struct("<qq")
    _ROW = struct.Struct("<qq")

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time):
        super().__init__(clock)
        self._folder = folder
        self._files: dict[str, int] = {}

    @contextmanager
    def _changing(self, name: str) -> Iterator[Used]:
        file = self._file(name)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            data = os.pread(file, 1 << 16, 0)
            day, nbytes = self._HEAD.unpack_from(data) if data else (0, 0)
            rows = dict(self._ROW.iter_unpack(data[self._HEAD.size :]))
            own = rows.pop(os.getpid(), 0)
            rows = {process: count for process, count in rows.items() if count and is_alive(process)}
            used = Used(own, sum(rows.values()), day, nbytes)
            yield used
            rows[os.getpid()] = used.responses
            changed = self._HEAD.pack(used.day, used.nbytes) + b"".join(self._ROW.pack(*row) for row in rows.items())
            os.pwrite(file, changed, 0)
            os.ftruncate(file, len(changed))
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _file(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        return self._files[name]
