"""Early numbers: the reference draws small parts while no kernel is loaded in this process.

Numba's import and the first kernel take about half a second if the machine code is on disk, and seconds if not. Until
then, the reference draws small parts, as long as all of them together take less than the load. It has the same bits.
"""

from collections.abc import Callable
from threading import RLock
from typing import Protocol

import numpy as np

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.cpu.packed import Packed
from weightwell_engine.generators.philox.cpu.positional import Positional
from weightwell_engine.generators.philox.cpu.table import Table
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.draws import require_numbered_rows
from weightwell_engine.laws import Constant, Lattice, Law, Orthogonal, OrthogonalStack, Sparse, Values
from weightwell_engine.regions import Part

# The time that the reference takes, in the time of one element, about 0.3 us: a call of it, a word of the mask of a
# sparse matrix that it sorts, an orthogonal matrix and an element of one. Measured on two cores.
_CALL, _RANKED, _MATRIX, _REFLECTED = 1 << 11, 2, 1 << 14, 12

# The most that the reference draws at once, and in all: about 0.3 s.
_LARGEST, _ALLOWED = 1 << 16, 1 << 20


class Prepared(Protocol):
    """A law, ready to be drawn."""

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part``, little-endian, into ``out``: ``part.size * dtype.itemsize`` bytes."""


class Allowance:
    """The work that the reference may still do in this process."""

    def __init__(self, left: int = _ALLOWED):
        self._left = left

    @property
    def is_over(self) -> bool:
        """Whether the kernels draw everything."""
        return self._left <= 0

    def takes(self, law: Law, part: Part) -> bool:
        """Return whether the reference draws a part of a law, and count its work."""
        # No lock: if two threads subtract at once, one subtraction may be lost, which costs little time.
        work = _work(law, part)
        if work > min(_LARGEST, self._left):
            return False
        self._left -= work
        return True

    def end(self) -> None:
        """Let the kernels draw everything from now on: they are loaded."""
        self._left = 0


allowance = Allowance()


def prepare(law: Law, dtype: DType, seed: int, name: str, kernels: Callable[[], Prepared]) -> Prepared:
    """Return an object that draws a law for the tensor ``name``; ``kernels`` returns the one that uses the kernels.

    Constants, lattices and given numbers need no kernel.
    """
    match law:
        case Constant() | Lattice() | Values():
            return positional(law, dtype)
        case Sparse():
            require_numbered_rows(law)
    if allowance.is_over:
        return kernels()
    return Early(reference.Prepared(law, dtype, seed, name), kernels)


def positional(law: Constant | Lattice | Values, dtype: DType) -> Prepared:
    """Return an object that draws a law without random numbers."""
    unpacked = Table(law, dtype) if isinstance(law, Values) else Positional(law, dtype)
    return Packed(unpacked, dtype) if dtype.packed > 1 else unpacked


class Early:
    """A law that the reference draws, until the allowance refuses a part. Then the kernels draw it."""

    def __init__(self, early: reference.Prepared, kernels: Callable[[], Prepared]):
        self._early = early
        self._load = kernels
        self._lock = RLock()
        self._kernels: Prepared | None = None

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""
        if self._kernels is None and not _flushes() and allowance.takes(self._early.law, part):
            with np.errstate(all="ignore"):
                self._early.fill(part, out)
            return
        with self._lock:
            if self._kernels is None:
                self._kernels = self._load()
        self._kernels.fill(part, out)


def _flushes() -> bool:
    """Whether this thread rounds subnormal numbers to zero. numpy's arithmetic would, and the kernels do not."""
    return not np.float32(1e-40) * np.float32(1.0)


def _work(law: Law, part: Part) -> int:
    """Return the work of the reference for a part, in elements."""
    match law:
        case Sparse(rows, cols):
            return _CALL + part.size + _RANKED * rows * min(cols, part.size)
        case Orthogonal(rows, cols):
            return _CALL + part.size + _MATRIX + _REFLECTED * rows * cols
        case OrthogonalStack(rows, cols) as stack:
            return _CALL + part.size + stack.count * (_MATRIX + _REFLECTED * rows * cols)
    return _CALL + part.size
