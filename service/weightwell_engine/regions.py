"""Regions: slices of a tensor, as runs of the flat row-major index.

A slice is a rectangle. In the flat index of the whole tensor, a rectangle is a set of runs of equal length. These runs
are what generators draw.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from operator import sub

import numpy as np
from numpy.typing import NDArray

# The least number of elements of a block of runs that is worth a separate call.
_BLOCK = 4096

# The number of runs in one list of starts.
_LISTED = 1 << 15

Level = tuple[int, int]  # a number of equal items, and the distance between neighbours


@dataclass(frozen=True, slots=True)
class Runs:
    """The flat indices ``first + j * stride + i`` for ``0 <= j < count`` and ``0 <= i < length``, in that order."""

    first: int
    length: int
    stride: int
    count: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.length * self.count

    @property
    def starts(self) -> NDArray[np.int64]:
        """Flat indices at which the runs begin (count)."""
        return self.first + self.stride * np.arange(self.count, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ScatteredRuns:
    """The flat indices ``starts[j] + i`` for ``0 <= i < length``, in that order; ``starts`` ascends, not empty."""

    starts: NDArray[np.int64]
    length: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.length * self.starts.size


Part = Runs | ScatteredRuns
"""Elements of a tensor that generators draw in one call."""


def indices(part: Part) -> NDArray[np.int64]:
    """Return the flat indices of a part (size), in order."""
    return (part.starts[:, None] + np.arange(part.length, dtype=np.int64)).ravel()


def is_single(part: Part) -> bool:
    """Whether a part is a single run."""
    return isinstance(part, Runs) and part.count == 1


def ravel(index: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Return the flat index of an element of a tensor of the given shape."""
    flat = 0
    for here, size in zip(index, shape, strict=True):
        flat = flat * size + here
    return flat


@dataclass(frozen=True, slots=True)
class Region:
    """The rectangle ``[starts[d], stops[d])`` in every dimension ``d`` of a tensor of the given ``shape``."""

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> "Region":
        """Return the region of a whole tensor."""
        return cls(shape, (0,) * len(shape), shape)

    @property
    def extent(self) -> tuple[int, ...]:
        """The shape of the region itself."""
        return tuple(map(sub, self.stops, self.starts))

    @property
    def size(self) -> int:
        """Number of elements in the region."""
        return prod(self.extent)

    @property
    def is_whole(self) -> bool:
        """Whether the region is all of its tensor."""
        return self.extent == self.shape

    def runs(self, start: int, stop: int) -> Iterator[Runs]:
        """Yield the elements ``start ... stop - 1`` of the region, in row-major order, as a few large runs.

        ``0 <= start <= stop <= size``.
        """
        levels, first = self._levels()
        (length, _), *outer = reversed(levels)
        count, stride = outer[0] if outer else (1, length)
        block = length * count

        while start < stop:
            begin = start % block
            end = min(begin + stop - start, block)
            origin = first + _offset(outer[:0:-1], start // block)
            yield from _block_runs(origin, length, stride, begin, end)
            start += end - begin

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the elements ``start ... stop - 1`` as ``runs`` does, but put many short runs into one part.

        A 2 x 2 crop of every 3 x 3 kernel has runs of 2 elements.
        """
        if self.is_whole and start < stop:
            yield Runs(start, stop - start, stop - start, 1)
            return
        levels, first = self._levels()
        (length, _), *outer = reversed(levels)
        short = len(outer) > 1 and 0 < length * outer[0][0] < _BLOCK
        whole, end = (-(-start // length), stop // length) if short else (0, 0)  # runs that are wanted whole
        if whole >= end:
            yield from self.runs(start, stop)
            return
        yield from self.runs(start, whole * length)
        for run in range(whole, end, _LISTED):
            yield ScatteredRuns(first + _offsets(outer, run, min(run + _LISTED, end)), length)
        yield from self.runs(end * length, stop)

    def rank(self, index: int) -> int:
        """Return how many elements of the region have a flat index of the whole tensor that is below ``index``."""
        rank, stride, inner = 0, prod(self.shape), self.size
        for length, start, stop in zip(self.shape, self.starts, self.stops, strict=True):
            stride, inner = stride // length, inner // (stop - start)
            here, index = divmod(index, stride)
            if here >= stop:
                return rank + (stop - start) * inner
            if here < start:
                return rank
            rank += (here - start) * inner
        return rank + index

    def meet(self, other: "Region") -> "Region":
        """Return the elements that are in this region and in another of the same tensor."""
        starts = tuple(map(max, self.starts, other.starts))
        stops = tuple(map(min, self.stops, other.stops))
        return Region(self.shape, starts, tuple(map(max, starts, stops)))

    def within(self, outer: "Region") -> "Region":
        """Return the same elements as a region of ``outer``, which has them all."""
        starts = tuple(map(sub, self.starts, outer.starts))
        return Region(outer.extent, starts, tuple(map(sub, self.stops, outer.starts)))

    def blocks(self, start: int, stop: int, size: int) -> Iterator[tuple[int, Part]]:
        """Yield the elements ``start ... stop - 1`` as ``parts`` does, each part with the number of its first element.

        Parts that are not a single run have at most ``size`` elements: whole runs, unless a run is longer.
        """
        for part in self.parts(start, stop):
            end = start + part.size
            if is_single(part):
                yield start, part
            else:
                step = size - size % part.length if part.length <= size else size
                for begin in range(start, end, step):
                    at = begin
                    for each in self.parts(begin, min(begin + step, end)):
                        yield at, each
                        at += each.size
            start = end

    def work(self, start: int, stop: int) -> tuple[int, int]:
        """Estimate the number of parts in ``start ... stop - 1``, and their cost as a number of elements of a long run.

        Each run costs about eight more elements. The estimate itself takes the same short time for any region.
        """
        if start >= stop:
            return 0, 0
        levels, _ = self._levels()
        (length, _), (count, _) = levels[-1], levels[-2] if len(levels) > 1 else (1, 0)
        runs = -(-(stop - start) // length)
        of_a_part = _LISTED if len(levels) > 2 and length * count < _BLOCK else count
        return -(-runs // of_a_part), stop - start + 8 * runs

    def _levels(self) -> tuple[list[Level], int]:
        """Return the rectangle as ``(size, stride)`` levels, outermost first, and the flat index of its first element.

        A whole dimension is merged with the next outer one. A dimension of one index needs no level. So most slices
        have one or two levels.
        """
        levels, first, stride = [(1, 1)], 0, 1
        for length, start, stop in reversed(list(zip(self.shape, self.starts, self.stops, strict=True))):
            first += start * stride
            size, inner = levels[-1]
            if size * inner == stride:
                levels[-1] = (size * (stop - start), inner)
            elif stop - start != 1:
                levels.append((stop - start, stride))
            stride *= length
        return levels[::-1], first


def _offset(levels: list[Level], index: int) -> int:
    """Return the offset of item ``index`` relative to item 0; ``levels`` are outermost first."""
    offset = 0
    for size, stride in reversed(levels):
        index, here = divmod(index, size)
        offset += here * stride
    return offset


def _offsets(levels: list[Level], start: int, stop: int) -> NDArray[np.int64]:
    """Return the offsets of items ``start ... stop - 1`` relative to item 0; ``levels`` are innermost first."""
    items = np.arange(start, stop, dtype=np.int64)
    offsets = np.zeros_like(items)
    for size, stride in levels:
        rest = items // size
        offsets += (items - rest * size) * stride
        items = rest
    return offsets


def _block_runs(origin: int, length: int, stride: int, begin: int, end: int) -> Iterator[Runs]:
    """Yield the elements ``begin ... end - 1`` of a block of runs: a partial run, the whole ones, a partial run."""
    row, column = divmod(begin, length)
    if column:
        taken = min(length - column, end - begin)
        yield Runs(origin + row * stride + column, taken, taken, 1)
        begin, row = begin + taken, row + 1
    whole, rest = divmod(end - begin, length)
    if whole and end > begin:
        yield Runs(origin + row * stride, length, stride, whole)
        row += whole
    if rest and end > begin:
        yield Runs(origin + row * stride, rest, rest, 1)
