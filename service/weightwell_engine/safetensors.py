"""The header of a safetensors file. The same tensors always give the same bytes.

The safetensors library writes ``__metadata__`` in the order of a hash map, which differs from run to run
(https://github.com/huggingface/safetensors/issues/584). Files with reproducible bytes therefore need this writer.
Without metadata, the bytes equal those of the library. Format: https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from weightwell_engine.dtypes import DTYPES, DType

_RANK = {name: rank for rank, name in enumerate(DTYPES)}
_ALIGNMENT = 8
_TO_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the file: its name, dtype and shape in elements."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return prod(self.shape) * self.dtype.itemsize // self.dtype.packed


def layout(entries: Iterable[Entry]) -> list[tuple[Entry, int]]:
    """Return the entries in the library's order, each with its data offset in bytes.

    Wider dtypes come first. Within a dtype, the order is by name.
    """
    offset, placed = 0, []
    for entry in sorted(entries, key=lambda entry: (_RANK[entry.dtype.name], entry.name.encode())):
        placed.append((entry, offset))
        offset += entry.nbytes
    return placed


def header(placed: Iterable[tuple[Entry, int]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes before the data: the length of the JSON in 8 bytes, and the JSON, padded to a multiple of 8."""
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for entry, offset in placed:
        offsets = [offset, offset + entry.nbytes]
        fields[entry.name] = {"dtype": entry.dtype.code, "shape": list(entry.shape), "data_offsets": offsets}
    text = _TO_JSON.encode(fields).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
