"""Forks: locks of the process that a child of ``os.fork`` finds free.

A lock that another thread holds at the fork stays locked in the child for ever, because the child has one thread. So a
fork waits until these locks are free, and then holds them itself.
"""

import os
from typing import Any, Protocol


class Lock(Protocol):
    """A lock that its thread can acquire again (``threading.RLock``)."""

    def acquire(self) -> Any:
        """Acquire the lock."""

    def release(self) -> Any:
        """Release the lock."""


_locks: list[Lock] = []
_held: list[Lock] = []


def protect(*locks: Lock) -> None:
    """Let every later fork wait for locks. A thread that holds one of them may acquire only those named later."""
    _locks.extend(locks)


def _acquire() -> None:
    for lock in _locks:
        lock.acquire()
        _held.append(lock)


def _release() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
