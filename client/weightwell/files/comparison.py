"""Comparisons of a file on the disk with the file that a server generates from its metadata."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

from weightwell.answers import spec_of
from weightwell.exceptions import InvalidFile
from weightwell.files import disk
from weightwell.safetensors import PREFIX, Entry, header_length, read_header
from weightwell.transfers.destinations import DataDestination, blocks
from weightwell.transfers.spans import Span


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference in a tensor: the index of the element (() for a scalar) and the position in the file."""

    tensor: str
    index: tuple[int, ...]
    byte: int


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """The result of a comparison of a file with its metadata.

    ``tensors`` of ``nbytes`` in all were compared. ``differences`` has the first difference of each tensor, in the
    order of the file. ``remarks`` has every other error: in the header, at the end, a tensor that is missing.
    """

    tensors: int
    nbytes: int
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every byte of the file matches."""
        return not self.differences and not self.remarks

    def __repr__(self) -> str:
        found = f", {len(self.differences)} differences, {len(self.remarks)} remarks"
        return f"Verdict(same={self.same}, {_tensors(self.tensors)}, {self.nbytes} bytes{'' if self.same else found})"

    def __str__(self) -> str:
        if self.same:
            return f"verified: all {self.nbytes} bytes match ({_tensors(self.tensors)})"
        lines = list(self.remarks)
        if self.differences:
            first = self.differences[0]
            lines.append(
                f"{len(self.differences)} of {_tensors(self.tensors)} differ; the first is {first.tensor}, from "
                f"element {list(first.index)} on, byte {first.byte} of the file"
            )
        elif self.tensors:
            lines.append(f"the data of {_tensors(self.tensors)} matches")
        return "\n".join(lines)


class Claim:
    """A safetensors file and the spec in its metadata; close it after the comparison.

    Raises ValueError for a file that is not a safetensors file or has no spec.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            self.size = os.fstat(self._descriptor).st_size
            self.head = self._head(path)
            header = read_header(self.head[PREFIX:])
            self.entries, self.metadata = header.entries, header.metadata
            self.document = spec_of(self.metadata)
        except InvalidFile as error:
            self.close()
            raise ValueError(f"{path} cannot be verified: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def end(self) -> int:
        """The size of the file in bytes according to its header."""
        return len(self.head) + max((entry.stop for entry in self.entries.values()), default=0)

    def read(self, start: int, stop: int) -> bytes:
        """Read bytes of the data; fewer where the file ends before."""
        return disk.read_at(self._descriptor, stop - start, len(self.head) + start)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _head(self, path: Path) -> bytes:
        prefix = disk.read_at(self._descriptor, PREFIX, 0)
        if len(prefix) < PREFIX:
            raise InvalidFile(f"{path.name} of {self.size} bytes is not a safetensors file")
        return prefix + disk.read_at(self._descriptor, header_length(prefix, self.size), PREFIX)


class Comparison(DataDestination):
    """A destination that compares the data with a file, in any order and in several threads at once."""

    parallel = True

    def __init__(self, claim: Claim):
        self._claim = claim
        self._lock = Lock()
        self._entries: list[tuple[str, Entry]] = []  # of the server's file, in the order of their data
        self._starts: list[int] = []
        self._first: dict[str, int] = {}  # the byte of each tensor at which it first differs
        self._remarks: list[str] = []

    def open(self, head: bytes, _size: int, _etag: str | None) -> Sequence[Span]:
        """Compare the head, and forget the differences of an earlier attempt."""
        header = read_header(head[PREFIX:])
        self._entries = sorted(header.entries.items(), key=lambda item: (item[1].start, item[1].stop))
        self._starts = [entry.start for _, entry in self._entries]
        self._first = {}
        self._remarks = [
            *self._length(),
            *_unlike(self._claim.metadata, header.metadata),
            *self._layout(),
        ]
        if not self._remarks and head != self._claim.head:
            self._remarks.append(
                "the header has the same tensors and metadata, but in another order or with other spaces"
            )
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield buffers that are compared as they fill."""
        for buffer in blocks(stop - start):
            yield buffer
            self._compare(start, buffer)
            start += len(buffer)

    def verdict(self) -> Verdict:
        """Return the result."""
        compared = [(name, entry) for name, entry in self._entries if self._claimed(name, entry)]
        found = [
            Difference(name, _index(entry, self._first[name]), self._place(name) + self._first[name])
            for name, entry in compared
            if name in self._first
        ]
        size = sum(entry.stop - entry.start for _, entry in compared)
        return Verdict(len(compared), size + len(self._claim.head), tuple(found), tuple(self._remarks))

    def _claimed(self, name: str, made: Entry) -> Entry | None:
        """Return the entry of a tensor in the file; None where it is missing, or of another shape or dtype."""
        claimed = self._claim.entries.get(name)
        return claimed if claimed and (made.dtype, made.shape) == (claimed.dtype, claimed.shape) else None

    def _place(self, name: str) -> int:
        return len(self._claim.head) + self._claim.entries[name].start

    def _length(self) -> Iterator[str]:
        if self._claim.size < self._claim.end:
            yield f"the file is cut off after {self._claim.size} of {self._claim.end} bytes"
        if self._claim.size > self._claim.end:
            yield f"{self._claim.size - self._claim.end} bytes follow the end of the file"

    def _layout(self) -> Iterator[str]:
        """Yield remarks on tensors that only one of the two files has, or that are of another shape or dtype."""
        entries = dict(self._entries)
        for name in sorted(entries.keys() ^ self._claim.entries.keys()):
            yield f"{name} is not in the file" if name in entries else f"{name} is in the file, and not in its spec"
        for name in sorted(entries.keys() & self._claim.entries.keys()):
            made, claimed = entries[name], self._claim.entries[name]
            if (made.dtype, made.shape) != (claimed.dtype, claimed.shape):
                yield (
                    f"{name} is {claimed.dtype} {list(claimed.shape)} in the file, and by its spec "
                    f"{made.dtype} {list(made.shape)}"
                )

    def _compare(self, start: int, buffer: memoryview) -> None:
        """Compare bytes of the server's data with those of the same tensors in the file."""
        stop = start + len(buffer)
        for name, entry in self._entries[max(bisect_right(self._starts, start) - 1, 0) :]:
            if entry.start >= stop:
                return
            claimed = self._claimed(name, entry)
            begin, end = max(start, entry.start), min(stop, entry.stop)
            if begin >= end or claimed is None:
                continue
            shift = claimed.start - entry.start
            there, made = self._claim.read(begin + shift, end + shift), bytes(buffer[begin - start : end - start])
            if there != made:
                self._note(name, begin - entry.start + first_difference(there, made))

    def _note(self, name: str, byte: int) -> None:
        with self._lock:
            self._first[name] = min(byte, self._first.get(name, byte))


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def first_difference(one: bytes, other: bytes) -> int:
    """Return the first position at which two byte strings differ; or the end of the shorter one."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _unlike(claimed: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[str]:
    """Yield remarks on the metadata in which two files differ."""
    for key in sorted(claimed.keys() | made.keys()):
        if claimed.get(key) != made.get(key):
            mine, theirs = (_shortened(metadata.get(key)) for metadata in (claimed, made))
            yield f"the metadata differ in {key!r}: {mine} in the file, {theirs} from the server"


def _shortened(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _index(entry: Entry, byte: int) -> tuple[int, ...]:
    """Return the index of the element that contains a given byte of a tensor's data."""
    element = byte * prod(entry.shape) // (entry.stop - entry.start)
    index = []
    for size in reversed(entry.shape):
        element, place = divmod(element, size)
        index.append(place)
    return tuple(reversed(index))
