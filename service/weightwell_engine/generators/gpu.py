"""GPUs by torch: a CUDA stream for each thread, pinned memory, and clear errors.

A GPU has two more kinds of failure than a CPU: other processes may use up its memory, and it can be lost.
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

# The messages of CUDA's libraries for a failed allocation contain this.
_NO_MEMORY = ("out of memory", "ALLOC_FAILED")


class Gpu:
    """A GPU that torch supports, with streams, pinned memory and clear errors.

    ``place`` is its torch device, and ``card`` its model name. ``driver`` is ``torch.cuda``, or a fake in tests.
    """

    # By calculation (docs/cuda.md), a GPU draws and copies this chunk in less than a millisecond, and the socket takes
    # a few. So launches and wake-ups cost little in comparison, and a slow client holds little memory.
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
        """Return pinned memory, to which the GPU copies without the CPU. torch caches it after use.

        torch's allocator rounds the size up to a power of two. Raises as ``guarded``.
        """
        with self.guarded():
            return self._pinned(nbytes).numpy().data

    @contextmanager
    def queue(self, *, after_caller: bool = False) -> Iterator[None]:
        """Give this thread its own CUDA stream, so that the work of several threads overlaps on the GPU.

        ``after_caller``: its work begins after that of the caller's current stream, to which memory may belong.
        """
        with self.guarded():
            if not hasattr(self._own, "stream"):
                self._own.stream = self._driver.Stream(self.place)
            if after_caller:
                self._own.stream.wait_stream(self._driver.current_stream(self.place))
            with self._driver.stream(self._own.stream):
                yield

    def fetch(self, memory: torch.Tensor, out: memoryview) -> None:
        """Copy bytes (n) from the GPU to ``out``, and wait until this thread's stream is empty."""
        if len(out):  # torch.frombuffer refuses memory of no bytes
            torch.frombuffer(out, dtype=torch.uint8).copy_(memory, non_blocking=True)
        self.finish()

    def finish(self) -> None:
        """Wait until this thread's stream is empty. This releases the GIL and does not use the CPU."""
        event = self._driver.Event(blocking=True)
        event.record()
        event.synchronize()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise ``Busy`` if memory runs out, and ``DeviceUnavailable`` if the GPU is or was lost."""
        if self._lost is not None:
            raise self._unavailable(self._lost)
        try:
            yield
        except RuntimeError as error:  # all errors of torch and Triton about a device are of this type
            problem = self._diagnose(error)
            if problem is None:
                raise
            raise problem from error

    def trouble(self) -> str | None:
        """Return the reason why the GPU is lost, or None. Queries the GPU without a wait for its work."""
        if self._lost is None:
            try:
                self._driver.current_stream(self.place).query()  # any stream reports the error of a failed kernel
                self._driver.mem_get_info(self.place)
            except RuntimeError as error:
                self._lost = str(error).splitlines()[0]
                log.critical("the device %s is lost until this process is restarted: %s", self, self._lost)
        return self._lost

    def _pinned(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self.place.type == "cuda")

    def _diagnose(self, error: RuntimeError) -> WeightwellError | None:
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY):
            log.warning("the device %s is out of memory: %s", self, str(error).splitlines()[0])
            self._release(error)
            return Busy(f"the device {self} is out of memory; try again, or request less at once")
        reason = self.trouble()
        return None if reason is None else self._unavailable(reason)

    def _release(self, error: RuntimeError) -> None:
        """Free the memory of the failed calls, and the memory that torch's allocator caches."""
        clear_frames(error.__traceback__)
        with suppress(RuntimeError):
            self._driver.empty_cache()

    def _unavailable(self, reason: str) -> DeviceUnavailable:
        return DeviceUnavailable(f"the device {self} is lost: {reason}. Restart the service")


def find_gpu(name: str, index: int) -> Gpu:
    """Return the GPU with torch's number ``index``; raise ``DeviceUnavailable`` if torch cannot use it."""
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceUnavailable(
            f"device {name} does not exist: torch {torch.__version__} sees {count} CUDA devices. "
            "Use --device cpu, or a torch build with CUDA on a machine that has one"
        )
    try:
        card = torch.cuda.get_device_properties(index)
    except RuntimeError as error:
        raise DeviceUnavailable(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return Gpu(torch.device("cuda", index), f"{card.name}, compute capability {card.major}.{card.minor}")
