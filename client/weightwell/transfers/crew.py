"""Crews: the threads, or the tasks, that bring one transfer, each over a connection of its own."""

import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import anyio
import httpx
from anyio.abc import TaskGroup

from weightwell.exceptions import WeightwellError
from weightwell.transfers import wire
from weightwell.transfers.transfer import Receiver, Transfer
from weightwell.transfers.wire import Place

Sleep = Callable[[float, threading.Event], object]  # takes seconds, and what ends the sleep before


class Crew:
    """The calling thread, and as many more as are worth it. The first fatal error stops all of them."""

    def __init__(self, http: httpx.Client, transfer: Transfer, sleep: Sleep):
        self._http = http
        self._transfer = transfer
        self._sleep = sleep
        self._threads: list[threading.Thread] = []
        self._responses: set[httpx.Response] = set()
        self._idle = threading.Condition()  # notified when a response is done with
        self._stopped = threading.Event()
        self._error: BaseException | None = None

    def bring(self) -> None:
        """Return when all of the answer has come, or raise. Nobody touches the destination any more then."""
        try:
            if receiver := self._transfer.enlist():
                self._work(receiver)
            for thread in self._threads:  # which may become more meanwhile
                thread.join()
        finally:
            self._stop()
        if self._error:
            raise self._error

    def _work(self, receiver: Receiver) -> None:
        """Bring one share after another, with as many attempts as it takes."""
        while not self._stopped.is_set() and receiver.proceed():
            try:
                self._attempt(receiver)
            except (httpx.HTTPError, WeightwellError) as error:
                if self._stopped.is_set() or (wait := receiver.wait_after(error)) is None:
                    return
                self._sleep(wait, self._stopped)

    def _attempt(self, receiver: Receiver) -> None:
        """Send the next request of a receiver and receive what it brings."""
        with self._http.stream(**receiver.message) as response, self._watched(response):
            if response.is_error:
                response.read()
            receiver.begin(response)
            wire.receive(response, receiver, self._hire)
            receiver.end()

    def _hire(self) -> None:
        """Start as many threads as are worth it now."""
        for _ in range(self._transfer.vacancies()):
            if receiver := self._transfer.enlist():
                # One that waits for an answer when all is over must not keep the program from ending.
                self._threads.append(threading.Thread(target=self._help, args=(receiver,), daemon=True))
                self._threads[-1].start()

    def _help(self, receiver: Receiver) -> None:
        """Work in a thread; leave to the calling thread what goes wrong."""
        try:
            self._work(receiver)
        except BaseException as error:  # raised in the calling thread
            self._error = self._error or error
            self._shut()

    @contextmanager
    def _watched(self, response: httpx.Response) -> Iterator[None]:
        """Make a response one whose connection is shut when the work is stopped."""
        with self._idle:
            if self._stopped.is_set():
                raise WeightwellError("stopped")
            self._responses.add(response)
        try:
            yield
        finally:
            with self._idle:
                self._responses.remove(response)
                self._idle.notify_all()

    def _stop(self) -> None:
        """Stop everybody, and wait until nobody receives any more."""
        self._shut()
        with self._idle:
            self._idle.wait_for(lambda: not self._responses)

    def _shut(self) -> None:
        """Shut every connection, which ends the waiting of those who receive from it."""
        with self._idle:
            self._stopped.set()
            for response in self._responses:
                _shut(response)


class AsyncCrew:
    """The calling task, and as many more as are worth it; ``place`` calls what may wait for a disk."""

    def __init__(
        self, http: httpx.AsyncClient, transfer: Transfer, place: Place, sleep: Callable[[float], Awaitable[None]]
    ):
        self._http = http
        self._transfer = transfer
        self._place = place
        self._sleep = sleep
        self._tasks: TaskGroup
        self._error: Exception | None = None

    async def bring(self) -> None:
        """Return when all of the answer has come, or raise. Nobody touches the destination any more then."""
        async with anyio.create_task_group() as self._tasks:
            if receiver := self._transfer.enlist():
                await self._help(receiver)
        if self._error:
            raise self._error

    async def _help(self, receiver: Receiver) -> None:
        """Work, and end the work of all where something goes wrong."""
        try:
            await self._work(receiver)
        except Exception as error:  # raised in the calling task, and not in a group
            self._error = self._error or error
            self._tasks.cancel_scope.cancel()

    async def _work(self, receiver: Receiver) -> None:
        """Bring one share after another, with as many attempts as it takes."""
        while receiver.proceed():
            try:
                await self._attempt(receiver)
            except (httpx.HTTPError, WeightwellError) as error:
                if (wait := receiver.wait_after(error)) is None:
                    return
                await self._sleep(wait)

    async def _attempt(self, receiver: Receiver) -> None:
        """Send the next request of a receiver and receive what it brings."""
        async with self._http.stream(**receiver.message) as response:
            if response.is_error:
                await response.aread()
            receiver.begin(response)
            await wire.areceive(response, receiver, self._place, self._hire)
            await self._place(receiver.end)

    def _hire(self) -> None:
        """Start as many tasks as are worth it now."""
        for _ in range(self._transfer.vacancies()):
            if receiver := self._transfer.enlist():
                self._tasks.start_soon(self._help, receiver)


def _shut(response: httpx.Response) -> None:
    """Shut the connection of a response from another thread than the one that reads it."""
    stream = response.extensions.get("network_stream")
    sock = stream.get_extra_info("socket") if stream is not None else None
    if isinstance(sock, socket.socket):
        with suppress(OSError):  # it may have ended by itself
            # Not the method of an SSLSocket, which takes its TLS away from under the reader.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
