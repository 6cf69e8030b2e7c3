"""Headers of weight files: the names, dtypes and shapes of the tensors in a safetensors file that exists elsewhere.

Format: https://github.com/huggingface/safetensors#format
"""

import json
from dataclasses import dataclass
from math import prod
from typing import Any

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.exceptions import UnsupportedSpec
from weightwell_service.repositories.failures import UpstreamError

# The dtypes by their codes in a header.
_CODES = {dtype.code: dtype for dtype in DTYPES.values()}

_METADATA = "__metadata__"

# A size or an offset is less than this, and a shape has at most so many sizes: products of more take minutes.
_LARGEST, _MOST_SIZES = 2**63, 128


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a weight file: its name, its dtype, and its shape as the header has it."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


def read_header(text: bytes, what: str, data: int | None) -> tuple[Stored, ...]:
    """Return the tensors of a header, in its order; ``what`` names the file in errors.

    ``data`` is the number of bytes after the header, None if it is not known.

    Raises ``UpstreamError`` for a text that is no header, and ``UnsupportedSpec`` for a dtype that cannot be drawn.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise UpstreamError(f"the header of {what} is not JSON") from None
    if not isinstance(fields, dict):
        raise UpstreamError(f"the header of {what} is not a JSON object")
    tensors = tuple(_stored(name, entry, what) for name, entry in fields.items() if name != _METADATA)
    described = sum(nbytes_of(each.dtype, each.shape) for each in tensors)
    if data is not None and described != data:
        raise UpstreamError(f"the header of {what} describes {described} bytes of data, and the file has {data}")
    return tensors


def _stored(name: str, entry: Any, what: str) -> Stored:
    try:
        code, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        valid = isinstance(code, str) and len(shape) <= _MOST_SIZES
        valid = valid and all(type(size) is int and 0 <= size < _LARGEST for size in (*shape, start, stop))
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise UpstreamError(f"the header of {what} has no dtype, shape and data_offsets for {name[:200]!r}")
    if code not in _CODES:
        known = ", ".join(_CODES)
        detail = f"{what}: the tensor {name[:200]!r} has the dtype {str(code)[:40]!r}; this server draws {known}"
        raise UnsupportedSpec(f"tensors.{name[:200]}.dtype", got=code, expected=f"one of {known}", detail=detail)
    dtype = _CODES[code]
    if stop - start != nbytes_of(dtype, shape):
        raise UpstreamError(
            f"the header of {what} gives {stop - start} bytes to {name[:200]!r}, whose shape and dtype need another "
            "number"
        )
    return Stored(name, dtype, shape)


def nbytes_of(dtype: DType, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor."""
    return prod(shape) * dtype.itemsize // dtype.packed
