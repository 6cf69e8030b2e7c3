"""Memory that a tensor is received into."""

import mmap
from contextlib import suppress

Memory = bytearray | mmap.mmap

MAPPED = 1 << 20  # bytes; below this the zeros of a bytearray cost less than a system call


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
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
