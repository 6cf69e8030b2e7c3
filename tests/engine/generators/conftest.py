"""A fake GPU: torch's CPU, with a driver that can fail like CUDA."""

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from weightwell_engine.generators.gpu import Gpu


class Stream:
    """Stands in for a CUDA stream, and counts its waits for others."""

    def __init__(self) -> None:
        self.waited = 0

    def wait_stream(self, other: object) -> None:
        del other
        self.waited += 1


class Driver:
    """Stands in for ``torch.cuda``: does all at once, counts, and answers with ``lost`` once that is an error."""

    def __init__(self) -> None:
        self.lost: RuntimeError | None = None
        self.streams: list[Stream] = []
        self.finished = 0
        self.emptied = 0

    def Stream(self, device: torch.device) -> object:  # noqa: N802 - torch's name
        del device
        self.streams.append(Stream())
        return self.streams[-1]

    def stream(self, stream: object) -> AbstractContextManager[None]:
        assert stream in self.streams
        return nullcontext()

    def Event(self, *, blocking: bool) -> "Driver":  # noqa: N802 - torch's name
        assert blocking
        return self

    def record(self) -> None: ...

    def synchronize(self) -> None:
        self.finished += 1
        self._answer()

    def current_stream(self, device: torch.device) -> "Driver":
        del device
        return self

    def query(self) -> bool:
        self._answer()
        return True

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        del device
        self._answer()
        return 1, 2

    def empty_cache(self) -> None:
        self.emptied += 1
        self._answer()

    def _answer(self) -> None:
        if self.lost is not None:
            raise self.lost


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def gpu(driver: Driver) -> Gpu:
    """The CPU, as a GPU."""
    return Gpu(torch.device("cpu"), "a card, compute capability 9.0", driver)
