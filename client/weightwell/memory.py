"""Memory for tensors."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

Memory = bytearray | mmap.mmap

MAPPED = 1 << 20  # bytes; below this the zeros of a bytearray cost less than a system call

POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of madvise(2); Python's mmap does not have it

# The order of the free pages that a virtual machine reports to its host; out of range if it reports none.
REPORTED = Path("/sys/module/page_reporting/parameters/page_reporting_order")
ORDERS = range(32)


def allocate(size: int) -> Memory:
    """Return ``size`` bytes of writable memory, aligned for every element type.

    Large buffers are mapped, in huge pages where these are cheap. A bytearray would first be filled with zeros, which
    costs half as much as receiving the bytes (docs/performance.md). Raises MemoryError.
    """
    if size < MAPPED or not hasattr(mmap, "MAP_PRIVATE"):
        return bytearray(size)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"cannot allocate {size} bytes of memory: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE") and not free_pages_are_reported():
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def make_present(memory: memoryview) -> None:
    """Take the pages of writable memory in one system call, before its first bytes are written.

    A page that a kernel finds missing while it draws costs half as much again (docs/performance.md). Without Linux
    5.14 this does nothing. For 1 MiB of memory that is there it takes 3 us.
    """
    if len(memory) >= MAPPED and (madvise := _madvise()) is not None:
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        first = start - start % mmap.PAGESIZE
        madvise(first, start + len(memory) - first, POPULATE_WRITE)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """Return madvise(2) of the C library, or None on other systems than Linux."""
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    call: Callable[[int, int, int], int] = function
    return call


@cache
def free_pages_are_reported() -> bool:
    """Whether this is a virtual machine that returns its free huge pages to the host.

    A page fault on a returned huge page takes up to ten times as long as on a resident one, and three times as long as
    on small pages. https://docs.kernel.org/mm/free_page_reporting.html
    """
    try:
        return int(REPORTED.read_text()) in ORDERS
    except (OSError, ValueError):
        return False
