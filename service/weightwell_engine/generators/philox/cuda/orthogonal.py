"""Haar-random orthogonal matrices on a GPU, with the bits of ``cpu.orthogonal`` from the same normals.

Kernels are enqueued on the current stream, and the host does not wait for them: no size and no decision depends on
their results.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from weightwell_engine.generators.philox.cuda.language import OPTIONS
from weightwell_engine.generators.philox.cuda.launches import on
from weightwell_engine.generators.philox.cuda.orthogonal_kernels import (
    add_up,
    complete,
    gram_chunks,
    invert,
    multiply_chunks,
    multiply_tiles,
    square_chunks,
    subtract_product,
)
from weightwell_engine.generators.philox.specification.orthogonal import BLOCK

_TILE = BLOCK * BLOCK

# Tiles of partial sums: enough programs to keep a device busy, and 128 MiB in float64.
_WAITING = 1 << 12


def haar_(gaussian: Tensor) -> Tensor:
    """Turn independent standard normals into a Haar-random matrix, in place, and return it.

    ``gaussian`` (rows, cols) is in float32 or float64. The result equals ``cpu.orthogonal.haar`` with a gain of 1: the
    rows or the columns, whichever are fewer, are orthonormal. This needs ``nbytes`` more device memory, which returns
    to the allocator at the end, for use on the same stream.
    """
    tall = gaussian if gaussian.shape[0] >= gaussian.shape[1] else gaussian.T
    if tall.numel():
        with on(gaussian.device):
            tall.copy_(_multiplied_out(tall)[: tall.shape[0], : tall.shape[1]])
    return gaussian


def nbytes(rows: int, cols: int, itemsize: int) -> int:
    """Return the bytes of device memory that ``haar_`` needs in addition to the matrix."""
    long, short = _padded(max(rows, cols)), _padded(min(rows, cols))
    if not short:
        return 0
    tiles, chunks = _tiles(long, short), long // BLOCK
    reflectors = long * short + BLOCK * (short + long) + short  # V; T, and a block of V, transposed; their heads
    doubles = tiles * (chunks + 1) * _TILE + 2 * short  # sums and their totals; tails and halves
    return itemsize * (reflectors + long * short + tiles * _TILE) + 8 * doubles


def _multiplied_out(gaussian: Tensor) -> Tensor:
    """Return Q for normals (rows, cols), rows >= cols, padded to whole tiles. The padding of Q's columns is unused."""
    v, q = gaussian.new_zeros((2, *(_padded(size) for size in gaussian.shape))).unbind()
    v[: gaussian.shape[0], : gaussian.shape[1]] = gaussian
    heads = v.diagonal().clone()
    v.tril_(-1)
    factors = v.new_empty((len(heads) // BLOCK, BLOCK, BLOCK))
    scratch = _Scratch.of(v)
    panels = [slice(start, start + scratch.width) for start in range(0, len(heads), scratch.width)]
    for panel in panels:
        reflectors = v[panel.start :, panel]
        halves = _complete(reflectors, q[panel.start :, panel], heads[panel], scratch)
        _factor(reflectors, halves, factors[panel.start // BLOCK :], scratch)
    for panel in panels:
        for start in reversed(range(0, min(panel.stop, len(heads)), BLOCK)):
            # Columns before the block's are still zero in its rows.
            columns = slice(max(start, panel.start), panel.stop)
            _reflect(v[start:, start : start + BLOCK], factors[start // BLOCK], q[start:, columns], scratch)
    return q


@dataclass(frozen=True, slots=True)
class _Scratch:
    """Device memory for intermediate results, for ``tiles`` of 64 columns that are processed together."""

    sums: Tensor
    """(tiles, chunks, 64, 64) float64"""
    totals: Tensor
    """(tiles, 64, 64) float64"""
    products: Tensor
    """(tiles, 64, 64)"""
    flipped: Tensor
    """(64, rows)"""

    @classmethod
    def of(cls, v: Tensor) -> "_Scratch":
        """Allocate the workspace for reflectors (rows, cols)."""
        rows, cols = v.shape
        tiles, chunks = _tiles(rows, cols), rows // BLOCK
        sums = v.new_empty((tiles, chunks, BLOCK, BLOCK), dtype=torch.float64)
        totals = v.new_empty((tiles, BLOCK, BLOCK), dtype=torch.float64)
        return cls(sums, totals, v.new_empty(totals.shape), v.new_empty((BLOCK, rows)))

    @property
    def width(self) -> int:
        """The number of columns that this memory is for."""
        return len(self.products) * BLOCK


def _complete(v: Tensor, q: Tensor, heads: Tensor, scratch: _Scratch) -> Tensor:
    """Set the diagonals of V and Q (rows, cols) for normals with ``heads`` (cols) on theirs; return ``|v|^2 / 2``."""
    chunks, blocks = len(v) // BLOCK, v.shape[1] // BLOCK
    tails, halves = heads.new_empty((2, len(heads)), dtype=torch.float64).unbind()
    square_chunks[chunks, blocks](v, v.stride(0), scratch.sums, **OPTIONS)
    add_up[1, blocks](scratch.sums, chunks * BLOCK, tails, **OPTIONS)
    complete[blocks,](v, q, v.stride(0), heads, tails, halves, **OPTIONS)
    return halves


def _factor(v: Tensor, halves: Tensor, factors: Tensor, scratch: _Scratch) -> None:
    """Find the triangular factors, transposed, of the blocks of reflectors V (rows, cols)."""
    chunks, blocks = len(v) // BLOCK, v.shape[1] // BLOCK
    gram_chunks[chunks, blocks](v, v.stride(0), scratch.sums, **OPTIONS)
    add_up[BLOCK, blocks](scratch.sums, chunks * _TILE, scratch.totals, **OPTIONS)
    invert[blocks,](scratch.totals, halves, factors, **OPTIONS)


def _reflect(v: Tensor, factor: Tensor, q: Tensor, scratch: _Scratch) -> None:
    """Apply ``I - V T V'`` to Q (rows, cols), where V is a block (rows, 64), and ``factor`` is T, transposed."""
    chunks, tiles = len(q) // BLOCK, q.shape[1] // BLOCK
    sums, totals = scratch.sums.view(q.dtype), scratch.totals.view(q.dtype)
    multiply_chunks[chunks, tiles](v, q, q.stride(0), sums, **OPTIONS)
    add_up[BLOCK, tiles](sums, chunks * _TILE, totals, **OPTIONS)
    multiply_tiles[tiles,](factor, totals, scratch.products, **OPTIONS)
    flipped = scratch.flipped[:, : len(v)].copy_(v.T)
    subtract_product[chunks, tiles](flipped, flipped.stride(0), scratch.products, q, q.stride(0), **OPTIONS)


def _tiles(rows: int, cols: int) -> int:
    """Return the number of blocks of columns that are processed together."""
    return max(min(cols // BLOCK, _WAITING // (rows // BLOCK)), 1)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
