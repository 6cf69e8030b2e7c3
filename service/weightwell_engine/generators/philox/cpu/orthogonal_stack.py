"""A stack of orthogonal matrices as a law: computes a few matrices at a time, and gathers elements from them."""

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache
from threading import Lock

import numpy as np

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.cpu import orthogonal
from weightwell_engine.generators.philox.cpu.orthogonal_law import Orthogonals, Source
from weightwell_engine.generators.philox.specification.draws import Draw, carrier_of
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, Patterns
from weightwell_engine.generators.philox.specification.orthogonal_stack import is_batch_first, places
from weightwell_engine.generators.philox.specification.words import Indices
from weightwell_engine.laws import Orthogonal, OrthogonalStack
from weightwell_engine.regions import Part, Runs

# Elements that are located together: their indices fit into the processor's cache.
_BLOCK = 1 << 15

# Elements of a group of small matrices, which are computed together, each by one thread.
_GROUP = 1 << 18

# Elements of the cached groups; at least two groups are cached. Threads draw neighbouring chunks at once, and several
# of them may need the same group.
_KEPT = 1 << 22


class OrthogonalStacks:
    """A stack of orthogonal matrices, optionally at the centres of convolution kernels, with its axes in any order.

    Matrices are computed in groups of neighbours, and the last groups are cached. If the matrices are contiguous in the
    tensor, memory never holds all of them. If a batch axis is inside other axes, the group is the whole stack.
    """

    def __init__(self, law: OrthogonalStack, draw: Draw, normals: Source, executor: Executor | None):
        self._law = law
        self._draw = draw
        self._normals = normals
        self._executor = executor
        self._each = Orthogonal(law.rows, law.cols, law.gain)
        self._size = _group_size(law)
        self._lock = Lock()
        self._groups = lru_cache(_groups_kept(law))(self._group)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that draw it."""
        return Orthogonals(self._each, self._draw, self._normals, None).kernels

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""
        target = np.frombuffer(out, UNSIGNED[self._draw.dtype.itemsize])
        for start, at in _indices(part):
            self._gather(at, target[start : start + at.size])

    def _gather(self, at: Indices, target: Patterns) -> None:
        """Write the elements at some flat indices, one or more, into ``target``."""
        place, tap = places(self._law, at)
        of_group = self._size * self._law.rows * self._law.cols
        for number in range(int(place.min()) // of_group, int(place.max()) // of_group + 1):
            # Unsigned, so that an index before the group wraps around to a very large one.
            here = place - np.uint64(number * of_group)
            chosen = here < of_group
            if chosen.all():
                target[:] = self._kept(number)[here.view(np.int64)]
            elif chosen.any():
                target[chosen] = self._kept(number)[here[chosen].view(np.int64)]
        if self._law.taps > 1:
            target[tap != self._law.centre] = 0

    def _kept(self, number: int) -> Patterns:
        """Return the bits of the matrices of a group, flat."""
        with self._lock:
            return self._groups(number).reshape(-1)

    def _group(self, number: int) -> Patterns:
        """Return the bits of the matrices of a group (matrices, rows * cols)."""
        first = number * self._size
        count, size = min(self._size, self._law.count - first), self._law.rows * self._law.cols
        patterns = np.empty((count, size), UNSIGNED[self._draw.dtype.itemsize])

        def draw(entry: int, executor: Executor | None = None) -> None:
            normals = _Following(self._normals, (first + entry) * size)
            matrix = Orthogonals(self._each, self._draw, normals, executor)
            matrix.fill(Runs(0, size, 0, 1), patterns[entry].data.cast("B"))

        if self._executor is None or size >= _GROUP:
            for entry in range(count):
                draw(entry, self._executor)
        else:
            for _ in self._executor.map(draw, range(count)):
                pass
        return patterns


class _Following:
    """The normals of one matrix of a stack: those from number ``first`` on."""

    def __init__(self, normals: Source, first: int):
        self._normals = normals
        self._first = first

    @property
    def kernels(self) -> tuple[str, ...]:
        return self._normals.kernels

    def fill(self, runs: Runs, out: memoryview) -> None:
        self._normals.fill(Runs(self._first + runs.first, runs.length, runs.stride, runs.count), out)


def nbytes(law: OrthogonalStack, dtype: DType, threads: int) -> int:
    """Return the peak bytes for drawing a stack with a number of threads."""
    size, arithmetic = law.rows * law.cols, carrier_of(dtype).itemsize
    at_once, threads_each = (threads, 1) if size < _GROUP else (1, threads)
    each = orthogonal.nbytes(law.rows, law.cols, arithmetic, threads_each) + size * (arithmetic + dtype.itemsize)
    # One group more than the cache holds, while it is computed.
    kept = min((_groups_kept(law) + 1) * _group_size(law), law.count)
    return kept * size * dtype.itemsize + at_once * each


def _group_size(law: OrthogonalStack) -> int:
    """Return the number of matrices in a group."""
    return max(_GROUP // (law.rows * law.cols), 1) if is_batch_first(law) else law.count


def _groups_kept(law: OrthogonalStack) -> int:
    return max(_KEPT // (_group_size(law) * law.rows * law.cols), 2)


def _indices(part: Part) -> Iterator[tuple[int, Indices]]:
    """Yield the flat indices of a part, block by block, each with the number of elements before it."""
    for start in range(0, part.size, _BLOCK):
        number = np.arange(start, min(start + _BLOCK, part.size), dtype=np.int64)
        run = number // part.length
        starts = part.first + run * part.stride if isinstance(part, Runs) else part.starts[run]
        yield start, (starts + (number - run * part.length)).view(np.uint64)
