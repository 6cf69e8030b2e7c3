"""The dtypes of a server: torch's name, the code in a safetensors header, and the size of an element.

Shapes count elements, as in the header of a file. torch counts bytes for ``float4_e2m1fn_x2``, of which each holds two
elements, so the last size of a tensor of torch is half of that in a header.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from weightwell.problems import did_you_mean

Bounds = tuple[tuple[int, int], ...]  # those of weightwell.slices


@dataclass(frozen=True, slots=True)
class DType:
    """One element type; ``itemsize`` is in bytes. An item holds ``packed`` elements, the first in its lowest bits."""

    name: str
    code: str
    itemsize: int
    packed: int = 1

    @property
    def is_computed(self) -> bool:
        """Whether it has floating-point numbers with which torch and numpy compute: with a sign, in whole bytes."""
        return "float" in self.name and self.packed == 1 and self.code != "F8_E8M0"

    def nbytes(self, shape: Sequence[int]) -> int:
        """Return the bytes of a tensor whose shape counts elements."""
        return prod(shape) * self.itemsize // self.packed

    def of_torch(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a tensor of torch, of a shape that counts elements."""
        return tuple(shape) if self.packed == 1 else (*shape[:-1], shape[-1] // self.packed)

    def elements(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that counts elements, of that of a tensor of torch."""
        return tuple(shape) if self.packed == 1 or not shape else (*shape[:-1], shape[-1] * self.packed)

    def elements_of(self, bounds: Bounds | None) -> Bounds | None:
        """Return the bounds of a slice that count elements, of those of a slice of a tensor of torch."""
        if self.packed == 1 or not bounds:
            return bounds
        return (*bounds[:-1], (bounds[-1][0] * self.packed, bounds[-1][1] * self.packed))


DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        DType("float32", "F32", 4),
        DType("float64", "F64", 8),
        DType("float16", "F16", 2),
        DType("bfloat16", "BF16", 2),
        DType("float8_e4m3fn", "F8_E4M3", 1),
        DType("float8_e5m2", "F8_E5M2", 1),
        DType("float4_e2m1fn_x2", "F4", 1, packed=2),
        DType("float8_e8m0fnu", "F8_E8M0", 1),
        DType("int64", "I64", 8),
        DType("int32", "I32", 4),
        DType("int16", "I16", 2),
        DType("int8", "I8", 1),
        DType("uint8", "U8", 1),
        DType("bool", "BOOL", 1),
    )
}

# Names in ml_dtypes that are not torch's.
_OTHER_NAMES = {"float4_e2m1fn": "float4_e2m1fn_x2"}

BY_CODE = {dtype.code: dtype for dtype in DTYPES.values()}


def dtype_of(dtype: object) -> DType:
    """Return the row of the table for a name, a ``torch.dtype``, a ``numpy.dtype`` or a numpy scalar type.

    Raises ValueError for anything that is not in the table.
    """
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    plain = str(name).removeprefix("torch.")
    try:
        return DTYPES[_OTHER_NAMES.get(plain, plain)]
    except KeyError:
        hint = did_you_mean(name, DTYPES)
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}{hint}") from None
