"""The dtype table: every element type that the service can draw, and all that the rest of the code knows of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    ``name`` is torch's name, ``code`` is what a safetensors header calls it, ``itemsize`` is in bytes, ``max`` is the
    largest finite value; of an integer type, the largest that is sure to be the one that was asked for.
    """

    name: str
    code: str
    itemsize: int
    max: float
    is_integer: bool = False


# In the order in which the safetensors library lays tensors out in a file: the wider before the narrower, so that every
# tensor begins at a multiple of its item size.
DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        # Parameters are doubles, which hold every integer up to here and not the next. It counts, and is never drawn.
        DType("int64", "I64", 8, 2.0**53 - 1, is_integer=True),
        DType("float64", "F64", 8, (2 - 2.0**-52) * 2.0**1023),
        DType("float32", "F32", 4, (2 - 2.0**-23) * 2.0**127),
        DType("bfloat16", "BF16", 2, (2 - 2.0**-7) * 2.0**127),
        DType("float16", "F16", 2, 65504.0),
        DType("float8_e4m3fn", "F8_E4M3", 1, 448.0),
        DType("float8_e5m2", "F8_E5M2", 1, 57344.0),
    )
}

# Those in which random numbers can be drawn.
FLOATS = {name: dtype for name, dtype in DTYPES.items() if not dtype.is_integer}
