"""Records: what is there of a file that has come in part, written beside it."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from weightwell.transfers.spans import Span


@dataclass(frozen=True, slots=True)
class Record:
    """The spans that are there, for good, of the file of ``size`` bytes with this entity tag."""

    etag: str
    size: int
    spans: tuple[Span, ...]

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """Read a record; None where there is none, or one that cannot be true, or another kind of file."""
        try:
            members = json.loads(path.read_bytes())
            size, spans = int(members["size"]), tuple((int(start), int(stop)) for start, stop in members["spans"])
            return cls(str(members["etag"]), size, spans) if all(0 <= a <= b <= size for a, b in spans) else None
        except (FileNotFoundError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None

    @classmethod
    def of(cls, etag: str, size: int, spans: Iterable[Span]) -> "Record":
        """Return the record of these spans."""
        return cls(etag, size, tuple(spans))

    def write(self, path: Path) -> None:
        """Replace the record by this one, so that at any moment the one or the other can be read."""
        text = json.dumps({"etag": self.etag, "size": self.size, "spans": self.spans}) + "\n"
        draft = _draft(path)
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


def remove(path: Path) -> None:
    """Remove a record, and what a process that was killed may have left of the next one."""
    _draft(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    return path.with_name(path.name + ".new")
