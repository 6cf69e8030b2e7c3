"""float64 on the GPU: variates from two words, with divisions and square roots of IEEE 754.

The far tail is rare, so a program computes it only if one of its elements is there. The near tail has one element of a
normal law in seven. So every lane selects the coefficients for the centre or for this tail, and divides once.
"""

import triton.language as tl

from weightwell_engine.generators.philox.cuda.language import kernel
from weightwell_engine.generators.philox.specification import quantile

_CENTRAL = tl.constexpr(quantile.CENTRAL)
_MIDDLE = tl.constexpr(quantile.MIDDLE)
_FAR = tl.constexpr(quantile.FAR)
_CENTRAL_BOUND = tl.constexpr(quantile.CENTRAL_BOUND)
_CENTRAL_SHIFT = tl.constexpr(quantile.CENTRAL_SHIFT)
_FAR_BOUND = tl.constexpr(quantile.FAR_BOUND)
_STEPS = tl.constexpr(quantile.ASYMPTOTIC_STEPS)
_LN_2 = tl.constexpr(quantile.LN_2)
_LN_2PI = tl.constexpr(quantile.LN_2PI)
_SQRT_HALF = tl.constexpr(quantile.SQRT_HALF_64)
_COARSE, _FINE = tl.constexpr(2.0**-31), tl.constexpr(2.0**-53)
_HALF, _CELL = tl.constexpr(2.0**32), tl.constexpr(2.0**-64)
# 2 artanh(x) / x, from the highest power of x^2 down.
_ARTANH = tl.constexpr(tuple(2.0 / odd for odd in range(21, 0, -2)))


@kernel
def uniform_doubles(high: tl.tensor, low: tl.tensor) -> tl.tensor:
    """Return ``v`` of the odd grid."""
    coarse = (high ^ 0x80000000).to(tl.int32, bitcast=True).to(tl.float64) * _COARSE
    fine = ((low >> 11).to(tl.int32) * 2 + 1).to(tl.float64) * _FINE
    return coarse + fine


@kernel
def normal_doubles(high: tl.tensor, low: tl.tensor) -> tl.tensor:
    """Return a standard normal for each pair of words."""
    sign = (high.to(tl.int32, bitcast=True) >> 31).to(tl.uint32, bitcast=True)  # all bits are one for a positive number
    high, low = high ^ sign, low ^ sign
    q = unit(high ^ 0x7FFFFFFF, low ^ 0xFFFFFFFF)
    z = _quantile(q, log_tail(unit(high, low), 0), q <= _double(_CENTRAL_BOUND))
    return tl.where(sign == 0, -z, z)


@kernel
def narrow_doubles(
    high: tl.tensor, low: tl.tensor, side: tl.tensor, start: tl.tensor, span: tl.tensor, exponent: tl.tensor
) -> tl.tensor:
    """Return a normal in a window of little probability for each pair of words: ``truncation.Narrow``."""
    flip = tl.where(side > 0, 0xFFFFFFFF, 0).to(tl.uint32)
    probability = start + unit(high ^ flip, low ^ flip) * span
    q = tl.abs(probability)
    central = (side == 0) & (q <= _double(_CENTRAL_BOUND))
    z = _quantile(q, log_tail(tl.where(side == 0, 0.5 - q, probability), exponent), central)
    return tl.where((side < 0) | ((side == 0) & (probability < 0.0)), -z, z)


@kernel
def unit(high: tl.tensor, low: tl.tensor) -> tl.tensor:
    """Return the middle of the cell of a 64-bit word among 2^63 cells of (0, 1), rounded once."""
    return (high.to(tl.float64) * _HALF + (low | 1).to(tl.float64)) * _CELL


@kernel
def log_tail(p: tl.tensor, exponent: tl.tensor) -> tl.tensor:
    """Return ``-ln(p 2^-exponent)``."""
    bits = p.to(tl.int64, bitcast=True)
    k = (bits - _SQRT_HALF) >> 52
    f = (bits - (k << 52)).to(tl.float64, bitcast=True) - 1.0
    s = f / (f + 2.0)
    square = s * s
    total = square * _ARTANH[0] + _ARTANH[1]
    for i in tl.static_range(2, 11):
        total = total * square + _ARTANH[i]
    return (exponent - k).to(tl.float64) * _LN_2 - s * total


@kernel
def _quantile(q: tl.tensor, log: tl.tensor, central: tl.tensor) -> tl.tensor:
    """Return the normal quantile: of 1/2 + ``q`` in the centre, else of a tail with probability ``exp(-log)``."""
    r = tl.sqrt(log)
    ratio = _middle(tl.where(central, _double(_CENTRAL_SHIFT) - q * q, r - 1.6), central)
    z = tl.where(central, q * ratio, ratio)
    outermost = tl.max(tl.where(central, 0.0, r))
    if outermost > 5.0:
        z = tl.where(central | (r <= 5.0), z, _far(tl.minimum(r, _FAR_BOUND) - 5.0))
    if outermost > _FAR_BOUND:
        z = tl.where(central | (r <= _FAR_BOUND), z, _asymptotic(log))
    return z


@kernel
def _middle(x: tl.tensor, central: tl.tensor) -> tl.tensor:
    over, under = _chosen(0, 7, central), _chosen(1, 7, central)
    for i in tl.static_range(6, -1, -1):
        over, under = over * x + _chosen(0, i, central), under * x + _chosen(1, i, central)
    return over / under


@kernel
def _chosen(PART: tl.constexpr, POWER: tl.constexpr, central: tl.tensor) -> tl.tensor:
    return tl.where(central, _double(_CENTRAL[PART][POWER]), _double(_MIDDLE[PART][POWER]))


@kernel
def _far(x: tl.tensor) -> tl.tensor:
    over, under = x * _FAR[0][7] + _FAR[0][6], x * _FAR[1][7] + _FAR[1][6]
    for i in tl.static_range(5, -1, -1):
        over, under = over * x + _FAR[0][i], under * x + _FAR[1][i]
    return over / under


@kernel
def _asymptotic(log: tl.tensor) -> tl.tensor:
    twice = log * 2.0
    y = twice
    for _ in tl.static_range(_STEPS):
        inverse = 1.0 / y
        series = inverse * (2.0 - inverse * (5.0 - inverse * (74.0 / 3.0)))
        y = twice + log_tail(y, 0) - _LN_2PI - series
    return tl.sqrt(y)


@kernel
def _double(VALUE: tl.constexpr) -> tl.tensor:
    """Return a constant in float64. Comparisons and ``where`` would round a plain constant to float32."""
    return tl.full((), VALUE, tl.float64)
