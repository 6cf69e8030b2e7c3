"""The dtype table: every element type that the service can draw, and all that the code knows of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One element type. Each is a single object, so it is compared and hashed by its identity.

    ``name`` is torch's name, ``code`` is what a safetensors header calls it, ``itemsize`` is in bytes, ``max`` is the
    largest finite value; of an integer type, the largest that is sure to be the one that was asked for. ``mantissa`` is
    the number of explicit bits of a floating-point significand, and None for integers.
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


# In the order in which the safetensors library lays tensors out in a file: the wider before the narrower, so that every
# tensor begins at a multiple of its item size.
DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        # Of counters, never random. Parameters are doubles, which hold every integer up to this maximum.
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
