"""Formats: the binary layout of each dtype, and a single rounding to it, to nearest even.

Rounding works on the bits with integers, so it does not depend on whether a processor flushes subnormal numbers to
zero. For finite input in the range of the target it equals torch's casts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.dtypes import DTYPES, REALS, DType

Patterns = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format of ``width`` bits, ``mantissa`` of them explicit bits of the significand."""

    width: int
    mantissa: int

    @property
    def bias(self) -> int:
        """The bias: a stored exponent is the exponent plus this."""
        return (1 << (self.width - self.mantissa - 2)) - 1

    def quantum(self, value: float) -> int:
        """Return ``q`` such that the numbers of this format about ``value`` are the multiples of 2^q."""
        exponent = math.frexp(value)[1] - 1
        return max(exponent, 1 - self.bias) - self.mantissa

    def round(self, value: float, rounding: Callable[[float], int] = round) -> float:
        """Round a finite number; ``math.floor`` and ``math.ceil`` round down and up."""
        quantum = self.quantum(value)
        return math.ldexp(rounding(math.ldexp(value, -quantum)), quantum)


FORMATS = {name: Format(width=dtype.bits, mantissa=dtype.mantissa or 0) for name, dtype in REALS.items()}
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

# Elements that are rounded together: temporary memory is ten times their size.
_BLOCK = 1 << 14


def nearest(value: float, dtype: DType) -> float:
    """Round to the nearest number of a dtype; larger numbers become its largest finite number."""
    rounded = FORMATS[dtype.name].round(max(-dtype.max, min(value, dtype.max)))
    return math.copysign(rounded, value)


def interval(low: float, high: float, dtype: DType) -> tuple[float, float]:
    """Return the smallest and the largest number of a dtype in ``[low, high]``; smallest > largest if there is none."""
    form = FORMATS[dtype.name]
    inner_low, inner_high = (max(-dtype.max, min(bound, dtype.max)) for bound in (low, high))
    return form.round(inner_low, math.ceil) + 0.0, form.round(inner_high, math.floor) + 0.0


def encode(values: NDArray[np.floating], dtype: DType, exponent: int = 0) -> Patterns:
    """Return the bit patterns of ``values * 2^-exponent`` in a dtype.

    ``values`` (n) are float64 for float64, and otherwise float32. The products are rounded to that type first, and then
    to the dtype. The values are finite, not subnormal, and no larger than the dtype's largest number.
    """
    patterns = np.empty(values.size, UNSIGNED[dtype.itemsize])
    for start in range(0, values.size, _BLOCK):
        patterns[start : start + _BLOCK] = _encode(values[start : start + _BLOCK], dtype, exponent)
    return patterns


def pattern(value: float, dtype: DType) -> int:
    """Return the bits of a constant, rounded like a drawn element; larger numbers become the dtype's largest number.

    Tiny numbers are scaled up first, so that flushing subnormal numbers to zero makes no difference.
    """
    if dtype.is_integer:
        return int(value) % (1 << dtype.bits)
    if not dtype.is_real:  # a power of two, which is its stored exponent
        return math.frexp(value)[1] - 1 + dtype.bias if value else 0
    if dtype.name == "float64":
        return int(np.float64(value).view(np.uint64))
    single = max(-dtype.max, min(nearest(value, DTYPES["float32"]), dtype.max))
    exponent = 100 if abs(single) < 2.0**-100 else 0
    values = np.array([math.ldexp(single, exponent)], np.float32)
    return int(encode(values, dtype, exponent)[0])


def patterns(values: Sequence[float], dtype: DType) -> Patterns:
    """Return the bits of constants (n), as ``pattern`` does."""
    given = np.array(values, np.float64)
    if dtype.name == "float64":
        return given.view(np.uint64)
    rounded: Patterns = np.empty(given.size, UNSIGNED[dtype.itemsize])
    # Where float32 has no subnormal numbers, the processor rounds as ``pattern`` does.
    ordinary = (np.abs(given) >= 2.0**-100) | (given == 0) if dtype.is_real else np.zeros(given.shape, np.bool_)
    largest = DTYPES["float32"].max
    singles = np.clip(given[ordinary], -largest, largest).astype(np.float32)
    rounded[ordinary] = encode(np.clip(singles, np.float32(-dtype.max), np.float32(dtype.max)), dtype)
    rounded[~ordinary] = [pattern(value, dtype) for value in given[~ordinary].tolist()]
    return rounded


class Narrowing(NamedTuple):
    """Constants for rounding the bits of a float32 to a narrower format with operations on 32-bit integers.

    ``shift``: bits of the significand that are dropped. ``rebias``: the difference of the biases, shifted into place.
    ``smallest``: the float32 bits of the smallest normal number, or 0 if the format has the exponents of float32.
    ``magic``: the power of two whose last place is that of the format's subnormal numbers. ``sign``: the sign's place.
    """

    shift: int
    rebias: int
    smallest: int
    magic: float
    sign: int


def narrowing(dtype: DType) -> Narrowing:
    """Return the numbers of a dtype that is narrower than float32."""
    form, single = FORMATS[dtype.name], FORMATS["float32"]
    rebias = single.bias - form.bias
    return Narrowing(
        shift=single.mantissa - form.mantissa,
        rebias=rebias << single.mantissa,
        smallest=(rebias + 1) << single.mantissa if rebias else 0,
        magic=2.0 ** (1 - form.bias - form.mantissa + single.mantissa),
        sign=form.width - 1,
    )


def _encode(values: NDArray[np.floating], dtype: DType, exponent: int) -> Patterns:
    carrier = f"float{8 * values.itemsize}"
    bits: Patterns = values.view(UNSIGNED[values.itemsize])
    if exponent:
        bits = _round(bits, FORMATS[carrier], FORMATS[carrier], exponent).astype(bits.dtype)
    return bits if dtype.name == carrier else _round(bits, FORMATS[carrier], FORMATS[dtype.name])


def _round(bits: Patterns, source: Format, target: Format, exponent: int = 0) -> Patterns:
    """Round patterns of one format, scaled by ``2^-exponent``, to those of another that is no wider."""
    sign = (bits >> bits.dtype.type(source.width - 1)).astype(np.uint64)
    magnitude = (bits & bits.dtype.type((1 << (source.width - 1)) - 1)).astype(np.int64)
    stored = magnitude >> source.mantissa
    significand = magnitude - (np.maximum(stored - 1, 0) << source.mantissa)
    power = np.maximum(stored, 1) - (source.bias - target.bias) - exponent
    shift = source.mantissa - target.mantissa + np.maximum(1 - power, 0)
    shift = np.minimum(shift, source.mantissa + 2)  # the result is zero
    half = np.int64(1) << shift >> 1
    odd = (significand >> shift) & 1
    rounded = (significand + np.where(half > 0, half - 1 + odd, 0)) >> shift
    magnitude = rounded + ((np.maximum(power, 1) - 1) << target.mantissa)
    patterns: Patterns = magnitude.astype(np.uint64) | (sign << np.uint64(target.width - 1))
    return patterns
