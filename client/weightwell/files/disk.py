"""What a disk is asked for, where the system has it: positions, room, durability, locks."""

import errno
import os
from pathlib import Path
from threading import Lock

try:
    import fcntl
except ImportError:  # Windows: two processes that save to one path at once are not told
    fcntl = None  # type: ignore[assignment]

LOCKS = fcntl is not None

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_ROOM_AHEAD = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

_seeking = Lock()  # where reading or writing at a position takes two calls


def open_locked(path: Path) -> int:
    """Open a file, made where there is none, that nobody else has locked; return its descriptor.

    The lock lives as long as the descriptor, or the process. Raises BlockingIOError if somebody else has it.
    """
    while True:
        descriptor = os.open(path, _FLAGS, 0o666)
        try:
            lock(descriptor)
            if not LOCKS or _leads_to(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it locked has just given it another name


def lock(descriptor: int) -> None:
    """Lock a file, if its file system can; raise BlockingIOError if somebody else has."""
    if not LOCKS:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "another process is saving to this path; wait for it, or end it") from None
    except OSError:
        return


def allocate(descriptor: int, size: int) -> None:
    """Take the room for a file of ``size`` bytes, so that a disk that is too small says so now and not at the end."""
    if hasattr(os, "posix_fallocate") and size:
        try:
            return os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_ROOM_AHEAD:
                raise
    return os.ftruncate(descriptor, size)


def read_at(descriptor: int, size: int, position: int) -> bytes:
    """Read ``size`` bytes from a position; fewer only at the end of the file."""
    pieces = bytearray()
    while len(pieces) < size and (piece := _read(descriptor, size - len(pieces), position + len(pieces))):
        pieces += piece
    return bytes(pieces)


def write_at(descriptor: int, data: memoryview, position: int) -> int:
    """Write some bytes to a position; return how many."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, position)
    with _seeking:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.write(descriptor, data)


def sync_data(descriptor: int) -> None:
    """Return when what was written can be read after a power cut."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable, where the system lets directories be opened for that."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, position)
    with _seeking:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, size)


def _leads_to(path: Path, descriptor: int) -> bool:
    """Whether a path is that of an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
