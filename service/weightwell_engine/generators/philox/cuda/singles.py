"""float32 on the GPU: from words to variates to the bits of a dtype, one element a lane, or four.

Operations and their order are those of ``reference``. Scaling by a power of two is exact, so it is done once per
program, as in ``cpu.singles``.
"""

import numpy as np
import triton.language as tl

from weightwell_engine.generators.philox.cuda.language import kernel
from weightwell_engine.generators.philox.specification import quantile


def _coefficients(polynomial: tuple[float, ...]) -> tl.constexpr:
    """Return coefficients as constants of a kernel: rounded to float32, and padded with zeros to twelve."""
    rounded = [float(np.float32(coefficient)) for coefficient in polynomial]
    return tl.constexpr((*rounded, *[0.0] * (12 - len(rounded))))


_LOG2 = _coefficients(quantile.LOG2)
_CENTRE = _coefficients(quantile.CENTRE)
_TAIL = _coefficients(quantile.TAIL)
_TAIL_SHIFT = tl.constexpr(quantile.TAIL_SHIFT)
_TAIL_BEGINS = tl.constexpr((1 << 31) - quantile.TAIL_BOUND)
_SQRT_HALF = tl.constexpr(quantile.SQRT_HALF_32)
_LEAST = tl.constexpr(-(1 << 31))

UNIFORM_UNIT = tl.constexpr(2.0**-24)
NORMAL_UNIT = tl.constexpr(2.0**-31)


@kernel
def uniform_singles(word: tl.tensor) -> tl.tensor:
    """Return ``v`` of the odd grid in units of ``UNIFORM_UNIT``."""
    return ((word >> 8).to(tl.int32) * 2 + (1 - (1 << 24))).to(tl.float32)


@kernel
def normal_singles(word: tl.tensor) -> tl.tensor:
    """Return a standard normal in units of ``NORMAL_UNIT``.

    A warp nearly always has an element in the tails, so a branch would save nothing. It is cheaper to select the
    coefficients than to compute two polynomials.
    """
    odd = (word ^ 0x80000000).to(tl.int32, bitcast=True) | 1
    size = tl.abs(odd)
    tail = size > _TAIL_BEGINS
    log = _log((-(size + _LEAST)).to(tl.float32))
    x = tl.where(tail, log + _TAIL_SHIFT, log)
    return odd.to(tl.float32) * _ratio(x, tail)


@kernel
def _log(q: tl.tensor) -> tl.tensor:
    """Return ``log2(Q (2 - Q))`` for ``Q`` in units of 2^-31."""
    bits = (q * (4294967296.0 - q)).to(tl.int32, bitcast=True)
    k = (bits - _SQRT_HALF) >> 23
    x = (bits - (k << 23)).to(tl.float32, bitcast=True) - 1.0
    x2 = x * x
    low = (_LOG2[0] + _LOG2[1] * x) + (_LOG2[2] + _LOG2[3] * x) * x2
    high = (_LOG2[4] + _LOG2[5] * x) + (_LOG2[6] + _LOG2[7] * x) * x2
    return (k - 62).to(tl.float32) + x * (low + high * (x2 * x2))


@kernel
def _ratio(x: tl.tensor, tail: tl.tensor) -> tl.tensor:
    x2 = x * x
    x4 = x2 * x2
    return _four(0, x, x2, tail) + (_four(4, x, x2, tail) + _four(8, x, x2, tail) * x4) * x4


@kernel
def _four(FIRST: tl.constexpr, x: tl.tensor, x2: tl.tensor, tail: tl.tensor) -> tl.tensor:
    c0 = tl.where(tail, _TAIL[FIRST], _CENTRE[FIRST])
    c1 = tl.where(tail, _TAIL[FIRST + 1], _CENTRE[FIRST + 1])
    c2 = tl.where(tail, _TAIL[FIRST + 2], _CENTRE[FIRST + 2])
    c3 = tl.where(tail, _TAIL[FIRST + 3], _CENTRE[FIRST + 3])
    return (c0 + c1 * x) + (c2 + c3 * x) * x2
