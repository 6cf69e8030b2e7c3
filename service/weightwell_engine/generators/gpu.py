"""GPUs, as torch sees them: a queue for each thread, pinned memory, and clear errors.

A GPU can do what a CPU cannot: run out of a memory that is not the process's own, and be lost.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import clear_frames
from typing import Any

import torch

from weightwell_engine.exceptions import Busy, DeviceUnavailable, WeightwellError

log = logging.getLogger(__name__)

# What the messages of CUDA's libraries have in common where memory is all that is missing.
_NO_MEMORY = ("out of memory", "ALLOC_FAILED")


class Gpu:
    """A GPU that torch sees, and what a thread needs to work on it: a queue, pinned memory, and clear errors.

    ``place`` is where torch finds it, and ``card`` its maker's name. ``driver`` is ``torch.cuda``, or a stand-in for it
    in tests.
    """

    # By calculation (docs/cuda.md), a GPU draws and copies these in less than a millisecond, and the socket takes some:
    # enough that launches and wake-ups cost little beside it, and little to be kept for a reader who is slow.
    chunk = 2**23

    def __init__(self, place: torch.device, card: str, driver: Any = torch.cuda):
        self.place = place
        self.name = str(place)
        self._card = card
        self._driver = driver
        self._own = threading.local()
        self._lost: str | None = None

    def __str__(self) -> str:
        return f"{self.place} ({self._card})"

    def allocate(self, nbytes: int) -> memoryview:
        """Return pinned memory, to which the GPU copies without the CPU; torch keeps it for the next when it is free.

        Of a size that is no power of two, torch's allocator takes the next that is. Raises as ``guarded``.
        """
        with self.guarded():
            return self._pinned(nbytes).numpy().data

    @contextmanager
    def queue(self) -> Iterator[None]:
        """Let this thread work in a queue of its own on the GPU, so that what several threads do there overlaps."""
        with self.guarded():
            if not hasattr(self._own, "stream"):
                self._own.stream = self._driver.Stream(self.place)
            with self._driver.stream(self._own.stream):
                yield

    def fetch(self, memory: torch.Tensor, out: memoryview) -> None:
        """Copy bytes (n) of the GPU to ``out``, and return when all that this thread has queued is done."""
        if len(out):  # torch.frombuffer refuses memory of no bytes
            torch.frombuffer(out, dtype=torch.uint8).copy_(memory, non_blocking=True)
        self.finish()

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


def find_gpu(name: str, index: int) -> Gpu:
    """Return the GPU that torch numbers ``index``; raise ``DeviceUnavailable`` if torch cannot use it."""
    count = torch.cuda.device_count()
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
