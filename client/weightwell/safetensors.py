"""The safetensors container: eight bytes that say how long the header is, the header in JSON, the data.

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
MAX_OFFSET = (1 << 62) - 1  # bytes: with a header before it still a position that a system can be asked for


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the file; its data are the bytes ``[start, stop)`` after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file, by name, and its metadata; empty where it has none."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, Any]


def header_length(prefix: bytes | bytearray, total: int) -> int:
    """Return the length in bytes of the header of a file of ``total`` bytes; raise ``InvalidFile`` if it cannot be."""
    length = int.from_bytes(prefix, "little")
    if length > min(total - PREFIX, MAX_HEADER):
        raise InvalidFile(f"a header of {length} bytes does not fit a file of {total}: this is no safetensors file")
    return length


def read_header(header: bytes | bytearray) -> Header:
    """Return what a header says; raise ``InvalidFile`` if it is not a header."""
    try:
        members = json.loads(header)
        entries = {name: _entry(member) for name, member in members.items() if name != "__metadata__"}
        metadata = members.get("__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidFile(f"the header is not that of a safetensors file: {error}") from error
    return Header(entries, metadata if isinstance(metadata, dict) else {})


def etag_of(head: bytes) -> str:
    """Return the strong entity tag that a Weightwell server gives a file: a digest of all that precedes the data."""
    return f'"{sha256(head).hexdigest()[:32]}"'


def _entry(member: dict[str, Any]) -> Entry:
    """Read one member of the header."""
    start, stop = map(int, member["data_offsets"])
    if not 0 <= start <= stop <= MAX_OFFSET:
        raise ValueError(f"data_offsets must be two positions in a file, the first one first, got [{start}, {stop}]")
    return Entry(str(member["dtype"]), tuple(int(n) for n in member["shape"]), start, stop)
