"""The dtypes of a server: torch's name, the code in a safetensors header, and the size of an element.

int64 is only for constant integers, such as the counters of BatchNorm.
"""

from dataclasses import dataclass

from weightwell.problems import did_you_mean


@dataclass(frozen=True, slots=True)
class DType:
    """One element type; ``itemsize`` is in bytes."""

    name: str
    code: str
    itemsize: int


DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        DType("float32", "F32", 4),
        DType("float64", "F64", 8),
        DType("float16", "F16", 2),
        DType("bfloat16", "BF16", 2),
        DType("float8_e4m3fn", "F8_E4M3", 1),
        DType("float8_e5m2", "F8_E5M2", 1),
        DType("int64", "I64", 8),
    )
}

BY_CODE = {dtype.code: dtype for dtype in DTYPES.values()}


def dtype_of(dtype: object) -> DType:
    """Return the row of the table for a name, a ``torch.dtype``, a ``numpy.dtype`` or a numpy scalar type.

    Raises ValueError for anything that is not in the table.
    """
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    try:
        return DTYPES[str(name).removeprefix("torch.")]
    except KeyError:
        hint = did_you_mean(name, DTYPES)
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}{hint}") from None
