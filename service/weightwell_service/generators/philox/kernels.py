"""Kernels: the reference's arithmetic for the CPU, compiled by Numba, in blocks that stay in the first-level cache.

A block is drawn in passes: words, then variates, then the dtype's bits, each a loop without branches that the compiler
turns into vector instructions; the few elements in a normal's tails are mended afterwards. Passes are short, because a
long chain of dependent operations in one loop leaves the processor waiting. Every operation and its order is that of
``reference``: LLVM keeps both, and fuses nothing, without fastmath. Scaling by a power of two is exact, so it is done
once per block and not once per element.

All of it is one module, because Numba looks at this file alone to see whether what it compiled is still good.

Integers are wrapped one by one (``u32``, ``i32``): Numba would widen them to 64 bits, which halves the vectors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from weightwell_service.generators.philox import quantile
from weightwell_service.generators.philox.keys import Key
from weightwell_service.generators.philox.quantile import Doubles, Singles
from weightwell_service.generators.philox.words import MULTIPLIERS, ROUNDS, WEYL, Indices, Words

u32, i32, u64, i64, f32 = np.uint32, np.int32, np.uint64, np.int64, np.float32

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function that other kernels call."""
    return cast(Function, njit(nogil=True, error_model="numpy")(function))


def entry(function: Function) -> Function:
    """Compile a function that Python calls, and keep the machine code on disk, if there is a place to keep it."""
    try:
        return cast(Function, njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # neither NUMBA_CACHE_DIR, nor beside the source, nor in the user's cache
        return kernel(function)


@intrinsic
def _widest_vectors(_: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


# To be called by a kernel that wants 512-bit vectors where there are any: LLVM prefers 256, which is 1.3 to 1.9 times
# slower here. It sets the attribute that clang sets for -mprefer-vector-width=512; llvmlite has no name for it.
widest_vectors = cast(Callable[[], None], _widest_vectors)


BLOCKS = 512
"""Philox blocks that are drawn together: 2048 words of 4 bytes."""
BLOCK = 4 * BLOCKS
_GROUP = 64  # elements that are looked through together for those in the tails

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

    ``blocks`` are the Philox blocks; then, for every piece of a run, its flat index, where its first word will be among
    the words of those blocks, and its number of elements.
    """

    blocks: Indices
    starts: NDArray[np.int64]
    sources: NDArray[np.int64]
    sizes: NDArray[np.int64]


@kernel
def _schedules() -> Schedule:
    return Schedule(np.empty(BLOCKS, u64), np.empty(BLOCKS, i64), np.empty(BLOCKS, i64), np.empty(BLOCKS, i64))


@kernel
def _scratch() -> tuple[Words, Words, Words, Words]:
    """Return memory for four blocks, each beginning on a cache line of its own, and each a little further on its page.

    Vectors that straddle lines cost twice, and a load waits for an earlier store to the same place of another page.
    """
    stride = BLOCK + 2 * _GROUP
    memory = np.zeros(4 * stride + _GROUP, u32)
    memory = memory[(-memory.ctypes.data >> 2) & (_GROUP - 1) :]
    return memory[:stride], memory[stride:][:stride], memory[2 * stride :][:stride], memory[3 * stride :][:stride]


@kernel
def _schedule(run: Run, done: int, schedule: Schedule) -> tuple[int, int, int]:
    """Plan the elements from number ``done`` on; return how many blocks, pieces and elements were planned."""
    widest_vectors()
    row, column = done // run.length, done % run.length
    used = pieces = elements = 0
    while row < run.number and used < BLOCKS:
        index = run.first + row * run.stride + column
        lead = index & 3
        size = min(run.length - column, 4 * (BLOCKS - used) - lead)
        schedule.starts[pieces] = index
        schedule.sources[pieces] = 4 * used + lead
        schedule.sizes[pieces] = size
        block, visits = u64(index >> 2), (lead + size + 3) >> 2
        visited = schedule.blocks[used:]
        for visit in range(visits):
            visited[visit] = block + u64(visit)
        used += visits
        pieces += 1
        elements += size
        column += size
        if column == run.length:
            row, column = row + 1, 0
    return used, pieces, elements


@kernel
def _philox(blocks: Indices, used: int, key: Key, raw: Words) -> None:
    """Write the four words of each block."""
    widest_vectors()
    k0, k1, n0, n1 = u64(key[0]), u64(key[1]), u64(key[2]), u64(key[3])
    for b in range(used):
        x0, x1, x2, x3 = blocks[b] & _LOW, blocks[b] >> _HALF, n0, n1
        r0, r1 = k0, k1
        for _ in range(ROUNDS):
            p, q = _FIRST * x0, _SECOND * x2
            x0, x1, x2, x3 = (q >> _HALF) ^ x1 ^ r0, q & _LOW, (p >> _HALF) ^ x3 ^ r1, p & _LOW
            r0, r1 = (r0 + _WEYL_0) & _LOW, (r1 + _WEYL_1) & _LOW
        raw[4 * b] = u32(x0)
        raw[4 * b + 1] = u32(x1)
        raw[4 * b + 2] = u32(x2)
        raw[4 * b + 3] = u32(x3)


@kernel
def _words(schedule: Schedule, used: int, pieces: int, key: Key, raw: Words, words: Words) -> Words:
    """Return the words of the planned elements, one after the other, in ``raw`` or in ``words``."""
    widest_vectors()
    _philox(schedule.blocks, used, key, raw)
    if pieces == 1:
        return raw[schedule.sources[0] :]
    at = 0
    for piece in range(pieces):
        source, target = raw[schedule.sources[piece] :], words[at:]
        for e in range(schedule.sizes[piece]):
            target[e] = source[e]
        at += schedule.sizes[piece]
    return words


# -- float32 ----------------------------------------------------------------------------------------------------------


class Affine(NamedTuple):
    """``min(max(v * scale + shift, low), high)``; all four are float32, or all float64."""

    scale: Any
    shift: Any
    low: Any
    high: Any


@kernel
def _clamped(value: Any, affine: Affine) -> Any:
    value = affine.low if affine.low > value else value
    return affine.high if affine.high < value else value


@kernel
def _uniform_singles(words: Words, n: int, affine: Affine, values: Singles) -> None:
    widest_vectors()
    scale = affine.scale * f32(2.0**-24)
    for e in range(n):
        odd = i32(i32(words[e] >> u32(8)) * i32(2) + i32(1 - (1 << 24)))
        values[e] = _clamped(f32(odd) * scale + affine.shift, affine)


@kernel
def _wide_singles(words: Words, n: int, origin: np.uint64, width: np.uint64) -> None:
    """Map words into the window of a truncated normal."""
    widest_vectors()
    for e in range(n):
        words[e] = u32(((u64(words[e]) * width) >> _HALF) + origin)


@kernel
def _normal_singles(words: Words, n: int, affine: Affine, logs: Singles, values: Singles) -> None:
    """Draw as if no element were in the tails, then mend those that are."""
    widest_vectors()
    signed = words.view(i32)
    _logs(signed, n, logs)
    _central_singles(signed, n, affine, logs, values)
    _mend_tails(signed, n, affine, logs, values)


@kernel
def _logs(signed: NDArray[np.int32], n: int, logs: Singles) -> None:
    """Write ``log2(Q (2 - Q))`` of each word."""
    widest_vectors()
    for e in range(n):
        q = f32(i32(i32(-0x80000000) - abs(_odd(signed[e]))))  # Q in units of 2^-31
        bits = f32(q * (f32(2.0**32) - q)).view(i32)
        k = i32(i32(bits - _SQRT_HALF_32) >> i32(23))
        x = i32(bits - i32(k << i32(23))).view(f32) - f32(1)
        x2 = x * x
        low = (_G[0] + _G[1] * x) + (_G[2] + _G[3] * x) * x2
        high = (_G[4] + _G[5] * x) + (_G[6] + _G[7] * x) * x2
        logs[e] = f32(i32(k - i32(62))) + x * (low + high * (x2 * x2))


@kernel
def _central_singles(signed: NDArray[np.int32], n: int, affine: Affine, logs: Singles, values: Singles) -> None:
    widest_vectors()
    scale = affine.scale * f32(2.0**-31)
    for e in range(n):
        x = logs[e]
        x2 = x * x
        x4 = x2 * x2
        low = (_C[0] + _C[1] * x) + (_C[2] + _C[3] * x) * x2
        middle = (_C[4] + _C[5] * x) + (_C[6] + _C[7] * x) * x2
        high = (_C[8] + _C[9] * x) + _C[10] * x2
        ratio = low + (middle + high * x4) * x4
        values[e] = _clamped((f32(_odd(signed[e])) * ratio) * scale + affine.shift, affine)


@kernel
def _mend_tails(signed: NDArray[np.int32], n: int, affine: Affine, logs: Singles, values: Singles) -> None:
    """Draw the elements in the tails again. What lies beyond ``n`` in a group is old, and harmless."""
    widest_vectors()
    scale = affine.scale * f32(2.0**-31)
    for group in range(0, n, _GROUP):
        grouped, largest = signed[group : group + _GROUP], i32(0)
        for e in range(_GROUP):
            largest = max(largest, abs(_odd(grouped[e])))
        if largest > _TAIL_BEGINS:
            for e in range(group, min(group + _GROUP, n)):
                if abs(_odd(signed[e])) > _TAIL_BEGINS:
                    ratio = _tail_ratio(logs[e] + _TAIL_SHIFT)
                    values[e] = _clamped((f32(_odd(signed[e])) * ratio) * scale + affine.shift, affine)


@kernel
def _tail_ratio(x: np.float32) -> Any:
    x2 = x * x
    x4 = x2 * x2
    low = (_T[0] + _T[1] * x) + (_T[2] + _T[3] * x) * x2
    middle = (_T[4] + _T[5] * x) + (_T[6] + _T[7] * x) * x2
    high = (_T[8] + _T[9] * x) + (_T[10] + _T[11] * x) * x2
    return low + (middle + high * x4) * x4


@kernel
def _odd(word: np.int32) -> Any:
    """Return ``v`` in units of 2^-31: an odd integer."""
    return i32(i32(word ^ i32(-0x80000000)) | i32(1))


# -- narrow types -----------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A format narrower than float32, as numbers for ``_encode``; the floats' bits are those of float32."""

    shift: np.uint32  # bits of the significand that go
    rebias: np.uint32  # the difference of the biases, in place
    smallest: np.uint32  # the bits of the smallest normal number, or 0 where the exponents are float32's
    magic: np.float32  # the power of two whose neighbours are as far apart as the format's subnormal numbers
    sign: np.uint32  # the place of the sign


@kernel
def _encode(values: Singles, n: int, target: Target, out: Any) -> None:
    """Round to nearest even. Subnormal results are rounded by the addition of ``magic``: in float32, but exactly."""
    widest_vectors()
    bits = values.view(u32)
    half = u32((u32(1) << u32(target.shift - u32(1))) - u32(1))
    magic = f32(target.magic).view(u32)
    if target.smallest == 0:  # bfloat16, whose subnormal numbers are those of float32
        for e in range(n):
            odd = u32(u32(bits[e] >> u32(16)) & u32(1))
            out[e] = u32(u32(u32(bits[e] + u32(0x7FFF)) + odd) >> u32(16))
        return
    for e in range(n):
        magnitude = u32(bits[e] & u32(0x7FFFFFFF))
        odd = u32(u32(magnitude >> target.shift) & u32(1))
        normal = u32(u32(u32(magnitude + half) + odd) - target.rebias) >> target.shift
        subnormal = u32(f32(u32(magnitude).view(f32) + target.magic).view(u32) - magic)
        rounded = subnormal if magnitude < target.smallest else normal
        out[e] = u32(rounded | u32(u32(bits[e] >> u32(31)) << target.sign))


# -- float64 ----------------------------------------------------------------------------------------------------------


@kernel
def _uniform_doubles(high: Words, low: Words, n: int, affine: Affine, values: Doubles) -> None:
    widest_vectors()
    for e in range(n):
        coarse = np.float64(i32(high[e] ^ u32(0x80000000))) * 2.0**-31
        fine = np.float64(i32(i32(low[e] >> u32(11)) * i32(2) + i32(1))) * 2.0**-53
        values[e] = _clamped((coarse + fine) * affine.scale + affine.shift, affine)


@kernel
def _wide_doubles(high: Words, low: Words, n: int, origin: np.uint64, width: np.uint64) -> None:
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


# -- sparse -----------------------------------------------------------------------------------------------------------


class Mask(NamedTuple):
    """Which elements of a sparse matrix are zero: those of column ``c`` whose key is at most ``limits[c]``.

    An element's key is ``word << 32 | row``, with a word of the mask's own stream. No limits, no zeros.
    """

    key: Key
    cols: int
    limits: NDArray[np.uint64]


@kernel
def _set_zeros(words: Words, schedule: Schedule, pieces: int, mask: Mask, values: Any) -> None:
    widest_vectors()
    at = 0
    for piece in range(pieces):
        row, column = schedule.starts[piece] // mask.cols, schedule.starts[piece] % mask.cols
        left = schedule.sizes[piece]
        while left > 0:
            size = min(left, mask.cols - column)
            drawn, limits, target = words[at:], mask.limits[column:], values[at:]
            for e in range(size):
                key = (u64(drawn[e]) << _HALF) | u64(row)
                target[e] = 0 if key <= limits[e] else target[e]
            at, left, row, column = at + size, left - size, row + 1, 0


# -- what Python calls ------------------------------------------------------------------------------------------------


class Single(NamedTuple):
    """A law of float32 arithmetic. ``origin`` and ``width`` are those of a wide window."""

    variate: int
    origin: np.uint64
    width: np.uint64
    affine: Affine
    key: Key
    mask: Mask


class Double(NamedTuple):
    """A law of float64 arithmetic."""

    variate: int
    origin: np.uint64
    width: np.uint64
    strip: Strip
    affine: Affine
    key: Key
    low_key: Key
    mask: Mask


UNIFORM, NORMAL, WIDE, NARROW = 0, 1, 2, 3
"""The values of ``draws.Variate``."""


@kernel
def _singles(law: Single, run: Run, done: int, schedule: Schedule, scratch: Any, values: Singles) -> int:
    """Draw the next block of elements into ``values``, and return how many they are."""
    widest_vectors()
    raw, packed, logs = scratch[0], scratch[1], scratch[2].view(f32)
    used, pieces, n = _schedule(run, done, schedule)
    words = _words(schedule, used, pieces, law.key, raw, packed)
    if law.variate == UNIFORM:
        _uniform_singles(words, n, law.affine, values)
    else:
        if law.variate == WIDE:
            _wide_singles(words, n, law.origin, law.width)
        _normal_singles(words, n, law.affine, logs, values)
    if law.mask.limits.size:
        words = _words(schedule, used, pieces, law.mask.key, raw, packed)
        _set_zeros(words, schedule, pieces, law.mask, values)
    return n


@kernel
def _doubles(law: Double, run: Run, done: int, schedule: Schedule, scratch: Any, values: Doubles) -> int:
    """Draw the next block of elements into ``values``, and return how many they are."""
    widest_vectors()
    used, pieces, n = _schedule(run, done, schedule)
    high = _words(schedule, used, pieces, law.key, scratch[0], scratch[1])
    low = _words(schedule, used, pieces, law.low_key, scratch[2], scratch[3])
    if law.variate == UNIFORM:
        _uniform_doubles(high, low, n, law.affine, values)
    elif law.variate == NARROW:
        _narrow_doubles(high, low, n, law.strip, law.affine, values)
    else:
        if law.variate == WIDE:
            _wide_doubles(high, low, n, law.origin, law.width)
        _normal_doubles(high, low, n, law.affine, values)
    if law.mask.limits.size:
        words = _words(schedule, used, pieces, law.mask.key, scratch[0], scratch[1])
        _set_zeros(words, schedule, pieces, law.mask, values)
    return n


@entry
def fill_singles(law: Single, run: Run, out: Singles) -> None:
    """Write the elements of runs as float32."""
    widest_vectors()
    schedule, scratch, done = _schedules(), _scratch(), 0
    while done < out.size:
        done += _singles(law, run, done, schedule, scratch, out[done:])


@entry
def fill_encoded(law: Single, run: Run, target: Target, out: Any) -> None:
    """Write the elements of runs in a narrow type, as its bits: uint16 or uint8."""
    widest_vectors()
    schedule, scratch, done = _schedules(), _scratch(), 0
    values = scratch[3].view(f32)
    while done < out.size:
        n = _singles(law, run, done, schedule, scratch, values)
        _encode(values, n, target, out[done:])
        done += n


@entry
def encode_all(values: Singles, target: Target, out: Any) -> None:
    """Write float32 in a narrow type, as its bits; the values are finite and within the type's range."""
    widest_vectors()
    _encode(values, values.size, target, out)


@entry
def fill_doubles(law: Double, run: Run, out: Doubles) -> None:
    """Write the elements of runs as float64."""
    widest_vectors()
    schedule, scratch, done = _schedules(), _scratch(), 0
    while done < out.size:
        done += _doubles(law, run, done, schedule, scratch, out[done:])


@entry
def fill_words(key: Key, run: Run, out: Words) -> None:
    """Write the words of runs themselves."""
    widest_vectors()
    schedule, scratch, done = _schedules(), _scratch(), 0
    while done < out.size:
        used, pieces, n = _schedule(run, done, schedule)
        words = _words(schedule, used, pieces, key, scratch[0], scratch[1])
        out[done : done + n] = words[:n]
        done += n


@entry
def count_bins(words: Words, counts: NDArray[np.int32]) -> None:
    """Count, in every column of (rows, cols) words, the words that begin with each of the 256 first bytes."""
    for row in range(words.shape[0]):
        for column in range(words.shape[1]):
            counts[column, words[row, column] >> u32(24)] += 1


@entry
def collect_bin(words: Words, bins: Words, keys: NDArray[np.uint64]) -> None:
    """Write, for every column of (rows, cols) words, the keys of those that begin with one byte into a row of ``keys``.

    Keys are those of ``Mask``. What is left of a row stays as it is.
    """
    taken = np.zeros(words.shape[1], i64)
    for row in range(words.shape[0]):
        for column in range(words.shape[1]):
            if words[row, column] >> u32(24) == bins[column]:
                keys[column, taken[column]] = (u64(words[row, column]) << _HALF) | u64(row)
                taken[column] += 1


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
