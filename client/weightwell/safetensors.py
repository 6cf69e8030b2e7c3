"""The safetensors format: the length of the header in eight bytes, the header in JSON, then the data.

https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from weightwell.exceptions import InvalidFile

PREFIX = 8  # bytes: the length of the header, little-endian
MAX_HEADER = 100_000_000  # bytes: what the safetensors library accepts
MAX_OFFSET = (1 << 62) - 1  # bytes: with the header, still below the largest file position of a system


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the file; its data are the bytes ``[start, stop)`` after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file, by name, and its metadata, which may be empty."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, Any]


def header_length(prefix: bytes | bytearray, total: int) -> int:
    """Return the length of the header in bytes; raise ``InvalidFile`` if a file of ``total`` bytes cannot have it."""
    length = int.from_bytes(prefix, "little")
    if length > min(total - PREFIX, MAX_HEADER):
        raise InvalidFile(f"a header of {length} bytes does not fit into {total} bytes: this is not a safetensors file")
    return length


def read_header(header: bytes | bytearray) -> Header:
    """Parse a header; raise ``InvalidFile`` if it is not valid."""
    try:
        members = json.loads(header)
        entries = {name: _entry(member) for name, member in members.items() if name != "__metadata__"}
        metadata = members.get("__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidFile(f"the header is not that of a safetensors file: {error}") from error
    return Header(entries, metadata if isinstance(metadata, dict) else {})


def etag_of(head: bytes) -> str:
    """Return the strong entity tag of a file from a Weightwell server: a digest of all bytes before the data."""
    return f'"{sha256(head).hexdigest()[:32]}"'


def _entry(member: dict[str, Any]) -> Entry:
    """Read one member of the header."""
    start, stop = map(int, member["data_offsets"])
    if not 0 <= start <= stop <= MAX_OFFSET:
        raise ValueError(f"data_offsets must be two positions in the file, in ascending order, got [{start}, {stop}]")
    return Entry(str(member["dtype"]), tuple(int(n) for n in member["shape"]), start, stop)
