"""Drawing: several threads draw a file directly into the memory of its destination."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from threading import Lock

from weightwell.exceptions import TimedOut
from weightwell.in_process.engines import Engines
from weightwell.memory import make_present
from weightwell.transfers.destinations import Destination
from weightwell.transfers.progress import Progress
from weightwell_engine.generators import DrawingStopped
from weightwell_engine.plan import Piece, Plan
from weightwell_engine.virtual_file import VirtualFile

# Bounds of the bytes that a thread draws at once. Drawing a chunk evicts Python's objects from the processor's cache,
# so small chunks take longer. Large chunks give threads unequal shares, and let Ctrl-C wait.
SMALLEST_CHUNK, LARGEST_CHUNK = 1 << 20, 1 << 24

# Chunks of a long file for each thread.
CHUNKS = 8

# Bytes that are drawn at once on a GPU.
DEVICE_CHUNK = 1 << 26

# Chunks begin at multiples of this number of bytes in a tensor, so that kernels draw whole vectors.
PAGE = 1 << 12

# Bytes of a file for each thread; for less, waking a thread takes longer than drawing.
SHARE = 1 << 17

# Bytes of a file that the calling thread draws alone.
SMALL = 2 * SHARE

# Elements of one tensor, and whether they are drawn into the memory of a GPU.
Task = tuple[Piece, bool]


class Job:
    """Draws the data of a file into a destination that has its head. ``until``: a time of ``time.monotonic``."""

    def __init__(self, plan: Plan, destination: Destination, progress: Progress, engines: Engines, until: float):
        self._plan = plan
        self._destination = destination
        self._progress = progress
        self._engines = engines
        self._until = until
        self._lock = Lock()
        self._tasks = divided(plan, destination, engines.address.threads)
        self._files = Files(plan, engines)
        self._error: BaseException | None = None

    def run(self) -> None:
        """Return when everything is drawn, or raise the first error. No thread draws after that."""
        helpers: list[Future[None]] = []
        try:
            if self._destination.parallel_elements:
                count = min(self._engines.helpers, self._plan.data_nbytes // SHARE - 1)
                helpers += (self._engines.executor().submit(self._work) for _ in range(count))
            self._work()
            _finish(helpers)
        except BaseException as error:  # Ctrl-C
            self.stop(error)
            _finish(helpers)
        finally:
            self._files.close()
        if self._error is not None:
            raise self._error

    def stop(self, error: BaseException) -> None:
        """Stop all threads; ``run`` raises the error, unless there was one before."""
        with self._lock:
            self._error = self._error or error
        self._files.close()

    def _work(self) -> None:
        """Take one task after another until there are no more."""
        done = 0
        try:
            while (task := self._next(done)) is not None:
                draw(*task, self._destination, self._files)
                done = task[0].nbytes
        except DrawingStopped:
            if self._error is None:
                raise
        except Exception as error:
            self.stop(error)

    def _next(self, done: int) -> Task | None:
        """Count some bytes as drawn, and return the next task, or None."""
        with self._lock:
            self._progress.advance(done)
            if self._error is not None:
                return None
            if time.monotonic() >= self._until:
                raise TimedOut("the call took longer than its deadline= allows")
            return next(self._tasks, None)


class Files:
    """The files of one plan, each drawn by the engine of a device."""

    def __init__(self, plan: Plan, engines: Engines):
        self._plan = plan
        self._engines = engines
        self._lock = Lock()
        self._opened: dict[str | None, VirtualFile] = {}

    def of(self, device: str | None) -> VirtualFile:
        """Return the file that is drawn by the engine of a device; None for that of the address."""
        file = self._opened.get(device)
        if file is None:
            with self._lock:
                file = self._opened.get(device) or self._engines.of(device).open(self._plan)
                self._opened[device] = file
        return file

    def close(self) -> None:
        """Stop drawing."""
        for file in list(self._opened.values()):
            file.close()


def draw_at_once(plan: Plan, destination: Destination, engines: Engines) -> None:
    """Draw the data of a small file in the calling thread, into a destination that has its head."""
    files = Files(plan, engines)
    try:
        for task in divided(plan, destination, 1):
            draw(*task, destination, files)
    finally:
        files.close()


def chunk_of(nbytes: int, threads: int) -> int:
    """Return the number of bytes that one of several threads draws at once, of a file or a buffer of ``nbytes``.

    A thread gets several chunks of a long file, and one equal share of a short one.
    """
    share = -(-nbytes // threads)
    chunk = min(max(share // CHUNKS, SMALLEST_CHUNK), LARGEST_CHUNK, max(share, SHARE))
    return -(-chunk // PAGE) * PAGE


def divided(plan: Plan, destination: Destination, threads: int) -> Iterator[Task]:
    """Yield the tasks that draw the data of a file with some threads."""
    chunk = chunk_of(plan.data_nbytes, threads)
    on_devices = plan.generator == "philox"
    for tensor in plan.tensors:
        size, offset, count = tensor.dtype.itemsize, tensor.offset, tensor.size
        is_there = on_devices and count > 0 and destination.on_device(offset, offset + size) is not None
        step = (DEVICE_CHUNK if is_there else chunk) // size
        for first in range(0, count, step):
            yield Piece(tensor, first, min(first + step, count)), is_there


def draw(piece: Piece, is_there: bool, destination: Destination, files: Files) -> None:
    """Draw elements into the memory of their destination."""
    size, nbytes = piece.tensor.dtype.itemsize, piece.nbytes
    start = piece.tensor.offset + piece.start * size
    stop = start + nbytes
    first = piece.start
    if is_there and (memories := destination.on_device(start, stop)) is not None:
        for memory in memories:
            last = first + len(memory) // size
            files.of(str(memory.device)).fill_on_device(Piece(piece.tensor, first, last), memory)
            first = last
        return
    file = files.of(None)
    for buffer in destination.buffers(start, stop):
        last = first + len(buffer) // size
        make_present(buffer)
        file.fill(piece if len(buffer) == nbytes else Piece(piece.tensor, first, last), buffer)
        first = last


def _finish(helpers: list[Future[None]]) -> None:
    """Wait until threads have ended."""
    if helpers:
        wait(helpers)
