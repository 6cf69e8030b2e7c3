"""The kernels that Python launches. Each draws a tile of a segment, and is compiled once for each set of constants.

``ITEMSIZE`` and ``TARGET`` are the constants of ``rounding.encoded``. ``SCALED``: elements have an exponent.
``MASKED``: elements may be zeros of a sparse column.
"""

import triton.language as tl

from weightwell_engine.generators.philox.cuda import fields
from weightwell_engine.generators.philox.cuda.doubles import narrow_doubles, normal_doubles, uniform_doubles
from weightwell_engine.generators.philox.cuda.language import entry, kernel
from weightwell_engine.generators.philox.cuda.rounding import encoded
from weightwell_engine.generators.philox.cuda.segments import find, indices, present, store
from weightwell_engine.generators.philox.cuda.singles import (
    NORMAL_UNIT,
    UNIFORM_UNIT,
    normal_singles,
    uniform_singles,
)
from weightwell_engine.generators.philox.cuda.words import draw_fields, draw_words, interleaved

UNIFORM, NORMAL, NARROW, MATRIX = 0, 1, 2, 3
"""The source of variates: the odd grid, the normal distribution or a window of it, a narrow window, or a matrix."""

_UNIFORM, _NARROW, _MATRIX = tl.constexpr(UNIFORM), tl.constexpr(NARROW), tl.constexpr(MATRIX)


@entry
def draw_singles(
    out: tl.tensor,
    table: tl.tensor,
    start: tl.tensor,
    count: tl.tensor,
    VARIATE: tl.constexpr,
    ITEMSIZE: tl.constexpr,
    TARGET: tl.constexpr,
    SCALED: tl.constexpr,
    MASKED: tl.constexpr,
    LANE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Write elements of float32 arithmetic, in float32 or a narrower dtype."""
    row, done = find(table, start, count, TILE)
    at = indices(row, done, LANE, TILE)
    scale = _number(row, fields.SCALE).to(tl.float32)
    if VARIATE == _MATRIX:
        value = _looked_up(row, at, present(row, done, LANE, TILE), tl.float32)
    else:
        word = draw_words(at, tl.load(row + fields.KEY), tl.load(row + fields.NONCE), LANE)
        if VARIATE == _UNIFORM:
            value = uniform_singles(word)
            scale *= UNIFORM_UNIT
        else:
            width = tl.load(row + fields.WIDTH)
            if width != 0:
                word = tl.umulhi(word, width.to(tl.uint32)) + tl.load(row + fields.ORIGIN).to(tl.uint32)
            value = normal_singles(word)
            scale *= NORMAL_UNIT
    value = value * scale + _number(row, fields.SHIFT).to(tl.float32)
    low, high = _number(row, fields.LOW).to(tl.float32), _number(row, fields.HIGH).to(tl.float32)
    value = tl.minimum(tl.maximum(value, low), high)
    bits = encoded(value, tl.load(row + fields.EXPONENT), ITEMSIZE, TARGET, SCALED)
    if MASKED:
        bits = _unmasked(row, at, bits, LANE)
    store(out, row, done, bits, LANE, TILE)


@entry
def draw_doubles(
    out: tl.tensor,
    table: tl.tensor,
    start: tl.tensor,
    count: tl.tensor,
    VARIATE: tl.constexpr,
    ITEMSIZE: tl.constexpr,
    TARGET: tl.constexpr,
    SCALED: tl.constexpr,
    MASKED: tl.constexpr,
    LANE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Write elements of float64 arithmetic: in float64, or in any dtype for a narrow window."""
    row, done = find(table, start, count, TILE)
    at = indices(row, done, LANE, TILE)
    if VARIATE == _MATRIX:
        value = _looked_up(row, at, present(row, done, LANE, TILE), tl.float64)
    else:
        high = draw_words(at, tl.load(row + fields.KEY), tl.load(row + fields.NONCE), LANE)
        low = draw_words(at, tl.load(row + fields.LOW_KEY), tl.load(row + fields.LOW_NONCE), LANE)
        if VARIATE == _UNIFORM:
            value = uniform_doubles(high, low)
        elif VARIATE == _NARROW:
            strip_start, strip_span = _number(row, fields.STRIP_START), _number(row, fields.STRIP_SPAN)
            side, exponent = tl.load(row + fields.SIDE), tl.load(row + fields.STRIP_EXPONENT)
            value = narrow_doubles(high, low, side, strip_start, strip_span, exponent)
        else:
            width = tl.load(row + fields.WIDTH).to(tl.uint64, bitcast=True)
            if width != 0:
                word = (high.to(tl.uint64) << 32) | low
                word = tl.umulhi(word, width) + tl.load(row + fields.ORIGIN).to(tl.uint64, bitcast=True)
                high, low = (word >> 32).to(tl.uint32), word.to(tl.uint32)
            value = normal_doubles(high, low)
    value = value * _number(row, fields.SCALE) + _number(row, fields.SHIFT)
    value = tl.minimum(tl.maximum(value, _number(row, fields.LOW)), _number(row, fields.HIGH))
    bits = encoded(value, tl.load(row + fields.EXPONENT), ITEMSIZE, TARGET, SCALED)
    if MASKED:
        bits = _unmasked(row, at, bits, LANE)
    store(out, row, done, bits, LANE, TILE)


@entry
def draw_integers(
    out: tl.tensor,
    table: tl.tensor,
    start: tl.tensor,
    count: tl.tensor,
    FIELD: tl.constexpr,
    LANE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Write uniform integers, or powers of two, of random fields of so many bits."""
    row, done = find(table, start, count, TILE)
    at = indices(row, done, LANE, TILE)
    key, nonce = tl.load(row + fields.KEY), tl.load(row + fields.NONCE)
    width = tl.load(row + fields.WIDTH).to(tl.uint64, bitcast=True)
    if FIELD == 64:
        high = draw_words(at, key, nonce, LANE).to(tl.uint64)
        low = draw_words(at, tl.load(row + fields.LOW_KEY), tl.load(row + fields.LOW_NONCE), LANE)
        value = (high << 32) | low
        value = tl.where(width != 0, tl.umulhi(value, width), value)  # 0 stands for 2^64
    elif FIELD == 32:
        value = (draw_words(at, key, nonce, LANE).to(tl.uint64) * width) >> 32
    else:
        value = ((draw_fields(at, key, nonce, FIELD, LANE) * width.to(tl.uint32)) >> FIELD).to(tl.uint64)
    bits = (value + tl.load(row + fields.ORIGIN).to(tl.uint64, bitcast=True)) << tl.load(row + fields.BITS).to(
        tl.uint64
    )
    store(out, row, done, bits, LANE, TILE)


@entry
def write_words(
    out: tl.tensor, table: tl.tensor, start: tl.tensor, count: tl.tensor, LANE: tl.constexpr, TILE: tl.constexpr
) -> None:
    """Write words themselves."""
    row, done = find(table, start, count, TILE)
    at = indices(row, done, LANE, TILE)
    store(out, row, done, draw_words(at, tl.load(row + fields.KEY), tl.load(row + fields.NONCE), LANE), LANE, TILE)


@entry
def write_constants(
    out: tl.tensor, table: tl.tensor, start: tl.tensor, count: tl.tensor, LANE: tl.constexpr, TILE: tl.constexpr
) -> None:
    """Write the same bits to every element."""
    row, done = find(table, start, count, TILE)
    bits = tl.full((TILE,), 0, tl.int64) + tl.load(row + fields.BITS)
    store(out, row, done, bits, LANE, TILE)


@entry
def write_points(
    out: tl.tensor,
    table: tl.tensor,
    start: tl.tensor,
    count: tl.tensor,
    LANE: tl.constexpr,  # noqa: ARG001 - as for all kernels
    TILE: tl.constexpr,
) -> None:
    """Write the bits of a value at those points of a lattice that lie in runs; a tile is of points."""
    row, done = find(table, start, count, TILE)
    number = done + tl.arange(0, TILE)
    i = number // tl.load(row + fields.COLS)
    j = number - i * tl.load(row + fields.COLS)
    beyond = (
        tl.load(row + fields.START)
        + i * tl.load(row + fields.OUTER)
        + j * tl.load(row + fields.INNER)
        - tl.load(row + fields.FIRST)
    )
    length, stride = tl.load(row + fields.LENGTH), tl.load(row + fields.STRIDE)
    run = beyond // stride
    column = beyond - run * stride
    there = (
        (number < tl.load(row + fields.POINTS))
        & (beyond >= 0)
        & (run < tl.load(row + fields.COUNT))
        & (column < length)
    )
    bits = tl.full((TILE,), 0, tl.int64) + tl.load(row + fields.BITS)
    places = tl.load(row + fields.TARGET) + run * length + column
    tl.store(out + places, bits.to(out.dtype.element_ty), mask=there)


@kernel
def _number(row: tl.tensor, PLACE: tl.constexpr) -> tl.tensor:
    return tl.load(row + PLACE).to(tl.float64, bitcast=True)


@kernel
def _looked_up(row: tl.tensor, at: tl.tensor, there: tl.tensor, TYPE: tl.constexpr) -> tl.tensor:
    """Return elements of a matrix at the centres of convolution kernels, and zero elsewhere."""
    variates = tl.load(row + fields.ADDRESS).to(tl.pointer_type(TYPE))
    taps = tl.load(row + fields.TAPS)
    if taps != 1:
        place = at // taps
        there = there & (at - place * taps == tl.load(row + fields.CENTRE))
        at = place
    return tl.load(variates + at, mask=there, other=0.0)


@kernel
def _unmasked(row: tl.tensor, at: tl.tensor, bits: tl.tensor, LANE: tl.constexpr) -> tl.tensor:
    """Set the elements with the lowest keys of their column to zero."""
    word = draw_words(at, tl.load(row + fields.MASK_KEY), tl.load(row + fields.MASK_NONCE), LANE)
    if LANE == 4:
        at = interleaved(at * 4, at * 4 + 1, at * 4 + 2, at * 4 + 3)
    cols = tl.load(row + fields.COLS)
    number = at // cols
    limits = tl.load(row + fields.ADDRESS).to(tl.pointer_type(tl.uint64))
    limit = tl.load(limits + (at - number * cols))
    return tl.where(((word.to(tl.uint64) << 32) | number.to(tl.uint64)) <= limit, 0, bits)
