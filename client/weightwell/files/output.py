"""Outputs: the targets of ``save``."""

import os
from pathlib import Path
from typing import BinaryIO

from weightwell.files.comparison import Claim
from weightwell.files.part import Part
from weightwell.transfers.destinations import InFile

Target = str | os.PathLike[str] | BinaryIO


class OpenFile:
    """A stream: a pipe, a device, or a file that the caller has opened."""

    def __init__(self, file: BinaryIO, *, owned: bool):
        self.destination = InFile(file)
        self._file = file
        self._owned = owned

    def claim(self) -> Claim:
        """Raise ValueError: a stream cannot be read again."""
        raise ValueError("verify=True needs the path of a regular file, got a stream or a device")

    def discard(self) -> None:
        """Do nothing: a stream cannot be undone."""

    def commit(self) -> None:
        """Flush the stream."""
        self._file.flush()

    def close(self) -> None:
        """Close the stream, unless it is the caller's."""
        if self._owned:
            self._file.close()


Output = Part | OpenFile


def opened(target: Target) -> Output:
    """Return the output for a path or a binary file; raise OSError where it cannot be opened."""
    if not isinstance(target, str | os.PathLike):
        return OpenFile(target, owned=False)
    path = Path(target)
    if path.exists() and not path.is_file():  # /dev/null must not be replaced; a directory is refused by open()
        return OpenFile(path.open("wb"), owned=True)
    return Part(path)
