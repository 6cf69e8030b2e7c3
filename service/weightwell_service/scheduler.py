"""Scheduler: shares a few threads fairly between many clients.

A turn is one unit of work. Who gets the next turn:

1. Requests of three classes wait apart: small, large and batch. Small comes before large, and both before batch.
2. Every 8th turn goes to large first, and every 32nd to batch first. So no class waits for ever.
3. Inside a class, clients take turns in rounds. In a round, a client has as many turns as its share.
4. Inside a client, its requests take turns.
"""

import os
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")

Job = Generator[None, None, T]
"""Work in units: each step of the generator does one unit, and its return value is the result."""

# While other requests wait, one in this many turns still goes to a large request, and to a batch request.
_LARGE_EVERY = 8
_BATCH_EVERY = 32

# The niceness that is added to the threads. They are busy all the time. With the same niceness as the event loop, they
# and many readers on few processors let it wait for a processor for 50 ms and more, before each of its passes.
_NICENESS = 5


@dataclass(slots=True, eq=False)
class Requester:
    """One request of a client.

    ``small``: whether all its jobs together take a few units. ``share``: turns of its client in a round, 1 or more.
    ``batch``: whether it waits while requests of others wait. ``check`` is called before each unit with ``used``, the
    CPU seconds of all units so far; it may raise to end the request.
    """

    client: str
    small: bool
    share: int = 1
    batch: bool = False
    check: Callable[[float], None] | None = None
    used: float = 0.0


def checked(job: Job[T], requester: Requester) -> Job[T]:
    """Do a job, and ask ``requester.check`` before each of its units."""
    try:
        while True:
            if requester.check is not None:
                requester.check(requester.used)
            try:
                next(job)
            except StopIteration as end:
                value: T = end.value
                return value
            yield
    finally:
        job.close()


class Scheduler:
    """Threads that do jobs unit by unit: small requests first, then round robin over clients and over their requests.

    Jobs of one request start in the order of submission. Any thread may call the methods. On Linux, the threads have a
    lower priority than the others of the process. ``clock`` returns seconds, and ``cpu`` the CPU seconds of the calling
    thread.
    """

    def __init__(
        self,
        threads: int,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ):
        self.name = name
        self._clock = clock
        self._cpu = cpu
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_give_way)
        self._lock = Lock()
        self._small, self._large, self._batch = _Round(), _Round(), _Round()
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
        began, cpu = self._clock(), self._cpu()
        ended = work.step()
        cpu = self._cpu() - cpu
        with self._lock:
            self._progress = self._clock()
            self.worked += self._progress - began
            requester.used += cpu
            self._jobs -= ended
            if not ended:
                self._round(requester).put_back(requester, work)
        if not ended:
            with suppress(RuntimeError):  # after shutdown
                self._executor.submit(self._take_turn)

    def _next(self) -> tuple[Requester, "_Work"]:
        self._turns += 1
        rounds = [self._small, self._large, self._batch]
        if self._turns % _LARGE_EVERY == 0:
            rounds = [self._large, self._small, self._batch]
        if self._turns % _BATCH_EVERY == 0:
            rounds = [self._batch, self._large, self._small]
        return next(each for each in rounds if each.waiting).take()

    def _round(self, requester: Requester) -> "_Round":
        if requester.batch:
            return self._batch
        return self._small if requester.small else self._large


def _give_way() -> None:
    """Lower the priority of this thread. Only on Linux does it belong to the thread and not to the process."""
    if sys.platform == "linux":
        with suppress(OSError):  # some sandboxes forbid it
            os.nice(_NICENESS)


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


@dataclass(slots=True)
class _Client:
    """A client in one class of requests: its waiting jobs by request, and its turns in a round.

    ``turns`` are those that it has had in round number ``round``.
    """

    share: int
    requests: OrderedDict[Requester, deque[_Work]] = field(default_factory=OrderedDict)
    turns: int = 0
    round: int = -1


class _Round:
    """Jobs by client and by request, both in round-robin order.

    A client whose only job is being done does not wait. If it comes back in the same round with turns left, it goes on
    before the others, else at the end. So a share also counts for a client with one request.
    """

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}
        self._order: OrderedDict[str | None, None] = OrderedDict({None: None})  # None is where the next round begins
        self._number = 0

    @property
    def waiting(self) -> bool:
        """Whether a job waits."""
        return len(self._order) > 1

    def add(self, requester: Requester, work: _Work) -> None:
        """Queue a job after the others of the same request."""
        self._jobs(requester).append(work)

    def put_back(self, requester: Requester, work: _Work) -> None:
        """Queue a started job before the others of the same request."""
        self._jobs(requester).appendleft(work)

    def take(self) -> tuple[Requester, _Work]:
        """Return the next job, and move its request within the client to the end of the order.

        The client moves to the end of the order if it has had all its turns of the round.
        """
        name = next(iter(self._order))
        while name is None:
            self._begin_round()
            name = next(iter(self._order))
        client = self._clients[name]
        if client.round != self._number:
            client.round, client.turns = self._number, 0
        client.turns += 1
        requester, jobs = client.requests.popitem(last=False)
        work = jobs.popleft()
        if jobs:
            client.requests[requester] = jobs
        if not client.requests:
            del self._order[name]
        elif client.turns >= client.share:
            self._order.move_to_end(name)
        return requester, work

    def _begin_round(self) -> None:
        """Begin the next round, and forget clients that neither wait nor had a turn in the last one."""
        self._order.move_to_end(None)
        self._clients = {
            name: client for name, client in self._clients.items() if client.requests or client.round == self._number
        }
        self._number += 1

    def _jobs(self, requester: Requester) -> deque[_Work]:
        name = requester.client
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(requester.share)
        if not client.requests:
            client.share = requester.share
            self._order[name] = None
            if client.round == self._number and client.turns < client.share:
                self._order.move_to_end(name, last=False)
        return client.requests.setdefault(requester, deque())
