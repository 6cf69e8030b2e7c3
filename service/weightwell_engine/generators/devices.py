"""Devices: where numbers are drawn. The CPU is here; ``gpu`` needs torch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from mmap import mmap
from threading import RLock
from typing import Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from weightwell_engine.exceptions import Busy

_CACHE_LINE = 64

# Bytes from which on memory is a mapping of its own.
_MAPPED = 2**16

# What torch says where memory is all that is missing.
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


class Device(Protocol):
    """What a generator must know of a device."""

    name: str
    """torch's name of it: ``cpu``, ``cuda:0``."""

    chunk: int
    """Bytes of a file that are best drawn at once."""

    def allocate(self, nbytes: int) -> memoryview:
        """Return memory of the host that the device writes to without another copy."""

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that raises ``Busy`` or ``DeviceUnavailable`` for the device's own errors."""

    def trouble(self) -> str | None:
        """Return why nothing can be drawn here any more, or None."""


class Buffers:
    """Memory in sizes of powers of two, lent again once nobody holds a view of it; up to ``kept`` bytes wait for that.

    The system has all other bytes back at once, which it would not have from malloc: each buffer is a mapping of its
    own. They are kept because page faults on a new buffer cost a quarter of drawing it.
    """

    def __init__(self, kept: int):
        self._kept = kept
        self._free: dict[int, list[NDArray[np.uint8]]] = {}
        self._nbytes = 0
        self._lock = RLock()  # reentrant, as a finalizer may run at any time

    def lend(self, nbytes: int) -> memoryview:
        """Return one or more bytes of any value, which begin on a page."""
        size = 1 << (nbytes - 1).bit_length()
        with self._lock:
            if free := self._free.get(size):
                memory = free.pop()
                self._nbytes -= size
            else:
                memory = np.frombuffer(mmap(-1, size), np.uint8)
        lent = memory[:nbytes]  # which every view of it keeps alive
        finalize(lent, self._take_back, memory).atexit = False
        return lent.data

    def _take_back(self, memory: NDArray[np.uint8]) -> None:
        with self._lock:
            if self._nbytes + memory.nbytes <= self._kept:
                self._nbytes += memory.nbytes
                self._free.setdefault(memory.nbytes, []).append(memory)


def no_memory() -> Busy:
    """Return the error for memory of the host that is not there."""
    return Busy("this machine has no memory for this now; try again, or ask for less at once", retry_after=10)


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Return memory that begins on a cache line: vectors that straddle lines cost twice."""
    memory = np.empty(nbytes + _CACHE_LINE, np.uint8)
    return memory[-memory.ctypes.data % _CACHE_LINE :][:nbytes]


class Cpu:
    """The CPU, which is always there."""

    name = "cpu"
    # Large enough that the per-chunk cost of the event loop is lost in the copy, small enough that a reader who goes
    # away is noticed soon and that many readers share the machine fairly (docs/performance.md).
    chunk = 2**21
    _buffers = Buffers(kept=2**25)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def allocate(cls, nbytes: int) -> memoryview:
        """Return memory of any value that begins on a cache line; raise ``Busy`` if there is none."""
        try:
            return cls._buffers.lend(nbytes) if nbytes >= _MAPPED else _aligned(nbytes).data
        except (MemoryError, OSError) as error:
            raise no_memory() from error

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Return a context that raises ``Busy`` where torch has no memory on the CPU."""
        try:
            yield
        except RuntimeError as error:
            if _NO_MEMORY not in str(error):
                raise
            raise no_memory() from error

    def trouble(self) -> str | None:
        """Return None: there is none."""
        return None
