"""Segments: the rows of the table that a launch draws.

One launch draws many parts of many tensors. A table has one row for each part: its law, its place, and the number of
its first program. A program draws a tile of one part. It finds the row by its program number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton.language as tl

from weightwell_engine.generators.philox.cuda import fields
from weightwell_engine.generators.philox.cuda.fields import ROW
from weightwell_engine.generators.philox.cuda.language import OPTIONS, kernel
from weightwell_engine.regions import Runs

TILE = 2048
"""Items of a tile: for each of 128 threads four groups of four."""


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel and its compile-time constants; it writes elements of ``itemsize`` bytes.

    A kernel with many registers draws only a ``share`` of a tile. ``over``: it overwrites other elements and must come
    last.
    """

    kernel: Any
    itemsize: int
    lane: int
    constants: tuple[tuple[str, Any], ...] = ()
    share: int = 1
    over: bool = False

    @property
    def tile(self) -> int:
        """Items that one program draws."""
        return TILE // self.share

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a launch, in addition to the output, the table and the range of rows."""
        return {**dict(self.constants), "LANE": self.lane, "TILE": self.tile, **OPTIONS}


@dataclass(frozen=True, slots=True)
class Segment:
    """The work for one part of a tensor: a program, ``items`` elements or points of a lattice, and their row.

    The row is complete except for ``begin``.
    """

    program: Program
    row: Any
    items: int


@dataclass(frozen=True, slots=True)
class Span:
    """Runs and their targets. An item is a single element, or a group of four elements from one Philox block.

    A lane draws and writes a whole group at once. This needs targets at multiples of four.
    """

    lane: int
    runs: Runs
    target: int


def spans(runs: Runs, target: int) -> Iterator[Span]:
    """Divide runs into as many groups of four as possible, and single elements; ``target`` is the first target."""
    whole = runs.first | target
    if runs.count > 1:
        whole |= runs.length | runs.stride
        yield Span(1, runs, target) if whole % 4 else Span(4, _quarter(runs), target)
        return
    head = min(-runs.first % 4, runs.length)
    body = (runs.length - head) // 4 * 4
    if (target - runs.first) % 4:
        head, body = runs.length, 0
    for lane, start, stop in ((1, 0, head), (4, head, head + body), (1, head + body, runs.length)):
        if start < stop:
            part = Runs(runs.first + start, stop - start, 0, 1)
            yield Span(lane, part if lane == 1 else _quarter(part), target + start)


def _quarter(runs: Runs) -> Runs:
    return Runs(runs.first // 4, runs.length // 4, runs.stride // 4, runs.count)


def law_row(**values: float) -> Any:
    """Return a row with some fields set and all others empty."""
    row = np.zeros((), ROW)
    for name, value in values.items():
        row[name] = value
    return row


def placed(row: Any, span: Span) -> Any:
    """Return a copy of a row for a part of the tensor."""
    row, runs = row.copy(), span.runs
    row["target"] = span.target
    row["first"], row["length"], row["stride"], row["count"] = runs.first, runs.length, runs.stride, runs.count
    return row


_LONG = tl.constexpr(1 << 30)


@kernel
def find(table: tl.tensor, start: tl.tensor, count: tl.tensor, TILE: tl.constexpr) -> tl.tensor:
    """Return this program's row, of ``count`` rows from ``start`` on, and the number of the first item of its tile."""
    program = tl.program_id(0)
    while count > 1:
        half = count // 2
        later = program >= tl.load(table + (start + half) * fields.COUNT_OF_FIELDS + fields.BEGIN)
        start = tl.where(later, start + half, start)
        count = tl.where(later, count - half, half)
    row = table + start * fields.COUNT_OF_FIELDS
    return row, (program - tl.load(row + fields.BEGIN)) * TILE


@kernel
def indices(row: tl.tensor, done: tl.tensor, LANE: tl.constexpr, TILE: tl.constexpr) -> tl.tensor:
    """Return the flat indices of a tile's elements or groups of four. Beyond the last item they have no meaning.

    Lanes divide 32-bit integers only, because 64-bit divisions take a hundred instructions: they count from the start
    of the tile's first run.
    """
    lane = tl.arange(0, TILE // LANE)
    first, length = tl.load(row + fields.FIRST), tl.load(row + fields.LENGTH)
    done = done // LANE
    if tl.load(row + fields.COUNT) == 1:
        at = first + done + lane
    else:
        number = done // length
        column = done - number * length
        beyond = lane - tl.minimum(length - column, _LONG).to(tl.int32)
        short = tl.minimum(length, _LONG).to(tl.int32)
        later = beyond >= 0
        number += tl.where(later, 1 + beyond // short, 0)
        at = first + number * tl.load(row + fields.STRIDE) + tl.where(later, beyond % short, column + lane)
    return at


@kernel
def present(row: tl.tensor, done: tl.tensor, LANE: tl.constexpr, TILE: tl.constexpr) -> tl.tensor:
    """Return the mask of a tile's existing elements."""
    size = tl.load(row + fields.LENGTH) * tl.load(row + fields.COUNT) * LANE
    return tl.arange(0, TILE) < tl.multiple_of(size - done, LANE)


@kernel
def store(
    out: tl.tensor, row: tl.tensor, done: tl.tensor, bits: tl.tensor, LANE: tl.constexpr, TILE: tl.constexpr
) -> None:
    """Write a tile, groups of four at multiples of four."""
    target = tl.multiple_of(tl.load(row + fields.TARGET) + done, LANE)
    tl.store(out + target + tl.arange(0, TILE), bits.to(out.dtype.element_ty), mask=present(row, done, LANE, TILE))
