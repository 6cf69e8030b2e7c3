"""Regions: which elements of a tensor are wanted, as runs of the flat row-major index.

A slice of a tensor is a rectangle. In the flat index of the whole tensor a rectangle is a set of equal runs at equal
distances, which is the one shape that every generator understands.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod


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
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    @property
    def size(self) -> int:
        """Number of elements in the region."""
        return prod(self.extent)

    @property
    def is_whole(self) -> bool:
        """Whether the region is all of its tensor."""
        return self.extent == self.shape

    def runs(self, start: int, stop: int) -> Iterator[Runs]:
        """Yield the elements ``start ... stop - 1`` of the region, in its own row-major order, as few, large runs.

        ``0 <= start <= stop <= size``.
        """
        levels, first = self._levels()
        (length, _), *outer = reversed(levels)
        count, stride = outer[0] if outer else (1, length)
        block = length * count

        def origin(index: int) -> int:
            """Flat index in the tensor of the block that holds element ``index`` of the region."""
            position, rest = first, index // block
            for size, step in outer[1:]:
                rest, here = divmod(rest, size)
                position += here * step
            return position

        while start < stop:
            begin = start % block
            end = min(begin + stop - start, block)
            yield from _block_runs(origin(start), length, stride, begin, end)
            start += end - begin

    def _levels(self) -> tuple[list[tuple[int, int]], int]:
        """Collapse the rectangle into ``(size, stride)`` levels, outermost first, and the flat index of its corner.

        A dimension that is taken whole merges into the one outside it, and one of which a single index is taken is no
        level at all, so most slices end with one or two.
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
