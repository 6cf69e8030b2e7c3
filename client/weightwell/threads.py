"""Threads: functions that may block, called from an event loop."""

from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread. The function has ended when this returns or raises."""
    turn, over = Lock(), False
    results: list[T] = []

    def call() -> None:
        with turn:
            if not over:
                results.append(function(*args))

    def end() -> None:
        nonlocal over
        with turn:
            over = True

    try:
        await anyio.to_thread.run_sync(call)
    except anyio.get_cancelled_exc_class():
        # anyio waits for its threads after its own cancellations, but not after asyncio's (wait_for, Task.cancel).
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(end)
        raise
    return results[0]
