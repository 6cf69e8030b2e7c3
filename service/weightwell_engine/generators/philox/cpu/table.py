"""Given numbers as a law to be drawn: a table, from which elements are gathered."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, patterns
from weightwell_engine.laws import Values
from weightwell_engine.regions import Level, Part, Runs

# Elements whose places are found together: their indices stay in the processor's cache.
_BLOCK = 1 << 15


class Table:
    """A tensor of given numbers, which may be repeated along some axes."""

    kernels = ()

    def __init__(self, law: Values, dtype: DType):
        self._patterns = patterns(law.values, dtype)
        self._levels = _levels(law)

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""
        target = np.frombuffer(out, UNSIGNED[self._patterns.itemsize])
        done = 0
        for block in _blocks(part):
            target[done : done + block.size] = self._patterns[self._places(block)]
            done += block.size

    def _places(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the elements at some flat indices are in the table."""
        places = np.zeros_like(at)
        for size, stride in self._levels:
            at, here = np.divmod(at, size)
            places += here * stride
        return places


def _blocks(part: Part) -> Any:
    """Yield the flat indices of a part, block by block."""
    if isinstance(part, Runs) and part.count == 1:
        for start in range(0, part.length, _BLOCK):
            yield part.first + np.arange(start, min(start + _BLOCK, part.length), dtype=np.int64)
        return
    for start in range(0, part.size, _BLOCK):
        yield _indices(part, np.arange(start, min(start + _BLOCK, part.size), dtype=np.int64))


def _indices(part: Part, number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the flat indices of the elements of a part with some numbers."""
    run, column = np.divmod(number, part.length)
    starts = part.first + run * part.stride if isinstance(part, Runs) else part.starts[run]
    return starts + column


def _levels(law: Values) -> list[Level]:
    """Return the sizes and the strides of the view, innermost first; axes are merged where their places go on."""
    levels: list[Level] = [(1, 0)]
    for size, stride in zip(law.sizes[::-1], law.strides[::-1], strict=True):
        inner, step = levels[-1]
        if size == 1:
            continue
        if inner == 1:
            levels[-1] = size, stride
        elif stride == inner * step:
            levels[-1] = inner * size, step
        else:
            levels.append((size, stride))
    return levels
