"""Uniform integers: a kernel draws the words, and numpy maps them, a block that stays in the cache at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cpu.words import Run, fill_words
from weightwell_engine.generators.philox.specification.draws import IntegerDraw
from weightwell_engine.generators.philox.specification.formats import UNSIGNED
from weightwell_engine.generators.philox.specification.keys import Key
from weightwell_engine.regions import Part, Runs, ScatteredRuns, is_single

# Words that are drawn together.
_WORDS = 1 << 15

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@dataclass(frozen=True, slots=True)
class Integers:
    """A tensor of uniform integers, or of powers of two with uniform exponents."""

    draw: IntegerDraw
    data: Key
    low: Key

    @property
    def kernels(self) -> tuple[str, ...]:
        """The name of the kernel that draws it."""
        return ("words",)

    def fill(self, part: Part, out: memoryview) -> None:
        """Write the elements of ``part`` into ``out``."""
        target, done = np.frombuffer(out, UNSIGNED[self.draw.dtype.itemsize]), 0
        for block in _blocks(part, _WORDS * (32 // min(self.draw.field, 32))):
            self._write(block, target[done : done + block.size])
            done += block.size

    def _write(self, part: Part, out: NDArray[Any]) -> None:
        kind, draw = out.dtype.type, self.draw
        if self._is_words(part, out):
            fill_words(
                self.data, Run(int(part.starts[0]) * out.itemsize // 4, out.nbytes // 4, 0, 1), out.view(np.uint32)
            )
            values = self._cut(out)
        else:
            values = self._drawn(part)
        start = kind(draw.start % (1 << 8 * out.itemsize))
        if start or values is not out:
            np.add(values if values.dtype == kind else values.astype(kind), start, out=out)
        if draw.shift:
            np.left_shift(out, kind(draw.shift), out=out)

    def _drawn(self, part: Part) -> NDArray[Any]:
        """Return ``u * count >> field`` of the elements of a part, in unsigned integers of any size."""
        field, count = self.draw.field, self.draw.count
        if field == 64:
            return _scaled_draws(_words(self.data, part), _words(self.low, part), count)
        u = _words(self.data, part) if field == 32 else self._fields(part)
        if count & (count - 1):
            wide = u.astype(np.uint64)
            wide *= np.uint64(count)
            wide >>= _HALF
            return wide
        return self._cut(u)

    def _is_words(self, part: Part, out: NDArray[Any]) -> bool:
        """Whether the elements of a part are whole words, and ``out`` is memory for them."""
        aligned = out.nbytes % 4 == 0 and out.ctypes.data % 4 == 0
        if (
            not aligned
            or self.draw.field != 8 * out.itemsize
            or out.itemsize > 4
            or self.draw.count & (self.draw.count - 1)
        ):
            return False
        return is_single(part) and int(part.starts[0]) * out.itemsize % 4 == 0

    def _cut(self, u: NDArray[Any]) -> NDArray[Any]:
        """Keep the upper bits of fields, as many as a count that is a power of two needs."""
        if unused := self.draw.field - (self.draw.count.bit_length() - 1):
            np.right_shift(u, u.dtype.type(unused), out=u)  # to zero, if all bits are unused
        return u

    def _fields(self, part: Part) -> NDArray[Any]:
        """Return the fields of 8 or 16 bits of the elements of a part."""
        fields, kind = 32 // self.draw.field, UNSIGNED[self.draw.field // 8]
        if is_single(part):
            first, begin = divmod(int(part.starts[0]), fields)
            drawn = _words(self.data, Runs(first, -(-(begin + part.length) // fields), 0, 1))
            return drawn.view(kind)[begin : begin + part.length]
        starts = part.starts
        words = (part.length + fields - 2) // fields + 1  # of a run that begins at the last field of a word
        drawn = _words(self.data, ScatteredRuns(starts // fields, words))
        of_runs: NDArray[Any] = drawn.view(kind).reshape(starts.size, -1)
        lead = starts % fields
        if (lead == lead[0]).all():
            chosen = of_runs[:, lead[0] : lead[0] + part.length]
        else:
            chosen = np.take_along_axis(of_runs, lead[:, None] + np.arange(part.length), axis=1)
        return chosen.reshape(-1)


def _words(key: Key, part: Part) -> NDArray[np.uint32]:
    words = np.empty(part.size, np.uint32)
    fill_words(key, Run.of(part), words)
    return words


def _scaled_draws(high: NDArray[np.uint32], low: NDArray[np.uint32], count: int) -> NDArray[np.uint64]:
    """Return ``(high * 2^32 + low) * count >> 64``, by products of 32-bit halves."""
    upper, lower = high.astype(np.uint64), low.astype(np.uint64)
    if count == 1 << 64:
        return upper << _HALF | lower
    small = np.uint64(count & 0xFFFFFFFF)
    middle = upper * small + (lower * small >> _HALF)
    if not count >> 32:
        return middle >> _HALF
    large = np.uint64(count >> 32)
    other = lower * large + (middle & _LOW)
    scaled: NDArray[np.uint64] = upper * large + (middle >> _HALF) + (other >> _HALF)
    return scaled


def _blocks(part: Part, size: int) -> Iterator[Part]:
    """Yield a part in parts of about ``size`` elements: some whole runs, or a piece of one."""
    starts = part.starts
    runs = max(1, size // max(part.length, 1))
    for row in range(0, starts.size, runs):
        together = starts[row : row + runs]
        for column in range(0, part.length, size):
            length = min(size, part.length - column)
            if together.size == 1:
                yield Runs(int(together[0]) + column, length, length, 1)
            else:
                yield ScatteredRuns(together + column, length)
