"""Laws prepared for the compiled kernels of the philox generator on a CPU.

Prepared laws are immutable or protected by a lock, and the kernels release the GIL. So any number of threads may draw
parts of a tensor at the same time.
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.generators.philox.cpu.doubles import Double, Strip, fill_doubles
from weightwell_engine.generators.philox.cpu.integers import Integers
from weightwell_engine.generators.philox.cpu.orthogonal_law import Orthogonals
from weightwell_engine.generators.philox.cpu.orthogonal_stack import OrthogonalStacks
from weightwell_engine.generators.philox.cpu.packed import Packed
from weightwell_engine.generators.philox.cpu.positional import Positional
from weightwell_engine.generators.philox.cpu.singles import Affine, Single, fill_singles
from weightwell_engine.generators.philox.cpu.sparse import SparseMatrix
from weightwell_engine.generators.philox.cpu.table import Table
from weightwell_engine.generators.philox.cpu.words import Run
from weightwell_engine.generators.philox.specification.draws import (
    Draw,
    carrier_of,
    require_numbered_rows,
    settle,
    settle_integers,
)
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, encode
from weightwell_engine.generators.philox.specification.keys import Stream, derive_key
from weightwell_engine.generators.philox.specification.truncation import Narrow, Wide
from weightwell_engine.laws import (
    Constant,
    Lattice,
    Law,
    Normal,
    Orthogonal,
    OrthogonalStack,
    PowersOfTwo,
    Sparse,
    UniformIntegers,
    Values,
)
from weightwell_engine.regions import Part


class Prepared(Protocol):
    """A law, ready to be drawn."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that draw it; each kernel depends on the ones before it."""

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part``, little-endian, into ``out``: ``part.size * dtype.itemsize`` bytes."""


def prepare(law: Law, dtype: DType, seed: int, name: str, executor: Executor | None = None) -> Prepared:
    """Return an object that draws a law for the tensor ``name``; raise ``UnsupportedSpec`` for too many rows.

    The threads of ``executor`` compute orthogonal matrices. None of them may wait for this object, or it would block.
    """
    unpacked = _prepared(law, dtype, seed, name, executor)
    return Packed(unpacked, dtype, unpacked.kernels) if dtype.packed > 1 else unpacked


def _prepared(law: Law, dtype: DType, seed: int, name: str, executor: Executor | None) -> Prepared:
    """Return an object that draws one element to an item."""
    match law:
        case Constant() | Lattice():
            return Positional(law, dtype)
        case Values():
            return Table(law, dtype)
        case Sparse():
            require_numbered_rows(law)
            elements = prepare_elements(settle(Normal(0.0, law.std), dtype), seed, name)
            return SparseMatrix(law, elements, derive_key(seed, name, Stream.MASK))
        case Orthogonal() | OrthogonalStack():
            normals = prepare_elements(settle(Normal(0.0, 1.0), carrier_of(dtype)), seed, name, Stream.GAUSSIAN)
            draw = settle(Normal(0.0, law.gain), dtype)
            if isinstance(law, Orthogonal):
                return Orthogonals(law, draw, normals, executor)
            return OrthogonalStacks(law, draw, normals, executor)
        case UniformIntegers() | PowersOfTwo():
            keys = (derive_key(seed, name, stream) for stream in (Stream.DATA, Stream.LOW))
            return Integers(settle_integers(law, dtype), *keys)
        case law:
            return prepare_elements(settle(law, dtype), seed, name)


@dataclass(frozen=True, slots=True)
class Elements:
    """A tensor of independent elements. ``law`` is the argument of the kernels in float32 or float64 arithmetic."""

    draw: Draw
    law: Single | Double

    @property
    def dtype(self) -> DType:
        """The dtype of the elements."""
        return self.draw.dtype

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that draw it."""
        return (f"singles {self._drawn.name}",) if isinstance(self.law, Single) else ("doubles",)

    @property
    def _drawn(self) -> DType:
        """The dtype that the kernels write; elements are rounded to any other dtype afterwards."""
        scaled = self.draw.exponent or self.draw.carrier is not carrier_of(self.draw.dtype)
        return self.draw.carrier if scaled else self.draw.dtype

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""
        if not part.size:
            return
        dtype, drawn = self.draw.dtype, self._drawn
        target = np.frombuffer(out, UNSIGNED[dtype.itemsize])
        if drawn is dtype and not self.draw.exponent:
            self._draw(part, target)
            return
        bits = np.empty(part.size, UNSIGNED[drawn.itemsize])
        self._draw(part, bits)
        values = bits.view(drawn.name).astype(carrier_of(dtype).name, copy=False)
        target[:] = encode(values, dtype, self.draw.exponent)

    def _draw(self, part: Part, bits: Any) -> None:
        if isinstance(self.law, Single):
            fill_singles(self.law, Run.of(part), self._drawn.name, bits)
        else:
            fill_doubles(self.law, Run.of(part), bits.view(np.float64))


@lru_cache(1024)  # cached: the result is immutable, and drawing a small file again spends most of its time here
def prepare_elements(draw: Draw, seed: int, name: str, stream: Stream = Stream.DATA) -> Elements:
    """Return an object that draws a law of independent elements."""
    data, numbers = derive_key(seed, name, stream), _numbers(draw)
    if draw.carrier is DTYPES["float32"]:
        return Elements(draw, Single._make((*numbers, data)))
    return Elements(draw, Double._make((*numbers, data, derive_key(seed, name, Stream.LOW))))


@lru_cache(1024)
def _numbers(draw: Draw) -> tuple[Any, ...]:
    """Return the fields of ``Single`` or ``Double`` before the keys, which tensors of one law share."""
    window = draw.window if isinstance(draw.window, Wide) else Wide(0, 0)
    numbers = draw.scale, draw.shift, draw.low, draw.high
    common = int(draw.variate), np.uint64(window.origin), np.uint64(window.width)
    if draw.carrier is DTYPES["float32"]:
        return *common, Affine(*map(np.float32, numbers))
    narrow = draw.window if isinstance(draw.window, Narrow) else Narrow(0, 0.0, 0.0, 0)
    return *common, Strip(narrow.side, narrow.start, narrow.span, narrow.exponent), Affine(*numbers)
