"""Engines: one for each device of this process, and the threads that draw.

A forked process has copies of its parent's locks, which stay locked for ever if a thread of the parent held them. So a
child makes new engines.
"""

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Lock
from weakref import WeakSet

from weightwell.in_process.address import Address
from weightwell_engine.engine import Engine
from weightwell_engine.generators.factory import find_device


class Engines:
    """The engines of a client in this process. Any number of threads may use them."""

    def __init__(self, address: Address):
        self.address = address
        self.start()
        _every.add(self)

    def start(self) -> None:
        """Begin without engines and threads, at first and in a forked process."""
        self._lock = Lock()
        self._engines: dict[str, Engine] = {}
        self._executor: Executor | None = None

    def of(self, device: str | None = None) -> Engine:
        """Return the engine of a device, by default that of the address; raise ``DeviceUnavailable``."""
        name = device or self.address.device
        engine = self._engines.get(name)
        if engine is None:
            with self._lock:
                if name not in self._engines:
                    self._engines[name] = Engine(find_device(name), threads=self.address.threads)
                engine = self._engines[name]
        return engine

    @property
    def helpers(self) -> int:
        """The number of threads that draw with the calling thread."""
        return self.address.threads - 1

    def executor(self) -> Executor:
        """Return the threads that draw with the calling thread; there must be some."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.helpers, thread_name_prefix="weightwell")
            return self._executor

    def close(self) -> None:
        """End the threads when they have no more work."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)


_every: "WeakSet[Engines]" = WeakSet()


def _after_fork() -> None:
    for engines in list(_every):
        engines.start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
