"""Drivers: they run the flows of a transfer in threads or in tasks. Each flow has its own connection."""

import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager, suppress
from typing import Any

import anyio
import httpx
from anyio.abc import TaskGroup

from weightwell.exceptions import FileChanged, TimedOut
from weightwell.transfers.retry import Pause
from weightwell.transfers.transfer import Ask, Flow, Step, Transfer
from weightwell.transfers.wire import AsyncBody, Body, read_timeout, send

ERRORS = (httpx.HTTPError, UnicodeError)  # errors of a request, which the flow translates

Sleep = Callable[[float, threading.Event], object]  # takes seconds, and the event that ends the sleep
Place = Callable[..., Awaitable[Any]]  # calls a function, which may wait for a disk, without blocking the event loop


def bring(http: httpx.Client, transfer: Transfer, sleep: Sleep, until: float) -> None:
    """Receive all of an answer, or raise. Nothing is written to the destination after this returns."""
    while not transfer.complete:
        try:
            Driver(http, transfer, sleep, until).run()
        except FileChanged as error:
            sleep(transfer.start_over(error), threading.Event())


async def abring(
    http: httpx.AsyncClient, transfer: Transfer, place: Place, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Receive all of an answer, or raise. Nothing is written to the destination after this returns."""
    while not transfer.complete:
        try:
            await AsyncDriver(http, transfer, place, sleep).run()
        except FileChanged as error:
            await sleep(transfer.start_over(error))


class Driver:
    """Runs the first flow in the calling thread, and others in threads. The first error stops all of them."""

    def __init__(self, http: httpx.Client, transfer: Transfer, sleep: Sleep, until: float):
        self._http = http
        self._transfer = transfer
        self._sleep = sleep
        self._until = until
        self._threads: list[threading.Thread] = []
        self._responses: set[httpx.Response] = set()
        self._idle = threading.Condition()  # notified when a response is closed
        self._stopped = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Return when all of the answer has come, or raise."""
        try:
            self._drive(self._transfer.flow())
            for thread in self._threads:
                thread.join()
        finally:
            self._stop()
        if self._error:
            raise self._error

    def _drive(self, flow: Flow) -> None:
        """Take the steps of a flow. The response of a request is closed before the next one, and at the end."""
        result: Any = None
        with closing(flow), ExitStack() as opened:
            step = advance(flow.send, None)
            while step is not None and not self._stopped.is_set():
                try:
                    if isinstance(step, Ask):
                        opened.close()
                        result = opened.enter_context(self._response(step))
                        body = Body(result, self._until)
                    elif isinstance(step, Pause):
                        opened.close()
                        self._sleep(step.seconds, self._stopped)
                    elif isinstance(step, list):
                        self._start(step)
                    else:
                        result = body.read_into(step)
                except ERRORS as error:
                    if self._stopped.is_set():
                        return
                    if time.monotonic() >= self._until:
                        raise TimedOut("the call took longer than its deadline= allows") from error
                    step = advance(flow.throw, error)
                else:
                    step = advance(flow.send, result)

    def _start(self, flows: list[Flow]) -> None:
        """Run flows in daemon threads, so that a thread that waits for a response does not block the program's exit."""
        for flow in flows:
            self._threads.append(threading.Thread(target=self._run_in_thread, args=(flow,), daemon=True))
            self._threads[-1].start()

    def _run_in_thread(self, flow: Flow) -> None:
        try:
            self._drive(flow)
        except BaseException as error:  # raised in the calling thread
            self._error = self._error or error
            self._shut()

    @contextmanager
    def _response(self, ask: Ask) -> Iterator[httpx.Response]:
        """Send a request and yield its response. ``stop`` shuts its connection."""
        response = send(self._http, self._http.build_request(**ask.options), self._until)
        with closing(response):
            with self._idle:
                if self._stopped.is_set():
                    raise httpx.TransportError("stopped")
                self._responses.add(response)
            try:
                yield response
            finally:
                with self._idle:
                    self._responses.remove(response)
                    self._idle.notify_all()

    def _stop(self) -> None:
        """Stop all threads and wait until they have ended."""
        self._shut()
        with self._idle:
            self._idle.wait_for(lambda: not self._responses)

    def _shut(self) -> None:
        """Shut every connection, which ends the reads of all threads."""
        with self._idle:
            self._stopped.set()
            for response in self._responses:
                _shut(response)


class AsyncDriver:
    """Runs the first flow in the calling task, and others in tasks. The first error cancels all of them.

    ``place`` calls functions that may wait for a disk.
    """

    def __init__(
        self, http: httpx.AsyncClient, transfer: Transfer, place: Place, sleep: Callable[[float], Awaitable[None]]
    ):
        self._http = http
        self._transfer = transfer
        self._place = place
        self._sleep = sleep
        self._tasks: TaskGroup
        self._error: Exception | None = None

    async def run(self) -> None:
        """Return when all of the answer has come, or raise."""
        async with anyio.create_task_group() as self._tasks:
            await self._run_in_task(self._transfer.flow())
        if self._error:
            raise self._error

    async def _run_in_task(self, flow: Flow) -> None:
        try:
            await self._drive(flow)
        except Exception as error:  # raised in the calling task, and not in a group
            self._error = self._error or error
            self._tasks.cancel_scope.cancel()

    async def _drive(self, flow: Flow) -> None:
        """Take the steps of a flow. The response of a request is closed before the next one, and at the end."""
        result: Any = None
        with closing(flow):
            async with AsyncExitStack() as opened:
                step = await self._place(advance, flow.send, None)
                while step is not None:
                    try:
                        if isinstance(step, Ask):
                            await opened.aclose()
                            result = await opened.enter_async_context(self._response(step))
                            body = AsyncBody(result)
                        elif isinstance(step, Pause):
                            await opened.aclose()
                            await self._sleep(step.seconds)
                        elif isinstance(step, list):
                            for each in step:
                                self._tasks.start_soon(self._run_in_task, each)
                        else:
                            result = await body.read_into(step)
                    except ERRORS as error:
                        step = await self._place(advance, flow.throw, error)
                    else:
                        step = await self._place(advance, flow.send, result)

    @asynccontextmanager
    async def _response(self, ask: Ask) -> AsyncIterator[httpx.Response]:
        """Send a request, and hold its response.

        The head must come within the read timeout, however many informational (1xx) responses come before it.
        """
        request = self._http.build_request(**ask.options)
        try:
            with anyio.fail_after(read_timeout(request)):
                response = await self._http.send(request, stream=True)
        except TimeoutError as error:
            raise httpx.ReadTimeout("no response", request=request) from error
        try:
            yield response
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()


def advance(move: Callable[[Any], Step], value: Any) -> "Step | None":
    """Send a value to a flow, or throw an error into it; return its next step, None at its end."""
    try:
        return move(value)
    except StopIteration:
        return None


def _shut(response: httpx.Response) -> None:
    """Shut the connection of a response from another thread than the one that reads it."""
    stream = response.extensions.get("network_stream")
    sock = stream.get_extra_info("socket") if stream is not None else None
    if isinstance(sock, socket.socket):
        with suppress(OSError):  # it may have ended already
            # SSLSocket.shutdown would remove the TLS state while another thread reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
