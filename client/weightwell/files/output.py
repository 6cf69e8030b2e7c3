"""Outputs: where a file is saved to."""

import os
from pathlib import Path
from typing import BinaryIO

from weightwell.files.part import Part
from weightwell.transfers.destinations import InFile

Target = str | os.PathLike[str] | BinaryIO


class OpenFile:
    """A stream that bytes are simply written to: a pipe, a device, a file that the caller has opened."""

    def __init__(self, file: BinaryIO, *, owned: bool):
        self.destination = InFile(file)
        self._file = file
        self._owned = owned

    def commit(self) -> None:
        """Hand the last bytes over."""
        self._file.flush()

    def close(self) -> None:
        """Let go of the stream."""
        if self._owned:
            self._file.close()


def opened(target: Target) -> Part | OpenFile:
    """Open a path, or take a binary file, for writing; raise OSError where that cannot be."""
    if not isinstance(target, str | os.PathLike):
        return OpenFile(target, owned=False)
    path = Path(target)
    if path.exists() and not path.is_file():  # /dev/null must not be replaced; a directory is refused by open()
        return OpenFile(path.open("wb"), owned=True)
    return Part(path)
