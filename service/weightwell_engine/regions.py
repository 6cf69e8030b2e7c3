"""Regions: slices of a tensor, as runs of the flat row-major index.

A slice is a rectangle. In the flat index of the whole tensor a rectangle is a set of equal runs at equal distances, and
that is what generators draw.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from operator import sub

# Elements of a short run: drawing one costs no more than the call.
_SHORT = 4096

# Largest number of elements of a cover, which bounds its memory.
_COVER = 1 << 16

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


@dataclass(frozen=True, slots=True)
class Cover:
    """Runs of which only some elements are wanted: drawing all of them is faster than many short runs.

    Of every run the elements at ``i * stride + j * stride' + ...`` are picked, for the ``(size, stride)`` of ``picks``,
    outermost first. Of the elements picked from all runs, in order, those from ``begin`` to ``end - 1`` are wanted.
    """

    runs: Runs
    picks: tuple[Level, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements that are wanted."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Region:
    """The rectangle ``[starts[d], stops[d])`` in every dimension ``d`` of a tensor of the given ``shape``."""

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> "Region":
        """Return the region that is all of a tensor."""
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
        """Yield the elements ``start ... stop - 1`` of the region, in its row-major order, as few and large runs.

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

    def covers(self, start: int, stop: int) -> Iterator[Runs | Cover]:
        """Yield the elements ``start ... stop - 1`` as ``runs`` does, but a cover instead of many short runs.

        A 2 x 2 crop of every 3 x 3 kernel has runs of 2 elements. Its cover is a row of whole kernels.
        """
        levels, first = self._levels()
        inner = _innermost(levels)
        if not inner:
            yield from self.runs(start, stop)
            return
        *outer, (count, stride) = levels[: -len(inner)]
        size, span = prod(size for size, _ in inner), _span(inner)
        while start < stop:
            row, begin = divmod(start, size)
            block, place = divmod(row, count)
            rows = min(count - place, max(_COVER // span, 1), ceil((begin + stop - start) / size))
            end = min(begin + stop - start, rows * size)
            origin = first + _offset(outer, block) + place * stride
            yield Cover(Runs(origin, span, stride, rows), tuple(inner), begin, end)
            start += end - begin

    def _levels(self) -> tuple[list[Level], int]:
        """Collapse the rectangle into ``(size, stride)`` levels, outermost first, and the flat index of its corner.

        A dimension that is whole merges into the one outside it, and a single index of a dimension needs no level, so
        most slices have one or two.
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


def _innermost(levels: list[Level]) -> list[Level]:
    """Return the innermost of at least three levels, as many as lie within a short span, if these are two or more."""
    inner = [levels[i:] for i in range(1, len(levels) - 1) if _span(levels[i:]) <= _SHORT]
    return inner[0] if inner else []


def _span(levels: list[Level]) -> int:
    """Return the number of elements from the first to the last of these levels."""
    return 1 + sum((size - 1) * stride for size, stride in levels)


def _offset(levels: list[Level], index: int) -> int:
    """Return the distance of item ``index`` of these levels, outermost first, from item 0."""
    offset = 0
    for size, stride in reversed(levels):
        index, here = divmod(index, size)
        offset += here * stride
    return offset


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
