"""Pools: the connections of a client. They belong to one process and, in asynchronous code, to one event loop.

A forked process has copies of its parent's sockets and locks. If it used such a socket, its requests and the parent's
would mix on one connection. A lock that a thread of the parent held at the fork stays locked for ever. So a child never
uses inherited connections, not even in a destructor, and opens new ones. A copied or pickled pool keeps its settings
only.

Every active call has its own httpx client. In a shared client, every start and end of a request would search the
connections for every waiting request, and would wake more requests than there are connections: a thousand concurrent
requests would take half a minute (encode/httpcore#1035).
"""

import os
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from threading import Lock
from types import AsyncGeneratorType, TracebackType
from typing import Any, Generic, TypeVar, cast
from weakref import WeakSet

import anyio
import httpx
from anyio.lowlevel import current_token

from weightwell.connection import Settings

# Concurrent calls of one client; further calls wait in a first-in, first-out queue.
CALLS = 32

_CURE = (
    "create the client in the process that uses it, for example in worker_init_fn of a DataLoader; or pass a function "
    "that makes the transport: transport=lambda: httpx.HTTPTransport(...)"
)

H = TypeVar("H", httpx.Client, httpx.AsyncClient)
C = TypeVar("C", bound="Connections[Any]")

_pools: "WeakSet[_Pool[Any]]" = WeakSet()
_inherited: list[object] = []  # connections of other processes; a reference here keeps their destructors from running
_forks = 0  # number of forks between the first process and this one


def _process() -> tuple[int, int]:
    """Return an identifier of this process that differs from its ancestors', even if the system reuses a PID."""
    return os.getpid(), _forks


def _after_fork() -> None:
    """Abandon the parent's connections, in a child process right after the fork."""
    global _forks
    _forks += 1
    for pool in list(_pools):
        pool.settle()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Turns:
    """A semaphore with a first-in, first-out queue of threads.

    ``threading.Semaphore`` has no order: a thread that releases and acquires it again overtakes the waiting threads.
    """

    def __init__(self, count: int):
        self._lock = Lock()
        self._free = count
        self._waiting: deque[Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()
        except BaseException:  # Ctrl-C
            self._leave(turn)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._pass_on()

    def _leave(self, turn: Lock) -> None:
        """Leave the queue. If this thread already has the turn, the next thread gets it."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._free += 1


class Connections(Generic[H]):
    """The connections of one owner: as many httpx clients as there were concurrent calls at the peak."""

    def __init__(self, make: Callable[[], H]):
        self.clients: list[H] = []
        self._make: Callable[[], H] = make
        self._idle: list[H] = []

    def take(self) -> H:
        """Return the httpx client that was used last: its connection is most likely still open."""
        try:
            return self._idle.pop()
        except IndexError:
            self.clients.append(http := self._make())
            return http

    def give_back(self, http: H) -> None:
        """Take back an httpx client after a call."""
        self._idle.append(http)


class ProcessConnections(Connections[httpx.Client]):
    """The connections of a process, shared by its threads."""

    def __init__(self, make: Callable[[], httpx.Client]):
        super().__init__(make)
        self.turns = Turns(CALLS)


class LoopConnections(Connections[httpx.AsyncClient]):
    """The connections of an event loop.

    When an event loop ends, it closes its unfinished asynchronous generators. One of them, ``life``, then closes the
    connections.
    """

    def __init__(self, make: Callable[[], httpx.AsyncClient]):
        super().__init__(make)
        self.turns = anyio.CapacityLimiter(CALLS)
        self.life = _closing(self.clients)
        with suppress(
            StopIteration
        ):  # run to the first yield, without a wait; this registers the generator with the loop
            self.life.__anext__().send(None)

    @property
    def closed(self) -> bool:
        """Whether the event loop has ended, or the client was closed."""
        return cast("AsyncGeneratorType[None, None]", self.life).ag_frame is None


async def _closing(clients: list[httpx.AsyncClient]) -> AsyncGenerator[None, None]:
    """Close clients when this generator is closed, except in a forked child."""
    process = _process()
    try:
        yield
    finally:
        for http in clients if process == _process() else ():
            await http.aclose()


class _Pool(ABC, Generic[C]):
    """The connections of a client in this process, by owner."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._closed = False
        self._origin = self._process = _process()
        self._start()
        _pools.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.settings.travels:
            raise TypeError(f"a client with a transport object cannot be copied or pickled: {_CURE}")
        return type(self), (self.settings,)

    def settle(self) -> None:
        """Abandon connections that belong to another process."""
        if self._process != (here := _process()):
            _inherited.append(self._owned)
            self._process = here
            self._start()

    def _start(self) -> None:
        self._lock = Lock()
        self._tls: ssl.SSLContext | None = None
        self._owned: dict[object, C] = {}

    def _of(self, owner: object) -> C:
        """Return the connections of an owner in this process; raise RuntimeError if the client cannot open any."""
        self.settle()
        self._check()
        found = self._owned.get(owner)
        if found is None:
            with self._lock:
                found = self._owned.get(owner)
                if found is None:
                    found = self._owned[owner] = self._open()
        return found

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("this client is closed: create a new one")
        if self._process != self._origin and not self.settings.travels:
            raise RuntimeError(f"the transport object of this client belongs to the parent of this process: {_CURE}")

    def _maker(self, kind: type[H]) -> Callable[[], H]:
        """Return a factory of httpx clients. They share one TLS context, because loading it is slow."""
        self._tls = self._tls or self.settings.tls()
        return partial(_made, kind, self.settings, self._tls)

    @abstractmethod
    def _open(self) -> C:
        """Return connections for a new owner."""


class Pool(_Pool[ProcessConnections]):
    """The connections of a synchronous client. Their owner is the process."""

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        """Lend an httpx client for a call; wait in the queue if all are in use."""
        here = self._of(None)
        with here.turns:
            http = here.take()
            try:
                yield http
            finally:
                here.give_back(http)

    def close(self) -> None:
        """Close the connections of this process."""
        self.settle()
        self._closed = True
        for here in self._owned.values():
            for http in here.clients:
                http.close()

    def _open(self) -> ProcessConnections:
        return ProcessConnections(self._maker(httpx.Client))


class AsyncPool(_Pool[LoopConnections]):
    """The connections of an asynchronous client. Their owner is the event loop."""

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        """Lend an httpx client for a call; wait in the queue if all are in use."""
        here = self._of(_loop())
        async with here.turns:
            http = here.take()
            try:
                yield http
            finally:
                here.give_back(http)

    async def aclose(self) -> None:
        """Close the connections of the running event loop; those of others close when it ends."""
        self.settle()
        self._closed = True
        if here := self._owned.pop(_loop(), None):
            await here.life.aclose()

    def _open(self) -> LoopConnections:
        self._owned = {loop: each for loop, each in self._owned.items() if not _is_over(loop, each)}
        return LoopConnections(self._maker(httpx.AsyncClient))


def _made(kind: type[H], settings: Settings, tls: ssl.SSLContext) -> H:
    return kind(**settings.options(), verify=tls)


def _is_over(loop: Any, connections: LoopConnections) -> bool:
    """Whether an event loop has ended."""
    return connections.closed or (hasattr(loop, "is_closed") and loop.is_closed())


def _loop() -> object:
    """Return the running event loop, or trio's equivalent."""
    token = current_token()
    return getattr(token, "native_token", token)
