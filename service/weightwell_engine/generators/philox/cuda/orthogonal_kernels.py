"""Kernels of orthogonal matrices: matrix products with a fixed order of summation (docs/orthogonal.md).

Nearly all of the work is ``_product``. For each element of a 64 x 64 tile, it adds 64 terms to zero, in order, and
rounds every product and every sum. It reads both matrices by rows. So the triangular factors, and a copy of the current
reflectors, are stored transposed.

A longer sum is split into sums of 64 terms, one for each program. Other programs add these up in order.

Everything is padded with zeros to whole tiles. This changes no sum, and no masks are needed. All matrices are
row-major, and ``step`` is the distance of two rows. Tiles that only kernels use are contiguous. All integer arguments
of a kernel are multiples of 64, because Triton compiles again for other numbers and for 1.
"""

import triton.language as tl

from weightwell_engine.generators.philox.cuda.language import entry, kernel
from weightwell_engine.generators.philox.specification.orthogonal import BLOCK

_BLOCK = tl.constexpr(BLOCK)
_TILE = tl.constexpr(BLOCK * BLOCK)


@kernel
def _product(a: tl.tensor, a_step: tl.tensor, b: tl.tensor, b_step: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Return A' B, laid out by ``_rows`` and ``_columns``, for the 64 rows of A and B that begin at ``a`` and ``b``.

    Triton distributes the last axes of the layout over the 128 threads. The first two axes stay within a thread. So a
    thread keeps the sums of 8 rows and 4 columns in registers. In float32 it loads 3 vectors of 16 bytes for 64
    operations. Neighbours load the same vectors, and no thread waits for another.
    """
    rows, columns = _rows(), _columns()
    total = tl.zeros((8, 4, 8, 16), dtype)
    for _ in tl.range(0, _BLOCK, loop_unroll_factor=4):
        total += tl.load(a + rows).to(dtype) * tl.load(b + columns).to(dtype)
        a += a_step
        b += b_step
    return total


@kernel
def _rows() -> tl.tensor:
    """Return the rows of a tile (8, 1, 8, 1)."""
    return tl.arange(0, 8)[:, None, None, None] + 8 * tl.arange(0, 8)[None, None, :, None]


@kernel
def _columns() -> tl.tensor:
    """Return the columns of a tile (1, 4, 1, 16)."""
    return tl.arange(0, 4)[None, :, None, None] + 4 * tl.arange(0, 16)[None, None, None, :]


@kernel
def _elements(step: tl.tensor) -> tl.tensor:
    """Return the offsets of a tile's elements (8, 4, 8, 16) in a matrix."""
    return _rows() * step + _columns()


@entry
def square_chunks(v: tl.tensor, step: tl.tensor, sums: tl.tensor) -> None:
    """Sum the squares in V's columns, 64 rows and 64 columns to a program: ``sums`` (blocks, chunks, 64) float64."""
    chunk, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lanes = tl.arange(0, _BLOCK)
    total = tl.zeros((_BLOCK,), tl.float64)
    for k in range(_BLOCK):
        x = tl.load(v + (chunk * _BLOCK + k) * step + block * _BLOCK + lanes).to(tl.float64)
        total += x * x
    tl.store(sums + (block * tl.num_programs(0) + chunk) * _BLOCK + lanes, total)


@entry
def complete(
    v: tl.tensor, q: tl.tensor, step: tl.tensor, heads: tl.tensor, tails: tl.tensor, halves: tl.tensor
) -> None:
    """Set the diagonals of V and Q, 64 columns to a program, and find ``halves`` (cols): ``|v|^2 / 2``.

    ``heads`` (cols) are the normals on the diagonal, and ``tails`` (cols) the sums of the squares of those below it.
    """
    column = tl.program_id(0) * _BLOCK + tl.arange(0, _BLOCK)
    diagonal = column.to(tl.int64) * (step + 1)
    head, tail = tl.load(heads + column).to(tl.float64), tl.load(tails + column)
    sign = tl.where(head.to(tl.int64, bitcast=True) < 0, -1.0, 1.0).to(tl.float64)
    alone = tail == 0.0  # nothing to reflect, or padding: v stays zero, and the reflector is the identity
    first = tl.where(alone, 0.0, head + sign * tl.sqrt(head * head + tail)).to(v.dtype.element_ty)
    tl.store(v + diagonal, first)
    tl.store(q + diagonal, tl.where(alone, sign, -sign))
    first = first.to(tl.float64)
    tl.store(halves + column, tl.where(alone, 1.0, (first * first + tail) * 0.5))


@entry
def gram_chunks(v: tl.tensor, step: tl.tensor, sums: tl.tensor) -> None:
    """Multiply V' by V for blocks of 64 columns, 64 rows to a program: ``sums`` (blocks, chunks, 64, 64) float64."""
    chunk, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = v + chunk * _BLOCK * step + block * _BLOCK
    target = sums + (block * tl.num_programs(0) + chunk) * _TILE
    tl.store(target + _elements(_BLOCK), _product(rows, step, rows, step, tl.float64))


@entry
def multiply_chunks(v: tl.tensor, q: tl.tensor, step: tl.tensor, sums: tl.tensor) -> None:
    """Multiply V' (64, rows) by Q, 64 rows and 64 columns to a program: ``sums`` (tiles, chunks, 64, 64)."""
    chunk, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = chunk * _BLOCK * step
    target = sums + (tile * tl.num_programs(0) + chunk) * _TILE
    total = _product(v + rows, step, q + rows + tile * _BLOCK, step, sums.dtype.element_ty)
    tl.store(target + _elements(_BLOCK), total)


@entry
def add_up(sums: tl.tensor, span: tl.tensor, totals: tl.tensor) -> None:
    """Add up the chunks of ``sums`` (tiles, chunks, size) in order, 64 places to a program: ``totals`` (tiles, size).

    ``span`` is the distance of two tiles, chunks times size.
    """
    part, tile = tl.program_id(0), tl.program_id(1).to(tl.int64)
    size = tl.num_programs(0) * _BLOCK
    lanes = part * _BLOCK + tl.arange(0, _BLOCK)
    total = tl.zeros((_BLOCK,), sums.dtype.element_ty)
    for chunk in tl.range(0, span, size, loop_unroll_factor=8):
        total += tl.load(sums + tile * span + chunk + lanes)
    tl.store(totals + tile * size + lanes, total)


@entry
def invert(gram: tl.tensor, halves: tl.tensor, factors: tl.tensor) -> None:
    """Invert the upper triangle of V' V with the diagonal ``halves``, from the last row up; one block to a program.

    ``gram`` (blocks, 64, 64) float64 becomes T, row by row: a row of ``gram`` is not needed after the same row of T is
    written. Then T is rounded and transposed to ``factors`` (blocks, 64, 64).
    """
    block = tl.program_id(0)
    lanes = tl.arange(0, _BLOCK)
    tile = gram + block * _TILE
    for below in range(_BLOCK):
        i = _BLOCK - 1 - below
        total = tl.zeros((_BLOCK,), tl.float64)
        for k in range(i + 1, _BLOCK):
            total += tl.load(tile + i * _BLOCK + k) * tl.load(tile + k * _BLOCK + lanes)
        row = (tl.where(lanes == i, 1.0, 0.0) - total) / tl.load(halves + block * _BLOCK + i)
        tl.debug_barrier()  # all threads have read this row; it can be overwritten
        tl.store(tile + i * _BLOCK + lanes, row)
        tl.debug_barrier()  # all threads will read it
        tl.store(factors + block * _TILE + lanes * _BLOCK + i, row.to(factors.dtype.element_ty))


@entry
def multiply_tiles(factor: tl.tensor, tiles: tl.tensor, products: tl.tensor) -> None:
    """Multiply T by each of ``tiles`` (tiles, 64, 64); ``factor`` is T transposed."""
    tile = tl.program_id(0) * _TILE
    total = _product(factor, _BLOCK, tiles + tile, _BLOCK, products.dtype.element_ty)
    tl.store(products + tile + _elements(_BLOCK), total)


@entry
def subtract_product(v: tl.tensor, v_step: tl.tensor, products: tl.tensor, q: tl.tensor, step: tl.tensor) -> None:
    """Subtract from Q, a tile to a program, V times ``products`` (tiles, 64, 64); ``v`` is V transposed."""
    chunk, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    total = _product(v + chunk * _BLOCK, v_step, products + tile * _TILE, _BLOCK, q.dtype.element_ty)
    target = q + chunk * _BLOCK * step + tile * _BLOCK + _elements(step)
    tl.store(target, tl.load(target) - total)
