"""Files on a disk: reads and writes at a position, allocation, and locks, if the system supports them."""

import errno
import os
import stat
from pathlib import Path
from threading import Lock

try:
    import fcntl
except ImportError:  # on Windows, two processes that save to one path at once get no error
    fcntl = None  # type: ignore[assignment]

LOCKS = fcntl is not None

_FLAGS = os.O_RDWR | os.O_CREAT
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # without O_NONBLOCK, opening a FIFO could wait for ever
    _FLAGS |= getattr(os, _name, 0)
_NO_ROOM_AHEAD = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

_seeking = Lock()  # for systems without pread and pwrite, where a read or write at a position takes two calls


def open_file(path: Path, flags: int = 0) -> int:
    """Open a regular file, or create it; return its descriptor. Raises OSError for links and everything else."""
    descriptor = os.open(path, _FLAGS | flags, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"{path} is not a regular file: remove it", str(path))


def open_locked(path: Path) -> int:
    """Open a file, or create it, and lock it; return its descriptor.

    The lock ends with the descriptor, or the process. Raises BlockingIOError if another process holds it.
    """
    while True:
        descriptor = open_file(path)
        try:
            lock(descriptor)
            if not LOCKS or _leads_to(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the process that held the lock has just renamed the file


def lock(descriptor: int) -> None:
    """Lock a file, if its file system can; raise BlockingIOError if another process holds the lock."""
    if not LOCKS:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "another process is saving to this path: wait for it, or end it") from None
    except OSError:
        return


def allocate(descriptor: int, size: int) -> None:
    """Allocate ``size`` bytes for a file, so that a disk that is too small is an error now and not at the end."""
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
