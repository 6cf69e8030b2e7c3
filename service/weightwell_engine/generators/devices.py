"""Devices: where numbers are drawn. The CPU is here; ``gpu`` needs torch."""

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

_CACHE_LINE = 64


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


class Reused:
    """Memory of one size, lent again once nobody holds a view of it.

    What a chunk of new pages costs to touch is a quarter of what it costs to draw, and malloc gives those of a chunk
    back to the system when it is freed.
    """

    def __init__(self, nbytes: int, kept: int):
        self.nbytes = nbytes
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=kept)

    def lend(self, nbytes: int) -> memoryview:
        """Return as many bytes, at most ``self.nbytes``, of any value, which begin on a cache line."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _aligned(self.nbytes)
        lent = memory[:nbytes]  # which every view of it keeps alive
        finalize(lent, self._free.append, memory).atexit = False
        return lent.data


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
    # A chunk of a range has whole elements beyond its ends.
    _chunks = Reused(chunk + 2 * _CACHE_LINE, kept=32)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def allocate(cls, nbytes: int) -> memoryview:
        """Return memory of any value that begins on a cache line. What is much less than a chunk is not kept."""
        if cls.chunk // 2 < nbytes <= cls._chunks.nbytes:
            return cls._chunks.lend(nbytes)
        return _aligned(nbytes).data

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context in which nothing more is guarded against."""
        return nullcontext()

    def trouble(self) -> str | None:
        """Return None: there is none."""
        return None
