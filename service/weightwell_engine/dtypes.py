"""The dtype table: every element type of the service, with all its properties."""

from dataclasses import dataclass
from math import frexp


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One element type. Each is a single object, so it is compared and hashed by identity.

    ``name`` is torch's name, ``code`` is the name in a safetensors header, and ``itemsize`` is in bytes. An item holds
    ``packed`` elements, the first in its lowest bits. ``min`` and ``max`` are the smallest and the largest finite
    value; for int64 they are +-(2^53 - 1), because parameters are doubles. ``mantissa`` is the number of explicit bits
    of a floating-point significand, and None for integers and bool.
    """

    name: str
    code: str
    itemsize: int
    min: float
    max: float
    mantissa: int | None
    packed: int = 1

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers; bool holds 0 and 1."""
        return self.mantissa is None

    @property
    def is_real(self) -> bool:
        """Whether it has a sign and a zero, and fractions, so that laws of real numbers are rounded to it."""
        return not self.is_integer and self.min < 0

    @property
    def bits(self) -> int:
        """The bits of an element."""
        return 8 * self.itemsize // self.packed

    @property
    def bias(self) -> int:
        """The bias of a floating-point type: a stored exponent is the exponent plus this."""
        fields = int(self.is_real) + (self.mantissa or 0)
        return (1 << (self.bits - fields - 1)) - 1

    @property
    def exponents(self) -> tuple[int, int]:
        """The smallest and the largest ``k`` of which ``2^k`` is a normal number of a floating-point type."""
        return int(self.is_real) - self.bias, frexp(self.max)[1] - 1


def _float(name: str, code: str, itemsize: int, largest: float, mantissa: int, packed: int = 1) -> DType:
    return DType(name, code, itemsize, -largest, largest, mantissa, packed)


def _integer(name: str, code: str, itemsize: int) -> DType:
    half = 2.0 ** (8 * itemsize - 1)
    return DType(name, code, itemsize, -half, half - 1, None)


# In the order of the safetensors library: wider dtypes first, so that every tensor begins at a multiple of its item
# size.
DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        # Parameters are doubles, which are exact for every integer up to this maximum.
        DType("int64", "I64", 8, 1 - 2.0**53, 2.0**53 - 1, None),
        _float("float64", "F64", 8, (2 - 2.0**-52) * 2.0**1023, 52),
        _float("float32", "F32", 4, (2 - 2.0**-23) * 2.0**127, 23),
        _integer("int32", "I32", 4),
        _float("bfloat16", "BF16", 2, (2 - 2.0**-7) * 2.0**127, 7),
        _float("float16", "F16", 2, 65504.0, 10),
        _integer("int16", "I16", 2),
        # The scales of OCP Microscaling Formats 1.0: powers of two, without a sign and without zero.
        DType("float8_e8m0fnu", "F8_E8M0", 1, 2.0**-127, 2.0**127, 0),
        _float("float8_e4m3fn", "F8_E4M3", 1, 448.0, 3),
        _float("float8_e5m2", "F8_E5M2", 1, 57344.0, 2),
        _integer("int8", "I8", 1),
        DType("uint8", "U8", 1, 0.0, 255.0, None),
        # The elements of OCP Microscaling Formats 1.0: 0, 0.5, 1, 1.5, 2, 3, 4 and 6 with a sign.
        _float("float4_e2m1fn_x2", "F4", 1, 6.0, 1, packed=2),
        DType("bool", "BOOL", 1, 0.0, 1.0, None),
    )
}

# The types to which laws of real numbers are rounded, and those of them that have whole bytes for an element.
REALS = {name: dtype for name, dtype in DTYPES.items() if dtype.is_real}
FLOATS = {name: dtype for name, dtype in REALS.items() if dtype.packed == 1}

# The types of uniform integers.
INTEGERS = {name: dtype for name, dtype in DTYPES.items() if dtype.is_integer}
