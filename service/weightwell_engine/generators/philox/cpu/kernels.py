"""Kernels: the reference's arithmetic for the CPU, compiled by Numba, in blocks that stay in the first-level cache.

Words and float32 are computed in ``lanes``, several vectors side by side, because a long chain of dependent operations
leaves the processor waiting. Elements that follow each other come straight from their words, which never leave the
registers; other runs, whose words must be picked out of their blocks, are drawn in two passes. Where a lane is in a
normal's tails, all that are beside it go through both polynomials. In float64 the compiler makes vectors of plain
loops, and the few elements in the tails are mended afterwards. Every operation and its order is that of ``reference``:
LLVM keeps both, and fuses nothing, without fastmath. Scaling by a power of two is exact, so it is done once per block
and not once per element.

All of it is one module but for ``lanes``, ``compiling`` and what sparse matrices take beforehand (``ranking``), because
Numba looks at this file alone to see whether what it compiled is still good.

Integers are wrapped one by one (``u32``, ``i32``): Numba would widen them to 64 bits, which halves the vectors.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cpu.compiling import entry, kernel, step, uncounted, widest_vectors
from weightwell_engine.generators.philox.cpu.simd import (
    VECTOR,
    any_of,
    convert,
    count_from,
    interleave,
    load,
    lowest,
    store,
    truths,
    view,
    where,
)
from weightwell_engine.generators.philox.cpu.sparse_columns import RANKED
from weightwell_engine.generators.philox.specification import quantile
from weightwell_engine.generators.philox.specification.keys import Key
from weightwell_engine.generators.philox.specification.quantile import Doubles, Singles
from weightwell_engine.generators.philox.specification.words import MULTIPLIERS, ROUNDS, WEYL, Indices, Words

u16, u32, i32, u64, i64, f32 = np.uint16, np.uint32, np.int32, np.uint64, np.int64, np.float32

BLOCKS = 1024
"""Philox blocks that are planned together: 4096 words of 4 bytes."""
BLOCK = 4 * BLOCKS
LANES = 8 * VECTOR // 4
"""Elements that are drawn side by side: eight vectors of float32."""
_LANES_OF_BLOCKS = LANES // 4
_COPIED = 16  # elements that are copied, or blocks that are listed, at a time
_SPARE = LANES  # words beyond a block that a last group of lanes may read or write
_KEYS = 2 * ROUNDS + 2  # numbers that a key is expanded to
_HIGH_HALF = 1 << 34  # elements from one change of the counter's high half to the next

_LOW = u64(0xFFFFFFFF)
_HALF = u64(32)
_FIRST, _SECOND = (u64(multiplier) for multiplier in MULTIPLIERS)
_WEYL_0, _WEYL_1 = (u64(weyl) for weyl in WEYL)

_G = tuple(f32(c) for c in quantile.LOG2)
_C = tuple(f32(c) for c in quantile.CENTRE)
_T = tuple(f32(c) for c in quantile.TAIL)
_TAIL_SHIFT = f32(quantile.TAIL_SHIFT)
_TAIL_BEGINS = i32((1 << 31) - quantile.TAIL_BOUND)
_SQRT_HALF_32 = i32(quantile.SQRT_HALF_32)
_SQRT_HALF_64 = i64(quantile.SQRT_HALF_64)


class Run(NamedTuple):
    """``regions.Runs``, as kernels take it."""

    first: int
    length: int
    stride: int
    number: int


# -- words ------------------------------------------------------------------------------------------------------------


class Schedule(NamedTuple):
    """Which words the next block of elements needs: filled by ``_schedule``.

    For every piece of a run its flat index, its number of elements, and where its first word will be among the words
    of the Philox blocks ``blocks``, which are not listed for a piece that takes all of them.
    """

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sources: NDArray[np.int64]
    blocks: Indices


class Planned(NamedTuple):
    """How many blocks, pieces and elements were planned: of blocks that are not cut, 4 elements each."""

    blocks: int
    pieces: int
    elements: int


@kernel
def _schedule(run: Run, done: int, schedule: Schedule) -> Planned:
    """Plan the elements from number ``done`` on."""
    widest_vectors()
    row, column = done // run.length, done % run.length
    used = pieces = elements = 0
    while row < run.number and used < BLOCKS:
        index = run.first + row * run.stride + column
        lead = index & 3
        size = min(run.length - column, 4 * (BLOCKS - used) - lead, _HIGH_HALF - (index & (_HIGH_HALF - 1)))
        schedule.starts[pieces] = index
        schedule.sizes[pieces] = size
        schedule.sources[pieces] = 4 * used + lead
        visits = (lead + size + 3) >> 2
        if pieces or visits < BLOCKS:
            for visit in range(0, visits, _COPIED):  # what is beyond a piece is overwritten by the next
                store(schedule.blocks, used + visit, count_from(u64((index >> 2) + visit), _COPIED))
        used += visits
        pieces += 1
        elements += size
        column += size
        if column == run.length:
            row, column = row + 1, 0
    return Planned(used, pieces, elements)


@kernel
def _expand(key: Key, keys: Indices) -> None:
    """Write the keys of all rounds, two for each, and then the counter's high half.

    They are read again by each group of lanes: to keep them in registers would leave none for the lanes.
    """
    for r in range(ROUNDS):
        keys[2 * r], keys[2 * r + 1] = (u64(key[0]) + u64(r) * _WEYL_0) & _LOW, (u64(key[1]) + u64(r) * _WEYL_1) & _LOW
    keys[2 * ROUNDS], keys[2 * ROUNDS + 1] = u64(key[2]), u64(key[3])


@step
def _round(counter: Any, keys: Indices, r: int) -> Any:
    """Return the counter's four words after a round: the low halves of what is returned; above them is noise."""
    x0, x1, x2, x3 = counter
    p, q = (x0 & _LOW) * _FIRST, (x2 & _LOW) * _SECOND
    return (q >> _HALF) ^ x1 ^ keys[2 * r], q, (p >> _HALF) ^ x3 ^ keys[2 * r + 1], p


@step
def _block_words(low: Any, high: Any, keys: Indices) -> Any:
    """Return the words of blocks, two by two: the first in the low half.

    The counter's second word is a scalar if that of all blocks is the same. So then are, for a while, what comes of it
    and of the key's half of the counter: rounds on lanes and scalars are written out until all words are lanes.
    """
    first = _round((low, high, keys[2 * ROUNDS], keys[2 * ROUNDS + 1]), keys, 0)
    second = _round(first, keys, 1)
    counter = _round(second, keys, 2)
    for r in range(3, ROUNDS - 1):
        counter = _round(counter, keys, r)
    x0, x1, x2, x3 = counter
    p, q = (x0 & _LOW) * _FIRST, (x2 & _LOW) * _SECOND
    low_pair = ((q >> _HALF) | (q << _HALF)) ^ (x1 & _LOW) ^ keys[2 * ROUNDS - 2]
    high_pair = ((p >> _HALF) | (p << _HALF)) ^ (x3 & _LOW) ^ keys[2 * ROUNDS - 1]
    return interleave(low_pair, high_pair)


@kernel
def _philox_run(first: np.uint64, used: int, keys: Indices, raw: Words) -> None:
    """Write the four words of each of the blocks from ``first`` on, whose counters have the same high half."""
    widest_vectors()
    pairs = raw.view(u64)
    for b in range(0, used, _LANES_OF_BLOCKS):
        low = count_from(first + u64(b), _LANES_OF_BLOCKS)
        store(pairs, 2 * b, _block_words(low, first >> _HALF, keys))


@kernel
def _philox(blocks: Indices, used: int, keys: Indices, raw: Words) -> None:
    """Write the four words of each block."""
    widest_vectors()
    pairs = raw.view(u64)
    for b in range(0, used, _LANES_OF_BLOCKS):
        low = load(blocks, b, _LANES_OF_BLOCKS)
        store(pairs, 2 * b, _block_words(low, low >> _HALF, keys))


@kernel
def _words(schedule: Schedule, planned: Planned, keys: Indices, raw: Words, words: Words) -> int:
    """Write the words of the planned elements into ``words``, one after the other; return where they begin."""
    widest_vectors()
    if planned.pieces == 1:
        _philox_run(u64(schedule.starts[0] >> 2), planned.blocks, keys, words)
        return int(schedule.sources[0])
    if planned.elements == 4 * planned.blocks:
        _philox(schedule.blocks, planned.blocks, keys, words)
        return 0
    _philox(schedule.blocks, planned.blocks, keys, raw)
    at = 0
    for piece in range(planned.pieces):
        source, size = schedule.sources[piece], schedule.sizes[piece]
        for e in range(0, size, _COPIED):  # what is beyond a piece is overwritten by the next
            store(words, at + e, load(raw, source + e, _COPIED))
        at += size
    return 0


@kernel
def _copy(source: Any, begin: int, n: int, out: Any, at: int) -> None:
    """Copy elements; slices would be copied one element at a time."""
    widest_vectors()
    whole = n & -_COPIED
    for e in range(0, whole, _COPIED):
        store(out, at + e, load(source, begin + e, _COPIED))
    for e in range(whole, n):
        out[at + e] = source[begin + e]


# -- float32 ----------------------------------------------------------------------------------------------------------


class Affine(NamedTuple):
    """``min(max(v * scale + shift, low), high)``; all four are float32, or all float64."""

    scale: Any
    shift: Any
    low: Any
    high: Any


@kernel
def _singles_of_run(law: Any, first: np.uint64, keys: Indices, n: int, target: Any, out: Any, at: int) -> None:
    """Write the elements of blocks that follow each other, whose words never leave the registers."""
    widest_vectors()
    for e in range(0, n, LANES):
        low = count_from(first + u64(e >> 2), _LANES_OF_BLOCKS)
        words = view(_block_words(low, first >> _HALF, keys), u32)
        _put(_elements(words, law), target, out, at + e)


@kernel
def _singles_of_words(law: Any, words: Words, begin: int, n: int, target: Any, out: Any) -> None:
    """Write elements from their words, and after the ``n``th, to the end of a group of lanes, noise."""
    widest_vectors()
    for e in range(0, n, LANES):
        _put(_elements(load(words, begin + e, LANES), law), target, out, e)


@step
def _elements(words: Any, law: Any) -> Any:
    """Return the elements that come of words."""
    affine = law.affine
    if law.variate == UNIFORM:
        variates, scale = _uniform(words), affine.scale * f32(2.0**-24)
    else:
        if law.variate == WIDE:
            words = _widened(words, law.origin, law.width)
        variates, scale = _normal(view(words, i32)), affine.scale * f32(2.0**-31)
    values = variates * scale + affine.shift
    values = where(values < affine.low, affine.low, values)
    return where(values > affine.high, affine.high, values)


@step
def _uniform(words: Any) -> Any:
    """Return ``v`` in units of 2^-24."""
    return convert(view((words >> u32(7)) | u32(1), i32) - i32(1 << 24), f32)


@step
def _widened(words: Any, origin: np.uint64, width: np.uint64) -> Any:
    """Map words into the window of a truncated normal."""
    return convert(((convert(words, u64) * width) >> _HALF) + origin, u32)


@step
def _normal(words: Any) -> Any:
    """Return normal variates in units of 2^-31."""
    odd = (words ^ i32(-0x80000000)) | i32(1)  # v in units of 2^-31
    magnitude = where(odd < i32(0), i32(0) - odd, odd)
    q = convert(i32(-0x80000000) - magnitude, f32)
    log = _log2(q * (f32(2.0**32) - q))
    ratio = _centre_ratio(log)
    tails = magnitude > _TAIL_BEGINS
    if any_of(tails):
        ratio = where(tails, _tail_ratio(log + _TAIL_SHIFT), ratio)
    return convert(odd, f32) * ratio


@step
def _log2(s: Any) -> Any:
    """Return the logarithm of numbers in units of 2^-62."""
    shifted = view(s, i32) - i32(_SQRT_HALF_32 + (62 << 23))
    k = shifted >> i32(23)
    x = view((shifted & i32(0x7FFFFF)) + _SQRT_HALF_32, f32) - f32(1)
    x2 = x * x
    low, high = _four(_G[0], _G[1], _G[2], _G[3], x, x2), _four(_G[4], _G[5], _G[6], _G[7], x, x2)
    return convert(k, f32) + x * (low + high * (x2 * x2))


@step
def _centre_ratio(x: Any) -> Any:
    x2 = x * x
    x4 = x2 * x2
    low, middle = _four(_C[0], _C[1], _C[2], _C[3], x, x2), _four(_C[4], _C[5], _C[6], _C[7], x, x2)
    high = (_C[8] + _C[9] * x) + _C[10] * x2
    return low + (middle + high * x4) * x4


@step
def _tail_ratio(x: Any) -> Any:
    x2 = x * x
    x4 = x2 * x2
    low, middle = _four(_T[0], _T[1], _T[2], _T[3], x, x2), _four(_T[4], _T[5], _T[6], _T[7], x, x2)
    high = _four(_T[8], _T[9], _T[10], _T[11], x, x2)
    return low + (middle + high * x4) * x4


@step
def _four(c0: np.float32, c1: np.float32, c2: np.float32, c3: np.float32, x: Any, x2: Any) -> Any:
    return (c0 + c1 * x) + (c2 + c3 * x) * x2


# -- narrow types -----------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A format narrower than float32, as numbers for ``_put``; the floats' bits are those of float32."""

    shift: np.uint32  # bits of the significand that go
    rebias: np.uint32  # the difference of the biases, in place
    smallest: np.uint32  # the bits of the smallest normal number, or 0 where the exponents are float32's
    magic: np.float32  # the power of two whose neighbours are as far apart as the format's subnormal numbers
    sign: np.uint32  # the place of the sign


@step
def _put(values: Any, target: Target | None, out: Any, at: int) -> None:
    """Write values as they are if there is no target, or else as the bits of its format."""
    if target is None:
        store(out, at, values)
    elif target.smallest == 0:
        store(out, at, convert(_bfloat(view(values, u32)), out.dtype))
    else:
        store(out, at, convert(_rounded(view(values, u32), target), out.dtype))


@step
def _bfloat(bits: Any) -> Any:
    """Round to nearest even in bfloat16, whose subnormal numbers are those of float32."""
    return (bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u32(16)


@step
def _rounded(bits: Any, target: Target) -> Any:
    """Round to nearest even. Subnormal results are rounded by the addition of ``magic``: in float32, but exactly."""
    half = u32((u32(1) << u32(target.shift - u32(1))) - u32(1))
    magnitude = bits & u32(0x7FFFFFFF)
    normal = ((magnitude + half + ((magnitude >> target.shift) & u32(1))) - target.rebias) >> target.shift
    subnormal = view(view(magnitude, f32) + target.magic, u32) - f32(target.magic).view(u32)
    return where(magnitude < target.smallest, subnormal, normal) | ((bits >> u32(31)) << target.sign)


# -- float64 ----------------------------------------------------------------------------------------------------------


@kernel
def _clamped(value: Any, affine: Affine) -> Any:
    value = affine.low if affine.low > value else value
    return affine.high if affine.high < value else value


@kernel
def _uniform_doubles(high: Words, low: Words, n: int, affine: Affine, values: Doubles) -> None:
    widest_vectors()
    for e in range(n):
        coarse = np.float64(i32(high[e] ^ u32(0x80000000))) * 2.0**-31
        fine = np.float64(i32(i32(low[e] >> u32(11)) * i32(2) + i32(1))) * 2.0**-53
        values[e] = _clamped((coarse + fine) * affine.scale + affine.shift, affine)


@kernel
def _widen_doubles(high: Words, low: Words, n: int, origin: np.uint64, width: np.uint64) -> None:
    """Map 64-bit words into the window of a truncated normal: the high half of a product of 64-bit integers."""
    over, under = width >> _HALF, width & _LOW
    for e in range(n):
        top, bottom = u64(high[e]), u64(low[e])
        middle = ((bottom * under) >> _HALF) + ((bottom * over) & _LOW) + ((top * under) & _LOW)
        word = origin + top * over + ((bottom * over) >> _HALF) + ((top * under) >> _HALF) + (middle >> _HALF)
        high[e], low[e] = u32(word >> _HALF), u32(word & _LOW)


@kernel
def _normal_doubles(high: Words, low: Words, n: int, affine: Affine, values: Doubles) -> None:
    """Draw as if no element were in the tails, then mend those that are."""
    widest_vectors()
    for e in range(n):
        sign = u32(i32(i32(high[e]) >> i32(31)))
        q = _unit(u32(u32(high[e] ^ sign) ^ u32(0x7FFFFFFF)), u32(~u32(low[e] ^ sign)))
        z = _central(q)
        values[e] = _clamped((z if sign else -z) * affine.scale + affine.shift, affine)
    for e in range(n):
        sign = u32(i32(i32(high[e]) >> i32(31)))
        beyond, rest = u32(high[e] ^ sign), u32(low[e] ^ sign)
        if _unit(u32(beyond ^ u32(0x7FFFFFFF)), u32(~rest)) > quantile.CENTRAL_BOUND:
            z = _tail_quantile(_log_tail(_unit(beyond, rest), 0))
            values[e] = _clamped((z if sign else -z) * affine.scale + affine.shift, affine)


class Strip(NamedTuple):
    """``windows.Narrow``, as kernels take it."""

    side: int
    start: float
    span: float
    exponent: int


@kernel
def _narrow_doubles(high: Words, low: Words, n: int, strip: Strip, affine: Affine, values: Doubles) -> None:
    flip = u32(0xFFFFFFFF) if strip.side > 0 else u32(0)
    for e in range(n):
        probability = strip.start + _unit(u32(high[e] ^ flip), u32(low[e] ^ flip)) * strip.span
        if strip.side != 0:
            z = strip.side * _tail_quantile(_log_tail(probability, strip.exponent))
        elif abs(probability) <= quantile.CENTRAL_BOUND:
            z = _central(probability)
        else:
            z = _tail_quantile(_log_tail(0.5 - abs(probability), 0))
            z = z if probability > 0 else -z
        values[e] = _clamped(z * affine.scale + affine.shift, affine)


@kernel
def _unit(high: np.uint32, low: np.uint32) -> Any:
    """Return the middle of the cell of a 64-bit word among 2^63 cells of (0, 1), rounded once."""
    return (np.float64(high) * 2.0**32 + np.float64(u32(low | u32(1)))) * 2.0**-64


@kernel
def _rational(function: tuple[tuple[float, ...], tuple[float, ...]], x: float) -> Any:
    (n0, n1, n2, n3, n4, n5, n6, n7), (d0, d1, d2, d3, d4, d5, d6, d7) = function
    numerator = ((((((n7 * x + n6) * x + n5) * x + n4) * x + n3) * x + n2) * x + n1) * x + n0
    denominator = ((((((d7 * x + d6) * x + d5) * x + d4) * x + d3) * x + d2) * x + d1) * x + d0
    return numerator / denominator


@kernel
def _central(q: float) -> Any:
    return q * _rational(quantile.CENTRAL, quantile.CENTRAL_SHIFT - q * q)


@kernel
def _log_tail(p: float, exponent: int) -> Any:
    """Return ``-ln(p 2^-exponent)``."""
    bits = np.float64(p).view(i64)
    k = (bits - _SQRT_HALF_64) >> 52
    f = i64(bits - (k << 52)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    square = s * s
    total = 0.0
    for odd in range(21, 0, -2):
        total = 2.0 / odd + total * square
    return np.float64(exponent - k) * quantile.LN_2 - s * total


@kernel
def _tail_quantile(log: float) -> Any:
    """Return the ``z`` with ``Phi(-z) = exp(-log)``."""
    r = np.sqrt(log)
    if r <= 5.0:
        return _rational(quantile.MIDDLE, r - 1.6)
    if r <= quantile.FAR_BOUND:
        return _rational(quantile.FAR, r - 5.0)
    twice = 2.0 * log
    y = twice
    for _ in range(quantile.ASYMPTOTIC_STEPS):
        inverse = 1.0 / y
        series = inverse * (2.0 - inverse * (5.0 - inverse * (74.0 / 3.0)))
        y = twice + _log_tail(y, 0) - quantile.LN_2PI - series
    return np.sqrt(y)


# -- laws, and what a call works in -----------------------------------------------------------------------------------


class Single(NamedTuple):
    """A law of float32 arithmetic. ``origin`` and ``width`` are those of a wide window."""

    variate: int
    origin: np.uint64
    width: np.uint64
    affine: Affine
    key: Key


class Double(NamedTuple):
    """A law of float64 arithmetic."""

    variate: int
    origin: np.uint64
    width: np.uint64
    strip: Strip
    affine: Affine
    key: Key
    low_key: Key


UNIFORM, NORMAL, WIDE, NARROW = 0, 1, 2, 3
"""The values of ``draws.Variate``."""

Memory = tuple[NDArray[np.int64], NDArray[np.uint64], Words]


def _memory() -> Memory:
    """Return what a call of a kernel works in. Python holds it, so that the kernel need not count who refers to it."""
    return (
        np.empty(3 * BLOCKS, i64),
        np.empty(3 * _KEYS + BLOCKS + _COPIED, u64),
        np.empty(4 * (BLOCK + _SPARE) + 64, u32),
    )


class Work(NamedTuple):
    """What ``_memory`` is divided into."""

    schedule: Schedule
    keys: Indices
    low_keys: Indices
    mask_keys: Indices
    raw: Words
    words: Words
    low_raw: Words
    low_words: Words


@kernel
def _work(memory: Memory) -> Work:
    """Divide memory, so that each block begins on a cache line of its own, and each a little further on its page.

    Vectors that straddle lines cost twice, and a load waits for an earlier store to the same place of another page.
    """
    pieces, wide, words = uncounted(memory[0]), uncounted(memory[1]), uncounted(memory[2])
    schedule = Schedule(pieces[:BLOCKS], pieces[BLOCKS : 2 * BLOCKS], pieces[2 * BLOCKS :], wide[3 * _KEYS :])
    keys, low_keys, mask_keys = wide[:_KEYS], wide[_KEYS : 2 * _KEYS], wide[2 * _KEYS : 3 * _KEYS]
    words = words[(-words.ctypes.data >> 2) & 63 :]
    stride = BLOCK + _SPARE
    raw, low_raw, low_words = words[:stride], words[2 * stride :], words[3 * stride :]
    return Work(schedule, keys, low_keys, mask_keys, raw, words[stride:], low_raw[:stride], low_words[:stride])


# -- sparse -----------------------------------------------------------------------------------------------------------


class Mask(NamedTuple):
    """Which elements of a sparse matrix are zero: those of column ``c`` whose word and row are at most its limits'.

    Words are those of the mask's own stream; rows tell equal words apart. No limits, no zeros. What is zero may be
    known, as the bits of ``zeros``, of ``RANKED`` elements each, of which a row has ``stride``; three more follow the
    last. ``mostly`` says that so many are zero that the others are better drawn one by one.
    """

    key: Key
    cols: int
    words: Words
    rows: Words
    zeros: NDArray[np.uint16]
    stride: int
    mostly: bool


@kernel
def _set_zeros(mask: Mask, planned: Planned, work: Work, out: Any) -> None:
    """Replace by 0 those of the planned elements that are zero."""
    known = mask.zeros.size > 0
    begin = 0 if known else _words(work.schedule, planned, work.mask_keys, work.raw, work.words)
    done = 0
    for piece in range(planned.pieces):
        row, column = work.schedule.starts[piece] // mask.cols, work.schedule.starts[piece] % mask.cols
        end = done + work.schedule.sizes[piece]
        while done < end:
            stop = min(end, done + mask.cols - column)
            if known:
                _set_known(mask.zeros[row * mask.stride :], column, out[done:stop])
            else:
                words = work.words[begin + done : begin + stop]
                _set_up_to(words, u32(row), mask.words[column:], mask.rows[column:], out[done:stop])
            done, row, column = stop, row + 1, 0


@kernel
def _set_known(zeros: Any, column: int, out: Any) -> None:
    """Replace what is known to be zero, of a row from a column on."""
    widest_vectors()
    group, shift = column >> 4, column & 15
    whole = out.size & -RANKED
    for e in range(0, whole, RANKED):
        pair = u32(zeros[group + (e >> 4)]) | (u32(zeros[group + (e >> 4) + 1]) << u32(16))
        store(out, e, where(truths(u16(pair >> u32(shift))), out.dtype.type(0), load(out, e, RANKED)))
    for e in range(whole, out.size):
        if (zeros[(column + e) >> 4] >> ((column + e) & 15)) & 1:
            out[e] = 0


@kernel
def _set_up_to(words: Words, row: np.uint32, last_words: Words, last_rows: Words, out: Any) -> None:
    """Replace what is up to its column's limit, of a row."""
    widest_vectors()
    for e in range(out.size):
        equal = (words[e] == last_words[e]) & (row <= last_rows[e])
        out[e] = 0 if (words[e] < last_words[e]) | equal else out[e]


@kernel
def _schedule_rest(run: Run, done: int, mask: Mask, schedule: Schedule) -> Planned:
    """Plan the elements from number ``done`` on, of which those that are not zero have a block and a piece each."""
    piece, at = done // run.length, done % run.length
    found, first = u64(0), done  # unsigned, as Numba looks whether other indices count from the end
    while piece < run.number and found <= u64(BLOCKS - 4 * RANKED):
        index = run.first + piece * run.stride + at
        row, column = index // mask.cols, index % mask.cols
        while at < run.length and found <= u64(BLOCKS - 4 * RANKED):
            if column == mask.cols:
                row, column = row + 1, 0
            size = min(run.length - at, mask.cols - column, 4 * RANKED - column % RANKED)
            rest = _rest(mask.zeros, u64(row * mask.stride + column // RANKED), column % RANKED, size)
            while rest:
                place = lowest(rest)
                schedule.sources[found], schedule.starts[found] = index + place, done - first + place
                found += u64(1)
                rest &= rest - u64(1)
            at, index, column, done = at + size, index + size, column + size, done + size
        if at == run.length:
            piece, at = piece + 1, 0
    blocks: Any = i64(found)
    return Planned(blocks, blocks, done - first)


@kernel
def _rest(zeros: Any, at: np.uint64, skipped: int, size: int) -> np.uint64:
    """Return which elements are not zero, as bits, the first at the bottom."""
    low = u64(zeros[at]) | (u64(zeros[at + u64(1)]) << u64(16))
    high = u64(zeros[at + u64(2)]) | (u64(zeros[at + u64(3)]) << u64(16))
    return u64((~(low | (high << _HALF)) >> u64(skipped)) << u64(64 - size)) >> u64(64 - size)


@kernel
def _words_of_rest(schedule: Schedule, planned: Planned, keys: Indices, raw: Words, words: Words) -> int:
    """Write the words of elements that have a block each into ``words``; return where they begin."""
    for e in range(planned.blocks):
        schedule.blocks[e] = schedule.sources[e] >> 2
    _philox(schedule.blocks, planned.blocks, keys, raw)
    for e in range(planned.blocks):
        words[e] = raw[u64(4 * e + (schedule.sources[e] & 3))]
    return 0


@kernel
def _scatter(source: Any, places: Any, n: int, out: Any) -> None:
    """Write elements to their places, and 0 everywhere else."""
    widest_vectors()
    out[:] = 0
    for e in range(n):
        out[u64(places[e])] = source[e]


# -- what Python calls ------------------------------------------------------------------------------------------------


def fill_singles(law: Single, mask: Mask, run: Run, target: Target | None, out: Any) -> None:
    """Write the elements of runs as float32, or in a narrow type, as its bits: uint16 or uint8."""
    _fill_singles(law, mask, run, target, out, _memory())


@entry
def _fill_singles(law: Single, mask: Mask, run: Run, target: Target | None, out: Any, memory: Memory) -> None:
    widest_vectors()
    work, held, elements, done = _work(memory), _held(mask), uncounted(out), 0
    drawn = work.raw.view(elements.dtype)
    _expand(law.key, work.keys)
    _expand(mask.key, work.mask_keys)
    while done < elements.size:
        if held.mostly:
            planned = _schedule_rest(run, done, held, work.schedule)
            begin = _words_of_rest(work.schedule, planned, work.keys, work.raw, work.words)
            _singles_of_words(law, work.words, begin, planned.pieces, target, drawn)
            _scatter(drawn, work.schedule.starts, planned.pieces, elements[done : done + planned.elements])
            done += planned.elements
            continue
        planned = _schedule(run, done, work.schedule)
        n = planned.elements
        if planned.pieces == 1 and n == 4 * planned.blocks and n % LANES == 0:
            _singles_of_run(law, u64(work.schedule.starts[0] >> 2), work.keys, n, target, elements, done)
        else:
            begin = _words(work.schedule, planned, work.keys, work.raw, work.words)
            _singles_of_words(law, work.words, begin, n, target, drawn)
            _copy(drawn, 0, n, elements, done)
        if held.words.size:
            _set_zeros(held, planned, work, elements[done : done + n])
        done += n


def fill_doubles(law: Double, mask: Mask, run: Run, out: Doubles) -> None:
    """Write the elements of runs as float64."""
    _fill_doubles(law, mask, run, out, _memory())


@entry
def _fill_doubles(law: Double, mask: Mask, run: Run, out: Doubles, memory: Memory) -> None:
    widest_vectors()
    work, held, elements, done = _work(memory), _held(mask), uncounted(out), 0
    _expand(law.key, work.keys)
    _expand(law.low_key, work.low_keys)
    _expand(mask.key, work.mask_keys)
    while done < elements.size:
        planned = _schedule(run, done, work.schedule)
        n = planned.elements
        high = work.words[_words(work.schedule, planned, work.keys, work.raw, work.words) :]
        low = work.low_words[_words(work.schedule, planned, work.low_keys, work.low_raw, work.low_words) :]
        _doubles(law, high, low, n, elements[done:])
        if held.words.size:
            _set_zeros(held, planned, work, elements[done : done + n])
        done += n


@kernel
def _doubles(law: Double, high: Words, low: Words, n: int, values: Doubles) -> None:
    """Write elements from the two halves of their words."""
    widest_vectors()
    if law.variate == UNIFORM:
        _uniform_doubles(high, low, n, law.affine, values)
    elif law.variate == NARROW:
        _narrow_doubles(high, low, n, law.strip, law.affine, values)
    else:
        if law.variate == WIDE:
            _widen_doubles(high, low, n, law.origin, law.width)
        _normal_doubles(high, low, n, law.affine, values)


@kernel
def _held(mask: Mask) -> Mask:
    """Return the mask that Python holds, uncounted."""
    words, rows, zeros = uncounted(mask.words), uncounted(mask.rows), uncounted(mask.zeros)
    return Mask(mask.key, mask.cols, words, rows, zeros, mask.stride, mask.mostly)


def fill_words(key: Key, run: Run, out: Words) -> None:
    """Write the words of runs themselves."""
    _fill_words(key, run, out, _memory())


@entry
def _fill_words(key: Key, run: Run, out: Words, memory: Memory) -> None:
    widest_vectors()
    work, words, done = _work(memory), uncounted(out), 0
    _expand(key, work.keys)
    while done < words.size:
        planned = _schedule(run, done, work.schedule)
        n = planned.elements
        if n == 4 * planned.blocks and done + n + LANES <= words.size:
            _words(work.schedule, planned, work.keys, work.raw, words[done : done + n + LANES])
        else:
            begin = _words(work.schedule, planned, work.keys, work.raw, work.words)
            _copy(work.words, begin, n, words, done)
        done += n


@entry
def encode_all(values: Singles, target: Target, out: Any) -> None:
    """Write float32 in a narrow type, as its bits; the values are finite and within the type's range."""
    widest_vectors()
    whole = values.size & -LANES
    for e in range(0, whole, LANES):
        _put(load(values, e, LANES), target, out, e)
    rest, rounded = np.zeros(LANES, f32), np.empty(LANES, out.dtype)
    rest[: values.size - whole] = values[whole:]
    _put(load(rest, 0, LANES), target, rounded, 0)
    out[whole:] = rounded[: values.size - whole]


@entry
def fill_lattice(first: int, strides: tuple[int, int], counts: tuple[int, int], bits: Any, run: Run, out: Any) -> None:
    """Write the bits of a value at the points of a lattice in zeroed runs."""
    for row in range(run.number):
        start = run.first + row * run.stride
        stop = start + run.length
        span = (counts[1] - 1) * strides[1]
        i = max(0, -((first + span - start) // strides[0]))
        while i < counts[0] and first + i * strides[0] < stop:
            origin = first + i * strides[0]
            j = max(0, -((origin - start) // strides[1]))
            while j < counts[1] and origin + j * strides[1] < stop:
                out[row * run.length + origin + j * strides[1] - start] = bits
                j += 1
            i += 1
