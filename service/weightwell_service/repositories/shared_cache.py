"""A cache of slow reads: concurrent requests for one key share one read."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from math import inf
from typing import Any

from weightwell_engine.exceptions import WeightwellError

# Seconds for which an error is kept, so that requests do not wait for a dead upstream one after the other.
ERRORS = 5.0

# Approximate bytes of an entry without its value.
_ENTRY = 500


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    error: WeightwellError | None
    nbytes: int
    until: float


class SharedCache:
    """A cache of values by key, with the most recently used ones that fit into ``nbytes``, by estimate.

    It belongs to one event loop. A value is loaded in a task of its own: a request that is cancelled does not cancel
    the load for others.
    """

    def __init__(self, nbytes: int, clock: Callable[[], float] = time.monotonic):
        self._limit = nbytes
        self.clock = clock
        self._used = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._loading: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(self, key: Hashable, load: Callable[[], Awaitable[tuple[Any, int]]], *, lifetime: float = inf) -> Any:
        """Return the value of a key; ``load`` returns it with its bytes in memory, if it is not here.

        A value is kept for at most ``lifetime`` seconds. An error of ``load`` is raised, and kept for a short time.
        """
        entry = self._entries.get(key)
        if entry is not None and self.clock() < entry.until:
            self._entries.move_to_end(key)
            if entry.error is not None:
                raise entry.error.with_traceback(None)
            return entry.value
        task = self._loading.get(key)
        if task is None:
            task = asyncio.ensure_future(self._load(key, load, lifetime))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._loading[key] = task
        return await asyncio.shield(task)

    def put(self, key: Hashable, value: Any, nbytes: int, *, lifetime: float = inf) -> None:
        """Add a value, and evict the least recently used ones that no longer fit."""
        self._put(key, _Entry(value, None, nbytes + _ENTRY, self.clock() + lifetime))

    async def close(self) -> None:
        """Cancel every load."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, key: Hashable, load: Callable[[], Awaitable[tuple[Any, int]]], lifetime: float) -> Any:
        try:
            value, nbytes = await load()
        except WeightwellError as error:
            self._put(key, _Entry(None, error, _ENTRY, self.clock() + ERRORS))
            raise
        else:
            self.put(key, value, nbytes, lifetime=lifetime)
            return value
        finally:
            del self._loading[key]

    def _put(self, key: Hashable, entry: _Entry) -> None:
        before = self._entries.pop(key, None)
        self._used -= before.nbytes if before else 0
        if entry.nbytes > self._limit:
            return
        self._entries[key] = entry
        self._used += entry.nbytes
        while self._used > self._limit:
            _, evicted = self._entries.popitem(last=False)
            self._used -= evicted.nbytes
