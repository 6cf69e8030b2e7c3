"""Kernels of the orthogonal generator: blocks of Householder reflectors for the CPU, compiled by Numba.

Nearly all work is one operation: ``C -= A B``. Each sum has at most 64 terms, added in order from zero, and every
product and every sum is rounded. The elements of a row of C are independent, so vectors of any width give the same
bits. The intrinsic keeps a tile of C in registers during the whole sum. From plain loops, LLVM makes code that loads
and stores the sums again and again, and is two to four times slower.

Every product is subtracted, even if the mathematics adds it: negation is exact, so this costs no accuracy. Adding zero
changes nothing, so padding and known zeros may be added or left out.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cpu.compiling import entry, kernel
from weightwell_engine.generators.philox.specification.orthogonal import BLOCK, Matrix

Doubles = NDArray[np.float64]

TILE = 4
"""Rows of a tile. With 64 bytes in each row, the sums fit into the registers of AVX2 and NEON and keep AVX-512 busy."""
LINE = 64
"""Bytes in a row of a tile and of a strip. A panel is stored as strips, so that the rows of a tile are contiguous."""


def _instruction(emit: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operation for kernels from a function that emits LLVM code. Its types are those of the emitter."""
    return cast(Callable[..., Any], intrinsic(emit))


@_instruction
def _subtract_tile(_: Any, c: Any, a: Any, b: Any, first: Any) -> Any:
    """Subtract ``A B`` from rows ``first ... first + TILE - 1`` of a strip C: A is (rows, k), and B is (k, lanes).

    As numpy: ``for k: sums += a[rows, k, None] * b[k]``, and then ``c[rows] -= sums``.
    """
    aligned = c.dtype.bitwidth // 8
    lanes = LINE // aligned

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c, a, b = signature.args[:3]
        c_array, a_array, b_array = (
            context.make_array(kind)(context, builder, value) for kind, value in zip((c, a, b), arguments, strict=False)
        )
        line = ir.VectorType(context.get_value_type(c.dtype), lanes)
        rows = [builder.add(arguments[3], arguments[3].type(row)) for row in range(TILE)]

        def element(kind: Any, array: Any, row: Any, column: Any) -> Any:
            return cgutils.get_item_pointer(context, builder, kind, array, [row, column])

        def line_of(kind: Any, array: Any, row: Any) -> Any:
            return builder.bitcast(element(kind, array, row, row.type(0)), line.as_pointer())

        def broadcast(scalar: Any) -> Any:
            undefined, lane = ir.Constant(line, ir.Undefined), ir.IntType(32)
            single = builder.insert_element(undefined, scalar, lane(0))
            return builder.shuffle_vector(single, undefined, ir.VectorType(lane, lanes)([0] * lanes))

        sums = [cgutils.alloca_once(builder, line) for _ in rows]
        for total in sums:
            builder.store(line([0.0] * lanes), total)
        with cgutils.for_range(builder, builder.extract_value(b_array.shape, 0)) as loop:
            terms = builder.load(line_of(b, b_array, loop.index), align=aligned)
            for row, total in zip(rows, sums, strict=True):
                factor = broadcast(builder.load(element(a, a_array, row, loop.index)))
                builder.store(builder.fadd(builder.load(total), builder.fmul(factor, terms)), total)
        for row, total in zip(rows, sums, strict=True):
            target = line_of(c, c_array, row)
            builder.store(builder.fsub(builder.load(target, align=aligned), builder.load(total)), target, align=aligned)
        return context.get_dummy_value()

    return types.void(c, a, b, first), codegen


@kernel
def _subtract_product(c: Matrix, a: Matrix, b: Matrix) -> None:
    """``C -= A B`` for a strip of columns: C (rows, lanes), A (rows, k) and B (k, lanes), k <= BLOCK."""
    for row in range(0, c.shape[0], TILE):
        _subtract_tile(c, a, b, row)


@entry
def prepare_block(v: Matrix, heads: Matrix, signs: Matrix, factor: Matrix) -> None:
    """Complete a block of reflectors, and find the triangular factor of their product, in float64.

    ``v`` (rows, width) holds normals below its diagonal and zeros elsewhere. ``heads`` (width or fewer) holds the
    normals on the diagonal. ``v`` becomes V, ``factor`` (width, width) becomes T, and ``signs`` become the signs of the
    diagonal matrix D.
    """
    halves = _complete(v, heads, signs)
    _invert(_gram(_strips(v)), halves, factor)


@kernel
def _complete(v: Matrix, heads: Matrix, signs: Matrix) -> Doubles:
    """Set the diagonal of V, such that a column x is reflected to ``-sign(x[0]) |x| e[0]``; return ``|v|^2 / 2``."""
    halves = _sums_of_squares(v)
    for j in range(halves.size):
        if halves[j] == 0.0:  # nothing to reflect, or padding: v stays zero, and the reflector is the identity
            halves[j] = 1.0
            if j < heads.size:
                signs[j] = np.copysign(1.0, heads[j])
        else:
            head = np.float64(heads[j])
            v[j, j] = head + np.copysign(np.sqrt(head * head + halves[j]), head)
            halves[j] = (np.float64(v[j, j]) * np.float64(v[j, j]) + halves[j]) * 0.5
            signs[j] = -np.copysign(1.0, head)
    return halves


@kernel
def _sums_of_squares(v: Matrix) -> Doubles:
    """Sum the squares of each column: first within BLOCK rows, then over the blocks."""
    width = v.shape[1]
    totals = np.zeros(width)
    for start in range(0, v.shape[0], BLOCK):
        sums = np.zeros(width)
        for row in range(start, min(start + BLOCK, v.shape[0])):
            for j in range(width):
                sums[j] += np.float64(v[row, j]) * np.float64(v[row, j])
        for j in range(width):
            totals[j] += sums[j]
    return totals


@kernel
def _strips(v: Matrix) -> Doubles:
    """Copy a matrix (rows, width) into strips (width / lanes, rows, lanes) of float64."""
    lanes = LINE // 8
    strips = np.empty((v.shape[1] // lanes, v.shape[0], lanes))
    for row in range(v.shape[0]):
        for j in range(v.shape[1]):
            strips[j // lanes, row, j % lanes] = v[row, j]
    return strips


@kernel
def _gram(strips: Doubles) -> Doubles:
    """Return ``-V' V`` as strips, without the tiles below its diagonal."""
    count, rows, lanes = strips.shape
    gram = np.zeros((count, count * lanes, lanes))
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        for s in range(count):
            for t in range(s + 1):
                target = gram[s, t * lanes : (t + 1) * lanes]
                _subtract_product(target, strips[t, start:stop].T, strips[s, start:stop])
    return gram


@kernel
def _invert(gram: Doubles, halves: Doubles, factor: Matrix) -> None:
    """Compute T: invert the upper triangle of ``V' V`` with the diagonal ``halves``, from the last row up.

    ``T[i] = (e[i] + the sum of gram[i, k] T[k] for k > i) / halves[i]``, since ``gram`` is minus the strips of V' V.
    """
    _, width, lanes = gram.shape
    inverse = np.zeros((width, width))
    for i in range(width - 1, -1, -1):
        for k in range(i + 1, width):
            for j in range(width):
                inverse[i, j] += gram[k // lanes, i, k % lanes] * inverse[k, j]
        inverse[i, i] = 1.0
        for j in range(width):
            inverse[i, j] /= halves[i]
            factor[i, j] = inverse[i, j]


@entry
def multiply_out(vectors: Matrix, factors: Matrix, signs: Matrix, index: int, panel: Matrix) -> None:
    """Compute the columns of block ``index`` of Q: apply the blocks of reflectors up to that one to these columns of D.

    ``vectors`` is (blocks, rows, width), ``factors`` (blocks, width, width), ``signs`` the diagonal of D, and ``panel``
    zeros of shape (width / lanes, rows, lanes): strips of columns.
    """
    rows, lanes = panel.shape[1:]
    top = index * BLOCK
    for j in range(min(BLOCK, signs.size - top)):
        panel[j // lanes, top + j, j % lanes] = signs[top + j]
    begin, end = top, min(top + BLOCK, rows)
    for block in range(index, -1, -1):
        first = block * BLOCK
        _reflect(vectors[block, first:], factors[block], panel, first, begin, end)
        begin, end = first, rows


@kernel
def _reflect(v: Matrix, factor: Matrix, panel: Matrix, first: int, begin: int, end: int) -> None:
    """Apply ``I - V T V'`` to the rows of a panel C from ``first`` on. Only rows [begin, end) can be nonzero."""
    strips, rows, lanes = panel.shape
    w = np.zeros((strips, v.shape[1], lanes), v.dtype)  # -V' C
    for start in range(begin, end, BLOCK):
        stop = min(start + BLOCK, end)
        for s in range(strips):
            _subtract_product(w[s], v[start - first : stop - first].T, panel[s, start:stop])
    u = np.zeros_like(w)  # T V' C
    for s in range(strips):
        _subtract_product(u[s], factor, w[s])
    for start in range(first, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        for s in range(strips):
            _subtract_product(panel[s, start:stop], v[start - first : stop - first], u[s])
