"""Signal responses: measure a stack in a thread of its own lane, within the limits of a deployment."""

import asyncio
from collections.abc import Generator
from importlib.util import find_spec
from threading import Event
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import Busy, TooLarge, UnsupportedSpec
from weightwell_engine.stack import Stack
from weightwell_service.access.clients import requester
from weightwell_service.access.costs import Costs
from weightwell_service.answers import json_answer
from weightwell_service.file_response import DrawingResources, disconnect
from weightwell_service.scheduler import checked

# Stacks of at most this many estimated operations have priority over larger ones: some 0.2 s on two cores.
_FEW = 2 * 10**9

# Estimated operations of a stack in one CPU second.
_RATE = 5 * 10**9


class SignalResources:
    """What the measurement of signals needs: the engine, the lane and the budgets."""

    def __init__(self, engine: Engine, resources: DrawingResources, max_operations: int):
        self._engine = engine
        self._resources = resources
        self._max_operations = max_operations

    async def respond(self, request: Request, stack: Stack, costs: Costs | None = None) -> Response:
        """Measure a stack and answer it. Stops after the current layer when the client disconnects.

        Raises ``UnsupportedSpec`` without torch, ``InvalidSpec`` for tensors that cannot be drawn, ``TooLarge`` for a
        stack beyond the limits of the server or of ``costs``, and ``Busy`` for one that gets no memory in time.
        """
        self._check(stack)
        if costs is not None:
            cure = "measure fewer or narrower layers, fewer examples or fewer seeds"
            costs.check_seconds(stack.operations / _RATE, "this signal", cure)
        left = Event()
        asking = requester(request.scope, small=stack.operations <= _FEW, costs=costs)
        async with self._resources.budget.matrices(stack.nbytes, 0) as memory:
            memory.begin()  # so that the memory counts until the job ends, even if this request ends before
            future = self._resources.lanes["signal"].submit(checked(_job(stack, self._engine, left), asking), asking)
            future.add_done_callback(lambda _: memory.end())
            measuring = asyncio.wrap_future(future)
            leaving = asyncio.ensure_future(disconnect(request.receive))
            both: set[asyncio.Future[Any]] = {measuring, leaving}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not measuring.done():
                    raise Busy("the client closed the connection before its signal was measured")
                return measuring.result()
            finally:
                left.set()
                measuring.cancel()
                leaving.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    def _check(self, stack: Stack) -> None:
        if find_spec("torch") is None:
            raise UnsupportedSpec(
                "signal",
                got="a stack to measure",
                expected="a server with torch",
                detail="this server cannot measure signals: torch is not installed; ask a server with torch, or use "
                "weightwell.local() on a machine with it",
            )
        if stack.operations > self._max_operations:
            raise TooLarge(
                f"this signal needs about {stack.operations} operations, and this server allows {self._max_operations} "
                "(WEIGHTWELL_MAX_SIGNAL_OPERATIONS); measure fewer or narrower layers, fewer examples or fewer seeds"
            )
        if stack.nbytes > (allowed := self._resources.budget.for_rest):
            raise TooLarge(
                f"this signal needs about {stack.nbytes} bytes of memory, and this server allows {allowed} (seven "
                "eighths of WEIGHTWELL_MAX_RESIDENT_BYTES); measure fewer or narrower layers, or fewer examples"
            )


def _job(stack: Stack, engine: Engine, left: Event) -> Generator[None, None, Response]:
    """Measure a stack layer by layer until the client has left; return the response."""
    from weightwell_engine.signal.measurement import measure  # imports torch, which takes seconds

    measuring = measure(stack, engine)
    try:
        while not left.is_set():
            try:
                next(measuring)
            except StopIteration as end:
                return json_answer(end.value)
            yield
    finally:
        measuring.close()
    raise Busy("the client closed the connection before its signal was measured")
