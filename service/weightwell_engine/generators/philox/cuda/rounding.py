"""Rounding on the GPU: from float32 or float64 to the bits of any dtype, by integer operations."""

import triton.language as tl

from weightwell_engine.generators.philox.cuda.language import kernel


@kernel
def encoded(
    value: tl.tensor, exponent: tl.tensor, ITEMSIZE: tl.constexpr, TARGET: tl.constexpr, SCALED: tl.constexpr
) -> tl.tensor:
    """Return the bits of an element of ``ITEMSIZE`` bytes; with ``SCALED`` it is first multiplied by ``2^-exponent``.

    ``TARGET`` is the ``formats.Narrowing`` of a dtype narrower than float32, and empty for other dtypes. The product is
    rounded to float64 or float32, and then from float32 to the narrower dtype.
    """
    if ITEMSIZE == 8:
        bits = value.to(tl.int64, bitcast=True)
        if SCALED:
            bits = _lowered(bits, exponent, 52)
    else:
        bits = value.to(tl.float32).to(tl.uint32, bitcast=True)
        if SCALED:
            bits = _lowered(bits.to(tl.int64), exponent, 23).to(tl.uint32)
        if ITEMSIZE < 4:
            bits = _narrowed(bits, TARGET)
    return bits


@kernel
def _narrowed(bits: tl.tensor, TARGET: tl.constexpr) -> tl.tensor:
    SHIFT: tl.constexpr = TARGET[0]
    REBIAS: tl.constexpr = TARGET[1]
    SMALLEST: tl.constexpr = TARGET[2]
    MAGIC: tl.constexpr = TARGET[3]
    SIGN: tl.constexpr = TARGET[4]
    magnitude = bits & 0x7FFFFFFF
    odd = (magnitude >> SHIFT) & 1
    rounded = (magnitude + ((1 << (SHIFT - 1)) - 1) + odd - REBIAS) >> SHIFT
    if SMALLEST > 0:  # otherwise the exponents, and so the subnormal numbers, are those of float32
        magic = tl.full((), MAGIC, tl.float32)
        subnormal = (magnitude.to(tl.float32, bitcast=True) + magic).to(tl.uint32, bitcast=True)
        rounded = tl.where(magnitude < SMALLEST, subnormal - magic.to(tl.uint32, bitcast=True), rounded)
    return rounded | (bits >> 31 << SIGN)


@kernel
def _lowered(bits: tl.tensor, exponent: tl.tensor, MANTISSA: tl.constexpr) -> tl.tensor:
    """Multiply by ``2^-exponent`` and round to nearest even, with integers: the result may be a subnormal number."""
    SIGN: tl.constexpr = 31 if MANTISSA == 23 else 63
    sign = (bits >> SIGN) & 1
    magnitude = bits - (sign << SIGN)
    stored = magnitude >> MANTISSA
    significand = magnitude - (tl.maximum(stored - 1, 0) << MANTISSA)
    power = tl.maximum(stored, 1) - exponent
    shift = tl.minimum(tl.maximum(1 - power, 0), MANTISSA + 2)  # where all is rounded away
    half = (tl.full((), 1, tl.int64) << shift) >> 1
    odd = (significand >> shift) & 1
    rounded = (significand + tl.where(half > 0, half - 1 + odd, 0)) >> shift
    return (rounded + ((tl.maximum(power, 1) - 1) << MANTISSA)) | (sign << SIGN)
