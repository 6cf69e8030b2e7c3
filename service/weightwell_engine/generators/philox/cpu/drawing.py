"""Drawings: the pieces of one file, written into memory by compiled kernels."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from weightwell_engine.generators import DrawingStopped, places
from weightwell_engine.generators.philox.cpu import orthogonal_stack
from weightwell_engine.generators.philox.cpu.checked import Prepared, prepare
from weightwell_engine.generators.philox.cpu.laws import Columns
from weightwell_engine.generators.philox.cpu.orthogonal import nbytes
from weightwell_engine.generators.philox.generator import Laws
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, Patterns
from weightwell_engine.laws import Orthogonal, OrthogonalStack, Sparse
from weightwell_engine.plan import Piece, PlannedTensor
from weightwell_engine.regions import Cover, Runs

P = ParamSpec("P")
T = TypeVar("T")


def resident(tensor: PlannedTensor, threads: int) -> int:
    """Return the bytes that as many threads keep to draw a tensor, besides the chunks themselves."""
    match tensor.law:
        case Sparse() as law:
            return Columns.nbytes(law, threads)
        case Orthogonal(rows, cols):
            arithmetic = max(tensor.dtype.itemsize, 4)
            return nbytes(rows, cols, arithmetic, threads) + rows * cols * (arithmetic + tensor.dtype.itemsize)
        case OrthogonalStack() as law:
            return orthogonal_stack.nbytes(law, tensor.dtype, threads)
    return 0


class CpuDrawing:
    """One file in the drawing."""

    def __init__(self, executor: Executor):
        self._executor = _Stoppable(executor)
        self._laws = Laws(self._prepare)

    def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
        """Write the elements of pieces, one piece after the other, into ``out``."""
        for piece, place in places(pieces, out):
            _fill(piece, self._laws.of(piece.tensor), place)

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
