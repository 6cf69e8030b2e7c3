"""Scheduler: shares a few threads fairly between many clients."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")

Job = Generator[None, None, T]
"""Work in units: each step of the generator does one unit, and its return value is the result."""

# While small requests wait, one in this many turns still goes to a large request.
_LARGE_EVERY = 8


@dataclass(frozen=True, slots=True, eq=False)
class Requester:
    """One request of a client; ``small`` if all its jobs together take a few units."""

    client: str
    small: bool


class Scheduler:
    """Threads that do jobs unit by unit: small requests first, then round robin over clients and over their requests.

    Jobs of one request start in the order of submission. Any thread may call the methods.
    """

    def __init__(self, threads: int, name: str, *, clock: Callable[[], float] = time.monotonic):
        self.name = name
        self._clock = clock
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = Lock()
        self._small, self._large = _Round(), _Round()
        self._turns = 0
        self._jobs = 0
        self._progress = 0.0
        self.worked = 0.0  # seconds of all threads

    def submit(self, job: Job[T], requester: Requester) -> Future[T]:
        """Queue a job; return its future, which can be cancelled until the job starts."""
        work = _Work(job, Future())
        with self._lock:
            if self._jobs == 0:
                self._progress = self._clock()
            self._jobs += 1
            self._round(requester).add(requester, work)
        self._executor.submit(self._take_turn)
        return work.future

    @property
    def jobs(self) -> int:
        """The number of jobs that wait or are being done."""
        return self._jobs

    def waited(self) -> float:
        """Return the seconds since the last unit ended; 0 if there is no work."""
        with self._lock:
            return self._clock() - self._progress if self._jobs else 0.0

    def shutdown(self) -> None:
        """Start no more work."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _take_turn(self) -> None:
        """Do one unit of the next job."""
        with self._lock:
            requester, work = self._next()
        began = self._clock()
        ended = work.step()
        with self._lock:
            self._progress = self._clock()
            self.worked += self._progress - began
            self._jobs -= ended
            if not ended:
                self._round(requester).put_back(requester, work)
        if not ended:
            with suppress(RuntimeError):  # after shutdown
                self._executor.submit(self._take_turn)

    def _next(self) -> tuple[Requester, "_Work"]:
        self._turns += 1
        rounds = (self._small, self._large) if self._turns % _LARGE_EVERY else (self._large, self._small)
        return next(each for each in rounds if each.clients).take()

    def _round(self, requester: Requester) -> "_Round":
        return self._small if requester.small else self._large


class _Work:
    """A job and the future of its result."""

    def __init__(self, job: Job[Any], future: Future[Any]):
        self.future = future
        self._job = job
        self._begun = False

    def step(self) -> bool:
        """Do a unit, unless the job was cancelled; return whether it was the last."""
        if not self._begun and not self.future.set_running_or_notify_cancel():
            return True
        self._begun = True
        try:
            next(self._job)
        except StopIteration as end:
            self.future.set_result(end.value)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            return False
        return True


class _Round:
    """Jobs by client and by request, both in round-robin order."""

    def __init__(self) -> None:
        self.clients: OrderedDict[str, OrderedDict[Requester, deque[_Work]]] = OrderedDict()

    def add(self, requester: Requester, work: _Work) -> None:
        """Queue a job after the others of the same request."""
        self._jobs(requester).append(work)

    def put_back(self, requester: Requester, work: _Work) -> None:
        """Queue a started job before the others of the same request."""
        self._jobs(requester).appendleft(work)

    def take(self) -> tuple[Requester, _Work]:
        """Return the next job, and move its client, and its request within the client, to the end of the order."""
        client, requests = self.clients.popitem(last=False)
        requester, jobs = requests.popitem(last=False)
        work = jobs.popleft()
        if jobs:
            requests[requester] = jobs
        if requests:
            self.clients[client] = requests
        return requester, work

    def _jobs(self, requester: Requester) -> deque[_Work]:
        return self.clients.setdefault(requester.client, OrderedDict()).setdefault(requester, deque())
