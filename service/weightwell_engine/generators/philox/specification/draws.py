"""Draws: a law of independent elements as four numbers in one dtype: scale, shift and two bounds.

An element is ``y = min(max(v * scale + shift, low), high)``. Each element has its own variate ``v``. The product and
the sum are each rounded. Then ``y`` is rounded once to the dtype. ``low`` and ``high`` are numbers of the dtype, so
rounding never leaves the law's bounds.
"""

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.exceptions import UnsupportedSpec
from weightwell_engine.generators.philox.specification.formats import interval, nearest
from weightwell_engine.generators.philox.specification.truncation import Narrow, Remote, Wide, window
from weightwell_engine.laws import (
    ClampedNormal,
    Normal,
    PowersOfTwo,
    Sparse,
    TruncatedNormal,
    Uniform,
    UniformIntegers,
)


class Variate(IntEnum):
    """The kind of variate."""

    UNIFORM = 0  # on the odd grid of (-1, 1)
    NORMAL = 1  # standard
    WIDE = 2  # standard normal in a window, by an integer map of the word
    NARROW = 3  # standard normal in a window of little probability, in float64


@dataclass(frozen=True, slots=True)
class Draw:
    """An independent law in a dtype.

    ``carrier`` is the type of the arithmetic, float32 or float64. All numbers are multiplied by ``2^exponent``, and the
    rounding divides by it again. The exponent is 0, except for laws so small that subnormal numbers would arise.
    """

    variate: Variate
    dtype: DType
    carrier: DType
    scale: float
    shift: float
    low: float
    high: float
    exponent: int = 0
    window: Wide | Narrow | None = None


@dataclass(frozen=True, slots=True)
class IntegerDraw:
    """A law of uniform integers in a dtype.

    The bits of an element are those of ``(start + (u * count >> field)) << shift``. Each element has its own ``u``, an
    integer of ``field`` bits: the field number ``i % (32 / field)`` of the word ``i / (32 / field)`` for a field of 8,
    16 or 32 bits, counted from the lowest bits of the word, and the whole draw for 64.
    """

    dtype: DType
    field: int
    count: int
    start: int
    shift: int


# The rows of a sparse column are ranked by 32-bit numbers.
_MAX_ROWS = 1 << 32

# If the larger of scale and shift is at least this, no product or sum is subnormal, or its effect is nothing.
_ORDINARY = {"float32": 2.0**-60, "float64": 2.0**-900}


def carrier_of(dtype: DType) -> DType:
    """Return the dtype of the arithmetic, before elements are rounded to their dtype."""
    return dtype if dtype.name == "float64" else DTYPES["float32"]


@lru_cache(1024)
def settle(law: Uniform | Normal | TruncatedNormal | ClampedNormal, dtype: DType) -> Draw:
    """Settle a law of independent elements in a dtype."""
    carrier = carrier_of(dtype)
    if isinstance(law, Uniform):
        half, middle = 0.5 * law.high - 0.5 * law.low, 0.5 * law.high + 0.5 * law.low
        return _scaled(Draw(Variate.UNIFORM, dtype, carrier, half, middle, law.low, law.high))
    if isinstance(law, Normal):
        return _scaled(Draw(Variate.NORMAL, dtype, carrier, law.std, law.mean, -math.inf, math.inf))
    if isinstance(law, ClampedNormal):
        return _scaled(Draw(Variate.NORMAL, dtype, carrier, law.std, law.mean, law.low, law.high))
    return _scaled(_truncated(law, dtype, carrier))


def settle_integers(law: UniformIntegers | PowersOfTwo, dtype: DType) -> IntegerDraw:
    """Settle a law of uniform integers, or of powers of two whose exponents are uniform integers."""
    count = law.high - law.low
    if isinstance(law, PowersOfTwo):
        return IntegerDraw(dtype, field_of(count), count, law.low + dtype.bias, dtype.mantissa or 0)
    return IntegerDraw(dtype, field_of(count), count, law.low, 0)


def field_of(count: int) -> int:
    """Return the number of random bits for one of ``count`` integers, 1 <= count <= 2^64.

    A power of two up to 2^32 divides the smallest field that holds it, so every integer is exactly as likely as the
    others. Of 32 bits, at most 2^8 integers differ in their probability by less than 2^-24 of it.
    """
    if count & (count - 1) == 0 and count <= 1 << 32:
        return 8 if count <= 1 << 8 else 16 if count <= 1 << 16 else 32
    return 32 if count <= 1 << 8 else 64


def require_numbered_rows(law: Sparse) -> None:
    """Raise ``UnsupportedSpec`` for a sparse matrix with more rows than its mask can rank."""
    if law.rows > _MAX_ROWS:
        raise UnsupportedSpec("shape", got=law.rows, expected="at most 2^32 rows for sparse columns")


def _truncated(law: TruncatedNormal, dtype: DType, carrier: DType) -> Draw:
    bits = 8 * carrier.itemsize
    bounds = law.low, law.high
    point = Draw(Variate.UNIFORM, dtype, carrier, 0.0, _clamp(law.mean, *bounds), *bounds)
    if law.std == 0 or law.low == law.high:
        return point
    match window(law.mean, law.std, *bounds, bits=bits):
        case Remote():
            return point
        case Wide(origin=0, width=width) if width == 1 << bits:
            return Draw(Variate.NORMAL, dtype, carrier, law.std, law.mean, *bounds)
        case Wide() as wide:
            return Draw(Variate.WIDE, dtype, carrier, law.std, law.mean, *bounds, window=wide)
        case Narrow() as narrow:
            return Draw(Variate.NARROW, dtype, DTYPES["float64"], law.std, law.mean, *bounds, window=narrow)


def _scaled(draw: Draw) -> Draw:
    """Round a draw's numbers to its carrier, scaled up if they are tiny, and its bounds to its dtype."""
    low, high = interval(draw.low, draw.high, draw.dtype)
    if low > high:  # no number of the dtype lies between the bounds
        low = high = nearest(_clamp(draw.shift, draw.low, draw.high), draw.dtype)
    largest = max(abs(draw.scale), abs(draw.shift))
    ordinary = _ORDINARY[carrier_of(draw.dtype).name]
    exponent = 1 - math.frexp(largest)[1] if 0 < largest < ordinary else 0
    scale, shift, low, high = (
        nearest(_times_power(value, exponent), draw.carrier) + 0.0 for value in (draw.scale, draw.shift, low, high)
    )
    return replace(draw, scale=scale, shift=shift, low=low, high=high, exponent=exponent)


def _clamp(value: float, low: float, high: float) -> float:
    return max(low, min(value, high))


def _times_power(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)
