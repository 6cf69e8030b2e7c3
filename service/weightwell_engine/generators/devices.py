"""Devices for drawing. The CPU is here; ``gpu`` needs torch."""

import mmap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import RLock
from typing import Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from weightwell_engine import forks
from weightwell_engine.exceptions import Busy

_CACHE_LINE = 64

# Buffers of at least this many bytes are memory mappings.
_MAPPED = 2**16

# Mappings are private, so that a child of a fork does not write into the buffers of its parent. Python's are shared.
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}

# torch's message for a failed allocation.
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


class Device(Protocol):
    """The interface of a device for generators."""

    name: str
    """torch's name of the device: ``cpu``, ``cuda:0``."""

    chunk: int
    """The best chunk size in bytes."""

    def allocate(self, nbytes: int) -> memoryview:
        """Return host memory that the device writes to without another copy."""

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that converts the device's errors to ``Busy`` or ``DeviceUnavailable``."""

    def trouble(self) -> str | None:
        """Return the reason why the device is lost, or None."""


class Buffers:
    """A pool of buffers with sizes of powers of two. A buffer returns to the pool when its last view is deleted.

    The pool keeps up to ``kept`` free bytes, because page faults on a new buffer cost a quarter of drawing it. Other
    buffers return to the system at once: each is its own memory mapping, unlike memory from malloc.
    """

    def __init__(self, kept: int):
        self._kept = kept
        self._free: dict[int, list[NDArray[np.uint8]]] = {}
        self._nbytes = 0
        self._lock = RLock()  # reentrant, as a finalizer may run at any time
        forks.protect(self._lock)

    def lend(self, nbytes: int) -> memoryview:
        """Return one or more uninitialized bytes, aligned to a page."""
        size = 1 << (nbytes - 1).bit_length()
        with self._lock:
            if free := self._free.get(size):
                memory = free.pop()
                self._nbytes -= size
            else:
                memory = np.frombuffer(mmap.mmap(-1, size, **_PRIVATE), np.uint8)
        lent = memory[:nbytes]  # which every view of it keeps alive
        finalize(lent, self._take_back, memory).atexit = False
        return lent.data

    def _take_back(self, memory: NDArray[np.uint8]) -> None:
        """Keep a buffer, unless there are enough, or the lock is not free: a finalizer must not wait."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._nbytes + memory.nbytes <= self._kept:
                self._nbytes += memory.nbytes
                self._free.setdefault(memory.nbytes, []).append(memory)
        finally:
            self._lock.release()


def no_memory() -> Busy:
    """Return the error for a failed allocation of host memory."""
    return Busy("this machine is out of memory; try again, or request less at once", retry_after=10)


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Return memory aligned to a cache line: access across two cache lines costs twice."""
    memory = np.empty(nbytes + _CACHE_LINE, np.uint8)
    return memory[-memory.ctypes.data % _CACHE_LINE :][:nbytes]


class Cpu:
    """The CPU, which is always available."""

    name = "cpu"
    # Large enough to make the event loop's cost per chunk small. Small enough to notice a closed connection soon and
    # to share the machine fairly between many clients (docs/performance.md).
    chunk = 2**21
    _buffers = Buffers(kept=2**25)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def allocate(cls, nbytes: int) -> memoryview:
        """Return uninitialized memory, aligned to a cache line; raise ``Busy`` if the allocation fails."""
        try:
            return cls._buffers.lend(nbytes) if nbytes >= _MAPPED else _aligned(nbytes).data
        except (MemoryError, OSError) as error:
            raise no_memory() from error

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Return a context that raises ``Busy`` if torch cannot allocate memory on the CPU."""
        try:
            yield
        except RuntimeError as error:
            if _NO_MEMORY not in str(error):
                raise
            raise no_memory() from error

    def trouble(self) -> str | None:
        """Return None: a CPU cannot be lost."""
        return None
