"""The philox generator on the CPU, as the service has it: plans in, chunks out."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from weightwell_service.generators import Drawing, DrawingStopped, places
from weightwell_service.generators.devices import Cpu
from weightwell_service.generators.philox import Prepared, prepare, warm_up
from weightwell_service.generators.philox.cpu import Columns
from weightwell_service.generators.philox.formats import UNSIGNED, Patterns
from weightwell_service.generators.philox.generator import Laws, PhiloxGenerator
from weightwell_service.generators.philox.orthogonal import nbytes
from weightwell_service.laws import Orthogonal, Sparse
from weightwell_service.plan import Piece, Plan, PlannedTensor
from weightwell_service.regions import Cover, Runs

P = ParamSpec("P")
T = TypeVar("T")


class CpuPhiloxGenerator(PhiloxGenerator):
    """Draws with compiled kernels, in any number of threads."""

    chunk = Cpu.chunk

    def __init__(self, threads: int):
        # One chunk for every thread, and one that waits for the first of them to be free.
        self.concurrency = threads + 1
        self._threads = threads
        # Not the threads that draw chunks: those wait for the matrix.
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="matrix")

    def warm_up(self) -> None:
        """Compile the kernels and check their known answers; raise ``GeneratorUnsound`` if they do not come out."""
        warm_up()

    def open(self, plan: Plan) -> Drawing:
        """Start drawing a file."""
        del plan
        return CpuDrawing(self._executor)

    def resident(self, tensor: PlannedTensor) -> int:
        """Return the bytes that are kept to draw a tensor, beside the chunks themselves."""
        match tensor.law:
            case Sparse() as law:
                return Columns.nbytes(law, self._threads)
            case Orthogonal(rows, cols):
                arithmetic = max(tensor.dtype.itemsize, 4)
                return nbytes(rows, cols, arithmetic, self._threads) + rows * cols * (
                    arithmetic + tensor.dtype.itemsize
                )
        return 0


class CpuDrawing:
    """One file in the drawing."""

    def __init__(self, executor: Executor):
        self._executor = _Stoppable(executor)
        self._laws = Laws(self._prepare)

    def draw(self, pieces: Sequence[Piece]) -> memoryview:
        """Return the elements of pieces, one piece after the other."""
        memory = Cpu.allocate(sum(piece.nbytes for piece in pieces))
        for piece, place in places(pieces, memory):
            _fill(piece, self._laws.of(piece.tensor), place)
        return memory

    def close(self) -> None:
        """Let go of what was prepared, and stop what is being prepared."""
        self._executor.stop()
        self._laws.clear()

    def _prepare(self, tensor: PlannedTensor) -> Prepared:
        return prepare(tensor.law, tensor.dtype, tensor.seed, tensor.name, self._executor)


def _fill(piece: Piece, prepared: Prepared, out: memoryview) -> None:
    """Write the elements of a piece, whose law is ``prepared``, into ``out``."""
    itemsize, filled = piece.tensor.dtype.itemsize, 0
    for part in piece.tensor.region.covers(piece.start, piece.stop):
        nbytes = part.size * itemsize
        place = out[filled : filled + nbytes]
        if isinstance(part, Runs):
            prepared.fill(part, place)
        else:
            _pick(part, prepared, np.frombuffer(place, UNSIGNED[itemsize]))
        filled += nbytes


def _pick(cover: Cover, prepared: Prepared, out: Patterns) -> None:
    """Write what is wanted of a cover into ``out``."""
    drawn = np.empty((cover.runs.count, cover.runs.length), out.dtype)
    prepared.fill(cover.runs, drawn.data.cast("B"))
    sizes, strides = zip(*cover.picks, strict=True)
    steps = drawn.strides[0], *(stride * out.itemsize for stride in strides)
    out[:] = as_strided(drawn, (cover.runs.count, *sizes), steps).reshape(-1)[cover.begin : cover.end]


class _Stoppable(Executor):
    """An executor that can be told to begin nothing more."""

    def __init__(self, executor: Executor):
        self._executor = executor
        self._stopped = False

    def submit(self, task: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a task that raises ``DrawingStopped`` if it is too late when its turn comes."""

        def unless_stopped() -> T:
            if self._stopped:
                raise DrawingStopped
            return task(*args, **kwargs)

        return self._executor.submit(unless_stopped)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
