"""The quantile function of the normal distribution, by fixed sequences of IEEE 754 operations.

Normal draws are the same on every machine, because there is no libm, no fused multiply-add, and a fixed order for every
sum. One random word gives one draw. So the float32 map is a function of 31 bits; it was checked for all 2^31 words.

The interval (-1, 1) has 2^31 (for float64 2^63) equal cells. A word selects a cell, and ``v`` is the middle of the
cell. The draw is the ``z`` with ``erf(z / sqrt 2) = v``. ``Q = 1 - |v|`` is computed from the integer, like ``v``, so
the tails lose no digits. The complement of a word changes the signs of ``v`` and ``z``, and nothing else.

float32: ``l = log2(Q (2 - Q)) = log2(1 - v^2)`` and ``z = v P(l)``, after M. B. Giles, "Approximating the erfinv
function" (GPU Computing Gems, Jade edition, 2011). Each polynomial interpolates its function at Chebyshev nodes, with
coefficients rounded to float32; ``tests/engine/generators/philox/specification/test_quantile.py`` derives them again.
No intermediate value is subnormal, so flushing subnormal numbers to zero changes nothing.

float64: M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution" (Applied Statistics 37,
1988), PPND16, with a logarithm of our own. Division and square root of IEEE 754 are exact everywhere.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.generators.philox.specification.words import Words

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]

# log2(1 + x) / x for x in [sqrt(1/2) - 1, sqrt(2) - 1], of degree 7 in x.
LOG2 = (
    *(1.442695, -0.72135293, 0.4809167, -0.36022517),
    *(0.28728887, -0.24927182, 0.23265257, -0.14275974),
)
# z / v for l in [-9, 0], of degree 10 in l.
CENTRE = (
    *(1.2533141, -0.22743277, 0.0078497315, 0.0011041928),
    *(-3.7439087e-05, -7.9859055e-06, 1.2702136e-06, 3.3834067e-07),
    *(3.0980264e-08, 1.381865e-09, 2.5315992e-11),
)
# z / v for l in [-31, -9], of degree 11 in l + 16.
TAIL = (
    *(4.475362, -0.14806716, -0.0022437724, -6.524408e-05),
    *(-2.1941823e-06, -6.797055e-08, -1.0382165e-09, 1.1311778e-10),
    *(1.6280146e-11, 1.124669e-12, 4.1260178e-14, 6.270541e-16),
)
TAIL_SHIFT = 16.0
TAIL_BOUND = 1 << 21  # in units of 2^-31: Q below 2^-10, |z| above 3.29, is the tail

SQRT_HALF_32 = 0x3F3504F3  # the bits of sqrt(1/2) in float32
SQRT_HALF_64 = 0x3FE6A09E667F3BCD  # and in float64
LN_2 = 0.6931471805599453
LN_2PI = 1.8378770664093455

# AS 241's rational functions: numerator, denominator, constant term first.
CENTRAL = (
    (
        *(3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125),
        *(45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
    ),
    (
        *(1.0, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077),
        *(21213.794301586595867, 39307.89580009271061, 28729.085735721942674, 5226.495278852545925),
    ),
)
MIDDLE = (
    (
        *(1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504),
        *(1.27045825245236838258, 0.24178072517745061177, 0.0227238449892691845833, 7.7454501427834140764e-4),
    ),
    (
        *(1.0, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455),
        *(0.14810397642748007459, 0.0151986665636164571966, 5.475938084995344946e-4, 1.05075007164441684324e-9),
    ),
)
FAR = (
    (
        *(6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358, 0.29656057182850489123),
        *(0.026532189526576123093, 0.0012426609473880784386, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    ),
    (
        *(1.0, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525),
        *(7.868691311456132591e-4, 1.8463183175100546818e-5, 1.4215117583164458887e-7, 2.04426310338993978564e-15),
    ),
)
CENTRAL_BOUND = 0.425
CENTRAL_SHIFT = 0.180625  # CENTRAL_BOUND^2
FAR_BOUND = 27.0  # where AS 241 ends: sqrt(-ln p) for the smallest p that is a float64
ASYMPTOTIC_STEPS = 4


def normal_singles(words: Words) -> Singles:
    """Return a standard normal for each word: float32, of shape ``words.shape``, in [-6.24, 6.24]."""
    odd = (words ^ np.uint32(1 << 31)).view(np.int32) | np.int32(1)
    rest = np.int32(-(1 << 31)) - np.abs(odd)  # 2^31 - |odd|, modulo 2^32
    v, q = odd.astype(np.float32) * np.float32(2**-31), rest.astype(np.float32) * np.float32(2**-31)
    log = _log2(q * (np.float32(2) - q))
    tail = _polynomial(TAIL, log + np.float32(TAIL_SHIFT))
    return v * np.where(rest < TAIL_BOUND, tail, _polynomial(CENTRE, log))


def _log2(s: Singles) -> Singles:
    """Return log2 of positive numbers, to about 2^-23 absolutely."""
    bits = s.view(np.int32)
    k = (bits - np.int32(SQRT_HALF_32)) >> np.int32(23)
    x = (bits - (k << np.int32(23))).view(np.float32) - np.float32(1)
    return k.astype(np.float32) + x * _polynomial(LOG2, x)


def _polynomial(coefficients: Sequence[float], x: Singles) -> Singles:
    """Evaluate ``sum c[i] x^i``: pairs within blocks of four, and Horner's rule in ``x^4`` over the blocks."""
    c = [np.float32(coefficient) for coefficient in coefficients]
    c += [np.float32(0)] * (-len(c) % 4)
    x2 = x * x
    x4 = x2 * x2
    total = np.zeros_like(x)
    for i in reversed(range(0, len(c), 4)):
        total = ((c[i] + c[i + 1] * x) + (c[i + 2] + c[i + 3] * x) * x2) + total * x4
    return total


def normal_doubles(high: Words, low: Words) -> Doubles:
    """Return a standard normal for each pair of words, as ``normal_singles``: float64, in [-9.1, 9.1]."""
    positive = high >> np.uint32(31) == 1
    beyond = np.where(positive, ~high, high), np.where(positive, ~low, low)
    p = unit(*beyond)  # Q / 2
    q = unit(beyond[0] ^ np.uint32(0x7FFFFFFF), ~beyond[1])  # |v| / 2
    z = np.where(q <= CENTRAL_BOUND, _central(q), tail_quantile(log_tail(p)))
    return np.where(positive, z, -z)


def unit(high: Words, low: Words) -> Doubles:
    """Return the middle of the cell of a 64-bit word among 2^63 cells of (0, 1), rounded once."""
    odd = (low | np.uint32(1)).astype(np.float64)
    return (high.astype(np.float64) * 2.0**32 + odd) * 2.0**-64


def signed_quantile(q: Doubles) -> Doubles:
    """Return the ``z`` with ``Phi(z) = 1/2 + q``, for ``|q| < 0.45``; there ``1/2 - |q|`` is accurate enough."""
    tail = tail_quantile(log_tail(0.5 - np.abs(q)))
    return np.where(np.abs(q) <= CENTRAL_BOUND, _central(q), np.copysign(tail, q))


def log_tail(p: Doubles, exponent: int = 0) -> Doubles:
    """Return ``-ln(p 2^-exponent)`` for normal numbers ``p`` in (0, 1]."""
    bits = p.view(np.int64)
    k = (bits - SQRT_HALF_64) >> np.int64(52)
    f = (bits - (k << np.int64(52))).view(np.float64) - 1.0
    s = f / (2.0 + f)
    square = s * s
    total = np.zeros_like(s)
    for odd in range(21, 0, -2):  # 2 artanh(s)
        total = 2.0 / odd + total * square
    return (exponent - k).astype(np.float64) * LN_2 - s * total


def tail_quantile(log: Doubles) -> Doubles:
    """Return the ``z`` > 1.4 with ``Phi(-z) = exp(-log)``."""
    r = np.sqrt(log)
    z = np.where(r <= 5.0, _rational(MIDDLE, r - 1.6), _rational(FAR, np.minimum(r, FAR_BOUND) - 5.0))
    beyond = r > FAR_BOUND
    z[beyond] = _asymptotic(log[beyond])
    return z


def _central(q: Doubles) -> Doubles:
    return q * _rational(CENTRAL, CENTRAL_SHIFT - q * q)


def _rational(function: tuple[Sequence[float], Sequence[float]], x: Doubles) -> Doubles:
    """Evaluate a quotient of two polynomials, each by Horner's rule."""
    numerator, denominator = (np.zeros_like(x), np.zeros_like(x))
    for over, under in zip(*map(reversed, function), strict=True):
        numerator, denominator = numerator * x + over, denominator * x + under
    return numerator / denominator


def _asymptotic(log: Doubles) -> Doubles:
    """Solve ``z^2 / 2 + ln z + ln(2 pi) / 2 - ln(z Mills(z)) = log`` for ``y = z^2`` by iteration."""
    twice = 2.0 * log
    y = twice
    for _ in range(ASYMPTOTIC_STEPS):
        inverse = 1.0 / y
        series = inverse * (2.0 - inverse * (5.0 - inverse * (74.0 / 3.0)))
        y = twice + log_tail(y) - LN_2PI - series
    return np.sqrt(y)
