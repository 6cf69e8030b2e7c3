"""Files that appear whole or not at all."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

Target = str | os.PathLike[str] | BinaryIO


class NewFile:
    """A file that is written beside its path under another name, and takes its path when it is complete."""

    def __init__(self, path: Path):
        self._path = path.resolve()  # a link stays a link
        self._part = self._path.with_name(f".weightwell-{secrets.token_hex(4)}.part")
        try:
            self.file: BinaryIO = self._part.open("xb")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def commit(self) -> None:
        """Put the file in its place, for good: once this returns, not even a power cut takes it away."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._part.replace(self._path)
        _sync_directory(self._path.parent)

    def discard(self) -> None:
        """Remove the file, unless it has been put in its place."""
        with suppress(OSError):  # a full disk fails a second time here
            self.file.close()
        self._part.unlink(missing_ok=True)


class OpenFile:
    """A stream that bytes are simply written to: a pipe, a device, a file that the caller has opened."""

    def __init__(self, file: BinaryIO, *, owned: bool):
        self.file = file
        self._owned = owned

    def commit(self) -> None:
        """Hand the last bytes over."""
        self.file.flush()

    def discard(self) -> None:
        """Let go of the stream."""
        if self._owned:
            self.file.close()


def opened(target: Target) -> NewFile | OpenFile:
    """Open a path, or take a binary file, for writing; raise OSError where that cannot be."""
    if not isinstance(target, str | os.PathLike):
        return OpenFile(target, owned=False)
    path = Path(target)
    if path.exists() and not path.is_file():  # /dev/null must not be replaced; a directory is refused by open()
        return OpenFile(path.open("wb"), owned=True)
    return NewFile(path)


def _sync_directory(directory: Path) -> None:
    """Make the names in a directory durable, where the system lets directories be opened for that."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
