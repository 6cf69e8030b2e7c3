"""Devices: where numbers are drawn, and how what was drawn comes into memory that a socket can be written from.

A GPU can do what a CPU cannot: run out of a memory that is not the process's own, and be lost.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from traceback import clear_frames
from typing import Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray

from weightwell_service.exceptions import Busy, DeviceUnavailable, WeightwellError

log = logging.getLogger(__name__)

_CACHE_LINE = 64

# What the messages of CUDA's libraries have in common where memory is all that is missing.
_NO_MEMORY = ("out of memory", "ALLOC_FAILED")


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

    place = torch.device("cpu")
    # Large enough that the per-chunk cost of the event loop is lost in the copy, small enough that a reader who goes
    # away is noticed soon and that many readers share the machine fairly (docs/performance.md).
    chunk = 2**21
    # A chunk of a range has whole elements beyond its ends.
    _chunks = Reused(chunk + 2 * _CACHE_LINE, kept=32)

    def __str__(self) -> str:
        return "cpu"

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


class Gpu:
    """A GPU that torch sees, and what a thread needs to work on it: a queue, pinned memory, and clear errors.

    ``name`` is for people. ``driver`` is ``torch.cuda``, or what stands in for it where there is no GPU.
    """

    # By calculation (docs/cuda.md), a GPU draws and copies these in less than a millisecond, and the socket takes some:
    # enough that launches and wake-ups cost little beside it, and little to be kept for a reader who is slow.
    chunk = 2**23

    def __init__(self, place: torch.device, name: str, driver: Any = torch.cuda):
        self.place = place
        self._name = name
        self._driver = driver
        self._own = threading.local()
        self._lost: str | None = None

    def __str__(self) -> str:
        return f"{self.place} ({self._name})"

    def allocate(self, nbytes: int) -> memoryview:
        """Return pinned memory, to which the GPU copies without the CPU; torch keeps it for the next when it is free.

        Of a size that is no power of two, torch's allocator takes the next that is.
        """
        return self._pinned(nbytes).numpy().data

    @contextmanager
    def queue(self) -> Iterator[None]:
        """Let this thread work in a queue of its own on the GPU, so that what several threads do there overlaps."""
        with self.guarded():
            if not hasattr(self._own, "stream"):
                self._own.stream = self._driver.Stream(self.place)
            with self._driver.stream(self._own.stream):
                yield

    def fetch(self, memory: torch.Tensor) -> memoryview:
        """Return a copy of bytes (n) of the GPU, once all that this thread has queued for them is done."""
        copy = self._pinned(len(memory)).copy_(memory, non_blocking=True)
        self.finish()
        return copy.numpy().data

    def finish(self) -> None:
        """Wait for all that this thread has queued; meanwhile Python's other threads run, and the CPU sleeps."""
        event = self._driver.Event(blocking=True)
        event.record()
        event.synchronize()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise ``Busy`` where memory runs out, and ``DeviceUnavailable`` where the GPU is lost, or was before."""
        if self._lost is not None:
            raise self._unavailable(self._lost)
        try:
            yield
        except RuntimeError as error:  # which is what all errors of torch and Triton about a device are
            problem = self._diagnose(error)
            if problem is None:
                raise
            raise problem from error

    def trouble(self) -> str | None:
        """Return why nothing can be drawn here any more, or None; asks the GPU, and does not wait for its work."""
        if self._lost is None:
            try:
                self._driver.current_stream(self.place).query()  # what went wrong in a kernel is told by any queue
                self._driver.mem_get_info(self.place)
            except RuntimeError as error:
                self._lost = str(error).splitlines()[0]
                log.critical("the device %s is lost, and only a new process can get it back: %s", self, self._lost)
        return self._lost

    def _pinned(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self.place.type == "cuda")

    def _diagnose(self, error: RuntimeError) -> WeightwellError | None:
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY):
            log.warning("the device %s is out of memory: %s", self, str(error).splitlines()[0])
            self._release(error)
            return Busy(f"the device {self} has no memory for this now; try again, or ask for less at once")
        reason = self.trouble()
        return None if reason is None else self._unavailable(reason)

    def _release(self, error: RuntimeError) -> None:
        """Give back what had been taken when there was no more: the failed calls still hold it, and torch the rest."""
        clear_frames(error.__traceback__)
        with suppress(RuntimeError):
            self._driver.empty_cache()

    def _unavailable(self, reason: str) -> DeviceUnavailable:
        return DeviceUnavailable(f"the device {self} is lost: {reason}. The service has to be started again")


Device = Cpu | Gpu


def find_device(name: str) -> Device:
    """Return the device of a name; raise ``DeviceUnavailable`` if there is none, or torch cannot use it."""
    try:
        place = torch.device(name)
    except RuntimeError:
        raise _misnamed(name) from None
    if place == Cpu.place:
        return Cpu()
    if place.type != "cuda" or str(place) != name != "cuda":  # torch wraps cuda:256 to cuda:0
        raise _misnamed(name)
    count = torch.cuda.device_count()
    index = place.index or 0
    if index >= count:
        raise DeviceUnavailable(
            f"device {name} is not there: torch {torch.__version__} sees {count} CUDA devices. "
            "Use --device cpu, or a torch build with CUDA on a machine that has one"
        )
    try:
        card = torch.cuda.get_device_properties(index)
    except RuntimeError as error:
        raise DeviceUnavailable(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return Gpu(torch.device("cuda", index), f"{card.name}, compute capability {card.major}.{card.minor}")


def _misnamed(name: str) -> DeviceUnavailable:
    return DeviceUnavailable(f"device must be cpu, cuda or cuda:<index>, got {name!r}")
