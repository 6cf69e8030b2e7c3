"""The memory budget of one process: chunks, plans, request bodies and matrices, shared by all requests.

A separate part is reserved for chunks, so that matrices and downloads never wait for each other.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from math import ceil, inf
from threading import RLock
from weakref import finalize

from weightwell_engine.exceptions import Busy, TooLarge

# The part of the budget for chunks.
_CHUNKS = 8

# The longest Retry-After, in seconds: estimates of more are guesses.
_LONGEST = 300


class MemoryBudget:
    """At most ``limit`` bytes are held at a time: an eighth of them for chunks, the rest for everything else.

    Requests wait for memory in the order of their arrival, for at most ``patience`` seconds. They wait in one event
    loop. Any thread may release memory. Request bodies have at most ``for_bodies`` bytes.
    """

    def __init__(
        self,
        limit: int,
        *,
        for_bodies: float = inf,
        patience: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.limit = limit
        self.for_bodies = for_bodies
        self.for_chunks = limit // _CHUNKS
        self.for_rest = limit - self.for_chunks
        self.chunks = 0
        self.rest = 0
        self.bodies = 0
        self._lock = RLock()  # reentrant, as a finalizer may run at any time
        self._matrices: set[Matrices] = set()
        # An active drawing has priority over new ones: it will end and release the memory that they wait for.
        self._lines = [_Line(patience, clock) for _ in range(3)]
        self._for_responses, self._for_chunks_of_matrices, self._for_matrices = self._lines

    @property
    def waiting(self) -> int:
        """The number of requests that wait for memory."""
        return sum(line.length for line in self._lines)

    @property
    def waited(self) -> float:
        """The seconds for which a request has waited for memory, of those that wait; 0 if none does."""
        return max(line.waited for line in self._lines)

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self.chunks + self.rest

    def check(self, nbytes: int) -> None:
        """Raise ``TooLarge`` for matrices that need more bytes than the whole part for them."""
        if nbytes > self.for_rest:
            raise TooLarge(
                "this file has tensors that must be generated whole, even for a slice. That needs "
                f"{nbytes} bytes of memory, and this server allows {self.for_rest} (seven eighths of "
                "WEIGHTWELL_MAX_RESIDENT_BYTES); request smaller tensors, or fewer at once"
            )

    @asynccontextmanager
    async def response(self, nbytes: int) -> AsyncIterator["Account"]:
        """Wait until ``nbytes`` are free for the chunks of one more response; raise ``Busy`` after ``patience``."""
        account = Account(self, nbytes)
        await self._for_responses.claim(account.open, account.close)
        try:
            yield account
        finally:
            account.close()

    @asynccontextmanager
    async def matrices(self, kept: int, working: int) -> AsyncIterator["Matrices"]:
        """Wait until there is memory to compute and keep a matrix; raise ``Busy`` after ``patience``."""
        matrices = Matrices(self, kept, working)
        await self._for_matrices.claim(matrices.open, matrices.close)
        try:
            yield matrices
        finally:
            matrices.close()

    def hold(self, owner: object, nbytes: int) -> None:
        """Count bytes for the lifetime of an object; raise ``Busy`` if there are not enough."""
        self.take(nbytes)
        finalize(owner, self.give, nbytes).atexit = False

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes of a request body until the end of the context; it raises ``Busy``."""
        held = 0

        def more(nbytes: int) -> None:
            nonlocal held
            if self.bodies + nbytes > self.for_bodies:
                raise Busy("the memory for request bodies is in use by other requests; try again")
            self.take(nbytes)
            self.bodies += nbytes
            held += nbytes

        try:
            yield more
        finally:
            self.bodies -= held
            self.give(held)

    def take(self, nbytes: int) -> None:
        """Count bytes outside the part for chunks; raise ``Busy`` if there are not enough."""
        with self._lock:
            if self.rest and self.rest + nbytes > self.for_rest:
                raise _busy(self._for_matrices.retry_after())
            self.rest += nbytes

    def give(self, nbytes: int) -> None:
        """Release bytes outside the part for chunks."""
        self._change(rest=-nbytes)

    def _change(self, *, chunks: int = 0, rest: int = 0) -> None:
        with self._lock:
            self.chunks += chunks
            self.rest += rest
        if chunks < 0 or rest < 0:
            for line in self._lines:
                line.look()


class Account:
    """The account of one response's chunks. From ``open`` to ``close`` it counts at least ``least`` bytes."""

    def __init__(self, budget: MemoryBudget, least: int):
        self._budget = budget
        self._least = least
        self._open = False
        self._held = 0

    def open(self) -> bool:
        """Try to reserve ``least`` bytes; return whether they were free."""
        with self._budget._lock:
            if self._budget.chunks and self._budget.chunks + self._least > self._budget.for_chunks:
                return False
            self._open = True
            self._budget.chunks += self._least
            return True

    def take(self, nbytes: int, *, necessary: bool = False) -> bool:
        """Try to reserve a chunk; return whether there was memory. A ``necessary`` chunk always succeeds."""
        with self._budget._lock:
            more = self._counted(self._held + nbytes) - self._counted(self._held)
            if more and not necessary and self._budget.chunks + more > self._budget.for_chunks:
                return False
            self._held += nbytes
            self._budget._change(chunks=more)
            return True

    def give(self, nbytes: int) -> None:
        """Release the bytes of a chunk. Any thread may call this, even after ``close``."""
        with self._budget._lock:
            before, self._held = self._counted(self._held), self._held - nbytes
            self._budget._change(chunks=self._counted(self._held) - before)

    def close(self) -> None:
        """Close the account. Chunks that are still in use count until they are released."""
        with self._budget._lock:
            before, self._open = self._counted(self._held), False
            self._budget._change(chunks=self._counted(self._held) - before)

    def _counted(self, held: int) -> int:
        return max(held, self._least) if self._open else held


class Matrices:
    """The account of one file's matrices: ``kept`` bytes, and ``working`` more while a chunk is drawn."""

    def __init__(self, budget: MemoryBudget, kept: int, working: int):
        self.kept = kept
        self.working = working
        self._budget = budget
        self._open = False
        self._first = False  # whether the memory for the first chunk is counted, and not in use
        self._at_work = False

    def open(self) -> bool:
        """Try to reserve both; return whether there was memory, including the memory that active files need."""
        budget = self._budget
        with budget._lock:
            admitted = [self, *budget._matrices]
            to_go_on = sum(each.kept for each in admitted) + max(each.working for each in admitted)
            if budget.rest and max(budget.rest + self.kept + self.working, to_go_on) > budget.for_rest:
                return False
            budget._matrices.add(self)
            self._open = self._first = True
            budget.rest += self.kept + self.working
            return True

    def begin(self) -> bool:
        """Try to reserve the ``working`` bytes for a chunk; return whether there was memory."""
        with self._budget._lock:
            if not self._first and self._budget.rest + self.working > self._budget.for_rest:
                return False
            self._budget.rest += self.working * (not self._first)
            self._first, self._at_work = False, True
            return True

    async def begin_in_turn(self) -> None:
        """Wait for the ``working`` bytes for a chunk; raise ``Busy`` after ``patience``."""
        await self._budget._for_chunks_of_matrices.claim(self.begin, self.end)

    def end(self) -> None:
        """Release the ``working`` bytes. Any thread may call this."""
        with self._budget._lock:
            self._at_work = False
            self._budget._change(rest=-self.working - self.kept * (not self._open))

    def close(self) -> None:
        """Release the ``kept`` bytes: now, or at the end of the active chunk."""
        with self._budget._lock:
            if not self._open:
                return
            given = self.working * self._first + self.kept * (not self._at_work)
            self._open = self._first = False
            self._budget._matrices.discard(self)
            self._budget._change(rest=-given)


class _Line:
    """A first-in, first-out queue of requests for memory."""

    def __init__(self, patience: float, clock: Callable[[], float]):
        self._patience = patience
        self._clock = clock
        self._waiting: deque[tuple[Callable[[], bool], asyncio.Future[None], float]] = deque()
        self._served = 0.0
        self._pace = 0.0

    @property
    def length(self) -> int:
        """The number of requests in the queue."""
        return len(self._waiting)

    @property
    def waited(self) -> float:
        """The seconds for which the first request in the queue has waited; 0 if there is none."""
        try:
            return self._clock() - self._waiting[0][2]
        except IndexError:
            return 0.0

    async def claim(self, take: Callable[[], bool], give: Callable[[], None]) -> None:
        """Wait in the queue until ``take`` returns True. ``give`` undoes this if the caller is cancelled."""
        if not self._waiting and take():
            return
        if not self._waiting:
            self._served = self._clock()
        claim = take, asyncio.get_running_loop().create_future(), self._clock()
        self._waiting.append(claim)
        try:
            await asyncio.wait({claim[1]}, timeout=self._patience)
        except asyncio.CancelledError:
            if claim[1].done():
                give()
            else:
                self._leave(claim)
            raise
        if not claim[1].done():
            retry_after = self.retry_after()
            self._leave(claim)
            raise _busy(retry_after)

    def look(self) -> None:
        """Wake the queue. Any thread may call this after it has released memory."""
        with suppress(IndexError, RuntimeError):  # the queue is empty, or the event loop has ended
            self._waiting[0][1].get_loop().call_soon_threadsafe(self._serve)

    def retry_after(self) -> int:
        """Estimate the seconds until a new request would get memory, from the speed of the last ones."""
        pace = max(self._pace, self._clock() - self._served) if self._waiting else 0
        return min(max(ceil(pace * len(self._waiting)), 1), _LONGEST)

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0]():
            now = self._clock()
            self._served, self._pace = now, (self._pace + now - self._served) / 2
            self._waiting.popleft()[1].set_result(None)

    def _leave(self, claim: tuple[Callable[[], bool], asyncio.Future[None], float]) -> None:
        self._waiting.remove(claim)
        self._serve()


def _busy(retry_after: int) -> Busy:
    return Busy("the memory of this server is in use by other requests; try again", retry_after=retry_after)
