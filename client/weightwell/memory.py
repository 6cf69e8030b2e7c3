"""Memory that a tensor is received into."""

import mmap
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

Memory = bytearray | mmap.mmap

MAPPED = 1 << 20  # bytes; below this the zeros of a bytearray cost less than a system call

POPULATE_WRITE = 23  # of <asm-generic/mman-common.h>, the same on every architecture; Python has no name for it

# The order of the pages that a virtual machine reports to its host as free; an impossible one where it reports none.
REPORTED = Path("/sys/module/page_reporting/parameters/page_reporting_order")
ORDERS = range(32)


def allocate(size: int) -> Memory:
    """Return ``size`` bytes of writable memory, aligned for every element type.

    Large memory is mapped rather than zeroed, in huge pages where the system has them: the pages come into being under
    the copy out of the socket, and there are 512 times fewer of them. Writing zeros first halves the rate of a local
    transfer. Raises MemoryError.
    """
    if size < MAPPED or not hasattr(mmap, "MAP_PRIVATE"):
        return bytearray(size)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"there is no memory for {size} bytes: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE") and not free_pages_are_reported():
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def populate(memory: Memory, start: int, stop: int) -> None:
    """Have the pages of bytes that will be written next, all at once: one by one they cost a third more."""
    if isinstance(memory, mmap.mmap) and start < stop and sys.platform == "linux":
        start -= start % mmap.PAGESIZE
        with suppress(OSError):  # a kernel before 5.14
            memory.madvise(POPULATE_WRITE, start, stop - start)


@cache
def free_pages_are_reported() -> bool:
    """Whether this is a virtual machine that gives its free huge pages back to the host.

    The host takes their memory, and every huge page must be fetched again, at up to ten times the price of one that
    stayed, and four times that of small pages, which are not given back.
    https://docs.kernel.org/mm/free_page_reporting.html
    """
    try:
        return int(REPORTED.read_text()) in ORDERS
    except (OSError, ValueError):
        return False
