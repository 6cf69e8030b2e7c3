"""The safetensors container: eight bytes that say how long the header is, the header in JSON, the data.

https://github.com/huggingface/safetensors#format
"""

import json
from dataclasses import dataclass
from typing import Any

from weightwell.exceptions import InvalidFile

PREFIX = 8  # bytes: the length of the header, little-endian
MAX_HEADER = 100_000_000  # bytes: what the safetensors library accepts
MAX_OFFSET = (1 << 62) - 1  # bytes: with a header before it still a position that a system can be asked for


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the file; its data are the bytes ``[start, stop)`` after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def header_length(prefix: bytes | bytearray, total: int) -> int:
    """Return the length in bytes of the header of a file of ``total`` bytes; raise ``InvalidFile`` if it cannot be."""
    length = int.from_bytes(prefix, "little")
    if length > min(total - PREFIX, MAX_HEADER):
        raise InvalidFile(f"a header of {length} bytes does not fit a file of {total}: this is no safetensors file")
    return length


def entries_of(header: bytes | bytearray) -> dict[str, Entry]:
    """Return the tensors of a header, by name; raise ``InvalidFile`` if it is not a header."""
    try:
        members = json.loads(header)
        return {name: _entry(member) for name, member in members.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidFile(f"the header is not that of a safetensors file: {error}") from error


def _entry(member: dict[str, Any]) -> Entry:
    """Read one member of the header."""
    start, stop = map(int, member["data_offsets"])
    if not 0 <= start <= stop <= MAX_OFFSET:
        raise ValueError(f"data_offsets must be two positions in a file, the first one first, got [{start}, {stop}]")
    return Entry(str(member["dtype"]), tuple(int(n) for n in member["shape"]), start, stop)
