"""Forks: locks of the process that a child of ``os.fork`` finds free.

A lock that another thread holds at the fork stays locked in the child for ever, because the child has one thread. So a
fork waits until these locks are free, and then holds them itself.
"""

import concurrent.futures.thread  # noqa: F401 - see below
import logging  # noqa: F401 - see below
import os
from threading import RLock
from typing import Any, Protocol


class Lock(Protocol):
    """A lock that its thread can acquire again (``threading.RLock``)."""

    def acquire(self, blocking: bool = True) -> bool:
        """Acquire the lock; return whether it was acquired."""

    def release(self) -> Any:
        """Release the lock."""


loading = RLock()
"""Held while modules are imported and kernels are loaded: a child cannot end an import of its parent."""

_locks: list[Lock] = [loading]
_held: list[Lock] = []


def protect(*locks: Lock) -> None:
    """Let every later fork wait for locks. Threads may acquire them in any order."""
    _locks.extend(locks)


def _acquire() -> None:
    """Acquire all locks. No lock is held while another is waited for, as its holder may need that one.

    A finalizer that Python runs in a thread with one lock may need any other.
    """
    first: Lock | None = None
    while True:
        if first is not None:
            first.acquire()
            _held.append(first)
        first = next((lock for lock in _locks if lock is not first and not _acquired(lock)), None)
        if first is None:
            return
        _release()


def _acquired(lock: Lock) -> bool:
    if not lock.acquire(blocking=False):
        return False
    _held.append(lock)
    return True


def _release() -> None:
    while _held:
        _held.pop().release()


# Hooks run in the reverse order of their registration. Python's own modules, imported above, hold their locks at a fork
# as well, and a thread that compiles may need them. So this hook is registered later and runs earlier.
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
