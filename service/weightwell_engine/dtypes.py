"""The dtype table: every element type of the service, with all its properties."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One element type. Each is a single object, so it is compared and hashed by identity.

    ``name`` is torch's name, ``code`` is the name in a safetensors header, and ``itemsize`` is in bytes. ``max`` is the
    largest finite value; for integers it is 2^53 - 1, because parameters are doubles. ``mantissa`` is the number of
    explicit bits of a floating-point significand, and None for integers.
    """

    name: str
    code: str
    itemsize: int
    max: float
    mantissa: int | None

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers, and no random numbers."""
        return self.mantissa is None


# In the order of the safetensors library: wider dtypes first, so that every tensor begins at a multiple of its item
# size.
DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        # For counters; never random. Parameters are doubles, which are exact for every integer up to this maximum.
        DType("int64", "I64", 8, 2.0**53 - 1, None),
        DType("float64", "F64", 8, (2 - 2.0**-52) * 2.0**1023, 52),
        DType("float32", "F32", 4, (2 - 2.0**-23) * 2.0**127, 23),
        DType("bfloat16", "BF16", 2, (2 - 2.0**-7) * 2.0**127, 7),
        DType("float16", "F16", 2, 65504.0, 10),
        DType("float8_e4m3fn", "F8_E4M3", 1, 448.0, 3),
        DType("float8_e5m2", "F8_E5M2", 1, 57344.0, 2),
    )
}

# The types of random numbers.
FLOATS = {name: dtype for name, dtype in DTYPES.items() if not dtype.is_integer}
