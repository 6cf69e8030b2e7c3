"""Drawing: files are drawn into their destinations, by several threads, straight into the memory that is there."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from threading import Lock
from typing import TYPE_CHECKING

from weightwell.exceptions import TimedOut
from weightwell.in_process.engines import Engines
from weightwell.transfers.destinations import Destination
from weightwell.transfers.progress import Progress
from weightwell_engine.generators import DrawingStopped
from weightwell_engine.plan import Piece, Plan
from weightwell_engine.virtual_file import VirtualFile

if TYPE_CHECKING:
    import torch

# Bytes that a thread draws at once: large enough that Python's work for them takes no time, and small enough that
# several threads have equal shares, and that Ctrl-C ends a drawing at once.
CHUNK = 1 << 20

# Bytes that are drawn on a GPU at once.
DEVICE_CHUNK = 1 << 26

# Bytes of a file that one thread draws sooner than it wakes others.
ALONE = 1 << 18


def put(head: bytes, destination: Destination, total: int, etag: str | None) -> None:
    """Write the head of a body of ``total`` bytes."""
    position = 0
    for buffer in destination.head(total, etag, None):
        buffer[:] = head[position : position + len(buffer)]
        position += len(buffer)


class Job:
    """Draws the data of one file into a destination that has its head. ``until``: a time of ``time.monotonic``."""

    def __init__(self, plan: Plan, destination: Destination, progress: Progress, engines: Engines, until: float):
        self._plan = plan
        self._destination = destination
        self._progress = progress
        self._engines = engines
        self._until = until
        self._lock = Lock()
        self._pieces = self._chunks()
        self._files: dict[str | None, VirtualFile] = {}
        self._error: BaseException | None = None

    def run(self) -> None:
        """Return when everything is drawn, or raise the first error. No thread draws after that."""
        helpers: list[Future[None]] = []
        if self._destination.parallel and self._plan.data_nbytes > ALONE:
            count = min(self._engines.helpers, self._plan.data_nbytes // ALONE)
            helpers = [self._engines.executor().submit(self._work) for _ in range(count)]
        try:
            self._work()
            wait(helpers)
        except BaseException as error:  # Ctrl-C
            self.stop(error)
            wait(helpers)
        finally:
            self._close()
        if self._error is not None:
            raise self._error

    def stop(self, error: BaseException) -> None:
        """Stop all threads; ``run`` raises the error, unless there was one before."""
        with self._lock:
            self._error = self._error or error
        self._close()

    def _close(self) -> None:
        for file in list(self._files.values()):
            file.close()

    def _work(self) -> None:
        """Draw one piece after another until there are no more."""
        done = 0
        try:
            while (piece := self._next(done)) is not None:
                self._draw(piece)
                done = piece.nbytes
        except DrawingStopped:
            if self._error is None:
                raise
        except Exception as error:
            self.stop(error)

    def _next(self, done: int) -> Piece | None:
        """Count some bytes as drawn, and return the next piece, or None."""
        with self._lock:
            self._progress.advance(done)
            if self._error is not None:
                return None
            if time.monotonic() >= self._until:
                raise TimedOut("the call took longer than its deadline= allows")
            return next(self._pieces, None)

    def _chunks(self) -> Iterator[Piece]:
        """Yield the pieces that are drawn at once."""
        for tensor in self._plan.tensors:
            size = tensor.dtype.itemsize
            there = self._on_device(tensor.offset, tensor.offset + min(tensor.nbytes, size))
            step = (CHUNK if there is None else DEVICE_CHUNK) // size
            for first in range(0, tensor.size, step):
                yield Piece(tensor, first, min(first + step, tensor.size))

    def _on_device(self, start: int, stop: int) -> "torch.Tensor | None":
        """Return the memory of a GPU for some bytes of the data, if they are drawn there."""
        if self._plan.generator != "philox" or start == stop:
            return None
        head = len(self._plan.header)
        return self._destination.on_device(head + start, head + stop)

    def _draw(self, piece: Piece) -> None:
        size, offset = piece.tensor.dtype.itemsize, piece.tensor.offset
        start, stop = offset + piece.start * size, offset + piece.stop * size
        if (there := self._on_device(start, stop)) is not None:
            self._file(str(there.device)).fill_on_device(piece, there)
            return
        file, first, head = self._file(None), piece.start, len(self._plan.header)
        for buffer in self._destination.buffers(head + start, head + stop):
            last = first + len(buffer) // size
            file.fill(Piece(piece.tensor, first, last), buffer)
            first = last

    def _file(self, device: str | None) -> VirtualFile:
        """Return the file, drawn by the engine of a device."""
        file = self._files.get(device)
        if file is None:
            with self._lock:
                file = self._files.get(device) or self._engines.of(device).open(self._plan)
                self._files[device] = file
        return file
