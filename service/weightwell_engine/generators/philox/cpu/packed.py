"""Dtypes that pack several elements into a byte: a law draws one to a byte, and the bytes are put together."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from weightwell_engine.dtypes import DType
from weightwell_engine.regions import Part, Runs, ScatteredRuns

# Elements that are drawn before they are packed: their bytes stay in the processor's cache.
_BLOCK = 1 << 16


class Unpacked(Protocol):
    """A law that writes one element to a byte."""

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out`` (part.size)."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A law of a dtype that packs elements. The first element of an item is in its lowest bits."""

    law: Unpacked
    dtype: DType
    kernels: tuple[str, ...] = ()

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the items of ``part`` into ``out``: ``part.size`` bytes."""
        done, packed = 0, self.dtype.packed
        for block in _blocks(part, _BLOCK // packed):
            elements = np.empty((block.size, packed), np.uint8)
            self.law.fill(elements_of(block, packed), elements.data.cast("B"))
            items = np.frombuffer(out, np.uint8)[done : done + block.size]
            items[:] = elements[:, 0]
            for place in range(1, packed):
                items |= elements[:, place] << (place * self.dtype.bits)
            done += block.size


def elements_of(part: Part, packed: int) -> Part:
    """Return the elements of the items of a part."""
    if isinstance(part, Runs):
        return Runs(packed * part.first, packed * part.length, packed * part.stride, part.count)
    return ScatteredRuns(packed * part.starts, packed * part.length)


def _blocks(part: Part, size: int) -> Iterator[Part]:
    """Yield a part in parts of at most ``size`` items: some whole runs, or a piece of one."""
    scattered, runs = part.starts if isinstance(part, ScatteredRuns) else None, max(1, size // max(part.length, 1))
    count = part.count if isinstance(part, Runs) else part.starts.size
    for row in range(0, count, runs):
        together = min(runs, count - row)
        for column in range(0, part.length, size):
            length = min(size, part.length - column)
            if scattered is not None:
                yield ScatteredRuns(scattered[row : row + together] + column, length)
            elif isinstance(part, Runs):
                yield Runs(part.first + row * part.stride + column, length, part.stride, together)
