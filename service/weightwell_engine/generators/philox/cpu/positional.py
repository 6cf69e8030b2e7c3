"""Laws without random numbers: constants and lattices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, pattern
from weightwell_engine.laws import Constant, Lattice
from weightwell_engine.regions import Part, Runs


class Positional:
    """A tensor of one value, or of zeros with that value at the points of a lattice."""

    kernels = ()

    def __init__(self, law: Constant | Lattice, dtype: DType):
        self._law = law
        self._dtype = UNSIGNED[dtype.itemsize]
        self._bits = pattern(law.value, dtype)

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""
        target: NDArray[Any] = np.frombuffer(out, self._dtype)
        if isinstance(self._law, Constant):
            target[:] = self._bits
        else:
            target[:] = 0
            target[places(_points(self._law, part), part)] = self._bits


def places(points: NDArray[np.int64], part: Part) -> NDArray[np.int64]:
    """Return the positions within a part of those flat indices that the part contains."""
    if isinstance(part, Runs):
        run, column = np.divmod(points - part.first, _stride(part))
        inside = (run >= 0) & (run < part.count) & (column < part.length)
    else:
        run = np.searchsorted(part.starts, points, side="right") - 1
        column = points - part.starts[run]
        inside = (run >= 0) & (column < part.length)
    found: NDArray[np.int64] = (run * part.length + column)[inside]
    return found


def _stride(runs: Runs) -> int:
    return runs.stride if runs.count > 1 else max(runs.length, 1)


def _points(law: Lattice, part: Part) -> NDArray[np.int64]:
    """Return the points of a lattice between the ends of a part. A few points beyond the ends may be included."""
    if isinstance(part, Runs):
        start, stop = part.first, part.first + (part.count - 1) * _stride(part) + part.length
    else:
        start, stop = int(part.starts[0]), int(part.starts[-1]) + part.length
    (rows, cols), outer, inner = law.counts, max(law.strides[0], 1), max(law.strides[1], 1)
    top = max(0, -((law.first + (cols - 1) * inner - start) // outer))
    bottom = min(rows, -((law.first - stop) // outer))
    left = max(0, -((law.first + (bottom - 1) * outer - start) // inner))
    right = min(cols, -((law.first + top * outer - stop) // inner))
    return (law.first + np.arange(top, bottom)[:, None] * outer + np.arange(left, right) * inner).ravel()
