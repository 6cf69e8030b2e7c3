"""float64: from pairs of words to elements, in plain loops that the compiler vectorizes.

Operations and their order are those of the reference.
"""

from typing import Any, NamedTuple

import numpy as np

from weightwell_engine.generators.philox.cpu.compiling import entry, kernel, uncounted, widest_vectors
from weightwell_engine.generators.philox.cpu.singles import Affine
from weightwell_engine.generators.philox.cpu.words import Run, Scratch, expand, held, plan, scratch, write_words
from weightwell_engine.generators.philox.specification import quantile
from weightwell_engine.generators.philox.specification.draws import Variate
from weightwell_engine.generators.philox.specification.keys import Key
from weightwell_engine.generators.philox.specification.quantile import Doubles
from weightwell_engine.generators.philox.specification.words import Words

u32, i32, u64, i64 = np.uint32, np.int32, np.uint64, np.int64

_LOW, _HALF = u64(0xFFFFFFFF), u64(32)
_UNIFORM, _WIDE, _NARROW = int(Variate.UNIFORM), int(Variate.WIDE), int(Variate.NARROW)
_SQRT_HALF = i64(quantile.SQRT_HALF_64)


class Strip(NamedTuple):
    """``truncation.Narrow``, as kernels take it."""

    side: int
    start: float
    span: float
    exponent: int


class Double(NamedTuple):
    """A law of float64 arithmetic. ``origin`` and ``width`` are those of a wide window."""

    variate: int
    origin: np.uint64
    width: np.uint64
    strip: Strip
    affine: Affine
    key: Key
    low_key: Key


def fill_doubles(law: Double, run: Run, out: Doubles) -> None:
    """Write the elements of runs as float64."""
    fill(law, run, out, scratch())


@entry
def fill(law: Double, run: Run, out: Doubles, scratch: Scratch) -> None:
    """Write the elements of runs, with a thread's scratch memory."""
    widest_vectors()
    work, elements, done = held(scratch), uncounted(out), i64(0)
    expand(law.key, work.keys)
    expand(law.low_key, work.low_keys)
    while done < elements.size:
        planned = plan(run, done, work)
        high = work.words[write_words(work, planned, work.keys, work.raw, work.words) :]
        low = work.low_words[write_words(work, planned, work.low_keys, work.low_raw, work.low_words) :]
        _draw(law, high, low, planned.elements, elements[done:])
        done += planned.elements


@kernel
def _draw(law: Double, high: Words, low: Words, n: int, values: Doubles) -> None:
    """Write elements from the two halves of their words."""
    widest_vectors()
    if law.variate == _UNIFORM:
        _uniform(high, low, n, law.affine, values)
    elif law.variate == _NARROW:
        _narrow(high, low, n, law.strip, law.affine, values)
    else:
        if law.variate == _WIDE:
            _widen(high, low, n, law.origin, law.width)
        _normal(high, low, n, law.affine, values)


@kernel
def _clamped(value: Any, affine: Affine) -> Any:
    value = affine.low if affine.low > value else value
    return affine.high if affine.high < value else value


@kernel
def _uniform(high: Words, low: Words, n: int, affine: Affine, values: Doubles) -> None:
    widest_vectors()
    for e in range(n):
        coarse = np.float64(i32(high[e] ^ u32(0x80000000))) * 2.0**-31
        fine = np.float64(i32(i32(low[e] >> u32(11)) * i32(2) + i32(1))) * 2.0**-53
        values[e] = _clamped((coarse + fine) * affine.scale + affine.shift, affine)


@kernel
def _widen(high: Words, low: Words, n: int, origin: np.uint64, width: np.uint64) -> None:
    """Map 64-bit words into the window of a truncated normal: the high half of a product of 64-bit integers."""
    over, under = width >> _HALF, width & _LOW
    for e in range(n):
        top, bottom = u64(high[e]), u64(low[e])
        middle = ((bottom * under) >> _HALF) + ((bottom * over) & _LOW) + ((top * under) & _LOW)
        word = origin + top * over + ((bottom * over) >> _HALF) + ((top * under) >> _HALF) + (middle >> _HALF)
        high[e], low[e] = u32(word >> _HALF), u32(word & _LOW)


@kernel
def _normal(high: Words, low: Words, n: int, affine: Affine, values: Doubles) -> None:
    """Draw all elements with the central formula, then draw the elements in the tails again."""
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


@kernel
def _narrow(high: Words, low: Words, n: int, strip: Strip, affine: Affine, values: Doubles) -> None:
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
    k = (bits - _SQRT_HALF) >> 52
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
