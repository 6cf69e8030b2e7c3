"""Transfers: the steps that bring one answer to its destination. No I/O is done here.

``Transfer.flow`` is a generator like ``auth_flow`` of httpx. It yields the next step for a driver, and receives the
result of that step:

==============  ======================================================  ==========================================
step            the driver                                              result
==============  ======================================================  ==========================================
``Ask``         sends the request                                       the response; its body has not been read
a memoryview    reads the next bytes of the body into it                the number of bytes; 0 at the end
``Pause``       sleeps                                                  None
a list          runs each flow in it over a separate connection         None
==============  ======================================================  ==========================================

A driver throws transport errors into the flow. The flow then yields a ``Pause`` and tries again, or raises the error
for the caller of the client.
"""

import logging
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias

import httpx

from weightwell.exceptions import (
    ConnectionFailed,
    FileChanged,
    ServerProblem,
    TimedOut,
    TransportError,
    TruncatedBody,
    UnexpectedResponse,
)
from weightwell.request import Request
from weightwell.transfers.destinations import Destination, Region
from weightwell.transfers.progress import Progress
from weightwell.transfers.response import check_range, check_whole, length_of, refusal, strong_etag
from weightwell.transfers.retry import Failures, Pause, Retry
from weightwell.transfers.spans import Span, divided, missing

logger = logging.getLogger("weightwell")

TEMPORARY = {429, 502, 503, 504}  # statuses of a busy server, or of a gateway while a server restarts
WIDE = 64 << 20  # bytes; for less, more than one connection is not worth it
MAX_ERROR = 64 << 10  # bytes of the body of an error that are read

# The header field with the cost of a range of this file: "proportional" to its length, or that of the "whole" file.
RANGE_COST = "Weightwell-Range-Cost"

_START = "start a server with `weightwell-service`, or give the address of one: base_url=, --url or WEIGHTWELL_URL"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to send: the keyword arguments of ``httpx.Client.build_request``."""

    options: dict[str, Any]


Step: TypeAlias = "Ask | memoryview | Pause | list[Flow]"
Flow: TypeAlias = Generator[Step, Any, None]


class Work:
    """The work of one connection: ``spans`` of the body. The first one begins at the next byte.

    ``started`` is False until the head of the file has come. ``answered`` says whether the last request got a response.
    """

    def __init__(self, spans: list[Span] | None = None):
        self.started = spans is not None
        self.spans = spans or []
        self.answered = False
        self.buffers: Iterator[memoryview] | None = None
        self.buffer = memoryview(b"")


class Transfer:
    """The transfer of one answer.

    ``total`` is the length of the body in bytes, and ``received`` the number of bytes at the destination.
    ``connections`` is the number of connections for a long file whose ranges are cheap. ``deadline`` is a time of the
    clock of ``retry``, in seconds. Several threads may run flows of one transfer.
    """

    def __init__(
        self,
        request: Request,
        destination: Destination,
        retry: Retry,
        progress: Progress,
        *,
        connections: int = 1,
        deadline: float = float("inf"),
    ):
        self.request = request
        self.destination = destination
        self.retry = retry
        self.total = 0
        self.received = 0
        self.etag: str | None = None
        self.unused_rules = ""  # as the server lists them
        self._progress = progress
        self._connections = connections
        self._deadline = deadline
        self._lock = Lock()
        self._started = False  # whether the head has come
        self._ranges = request.method == "GET"  # only GET has ranges (RFC 9110, 14.2), and not on every server
        self._most = 0  # bytes; more than this is progress
        self._failures = Failures(retry)

    @property
    def complete(self) -> bool:
        """Whether every byte is at the destination."""
        return self._started and self.received == self.total

    @property
    def tag(self) -> str | None:
        """The entity tag for range requests, or None if ranges are not possible."""
        return self.etag if self._ranges else None

    def flow(self) -> Flow:
        """Return the flow of the first connection."""
        return self._flow(Work())

    def start_over(self, error: FileChanged) -> float:
        """Return the seconds to wait before a new ``flow``; raise ``error`` if this has gone on for too long."""
        pause = self._failures.pause()
        if pause is None:
            raise error
        logger.warning("%s; starting over %s", error, pause)
        self._started = False
        return pause.seconds

    def _flow(self, work: Work) -> Flow:
        """Receive the spans of a connection, with as many attempts as needed."""
        while not work.started or work.spans:
            try:
                yield from self._attempt(work)
            except Exception as error:
                pause = self._pause(work, error)
            else:
                continue
            yield pause

    def _attempt(self, work: Work) -> Flow:
        """Send one request and receive its answer."""
        asked = work.spans[0] if work.started and self.tag else None
        work.answered = False
        response = yield Ask({**self.request.message, "headers": self._headers(asked)})
        self.retry.answered = True
        if response.is_error:
            raise refusal(response, (yield from _excerpt()))
        if asked:
            self._check_range(response, asked)
            work.answered = True
            yield from self._receive(work)
            yield from self._end(asked[1] - asked[0])
        else:
            check_whole(response)
            yield from self._receive_whole(work, response)

    def _headers(self, asked: Span | None) -> dict[str, str]:
        """Return the header fields of a request for a span, or for the whole file."""
        if asked is None:
            return {}
        last = "" if asked[1] == self.total else asked[1] - 1
        return {"Range": f"bytes={asked[0]}-{last}", "If-Range": self.tag or ""}

    def _check_range(self, response: httpx.Response, asked: Span) -> None:
        """Raise ``UnexpectedResponse`` or ``FileChanged`` if the response is not a span of the same file."""
        if response.status_code == 206:
            check_range(response, start=asked[0], stop=asked[1], total=self.total, etag=self.tag or "")
            return
        check_whole(response)
        if strong_etag(response) == self.etag:
            self._ranges = False
            raise FileChanged("the server sent the whole file where a range was requested")
        raise FileChanged("the file on the server has changed since the transfer began")

    def _receive_whole(self, work: Work, response: httpx.Response) -> Flow:
        """Receive a file from its first byte: the head, and then the first share of the rest."""
        total = length_of(response)
        with self._lock:
            self.total, self.received, self.etag = total, 0, strong_etag(response)
            self.unused_rules = response.headers.get("Weightwell-Unused-Rules", "")
            self._progress.start(total)
        work.answered, work.started, work.spans, work.buffers = True, False, [], None
        position = 0
        for buffer in self.destination.head(total, self.etag, self.tag):
            position += len(buffer)
            filled = 0
            while filled < len(buffer):
                filled += yield from self._read(buffer[filled:])
        first, *others = self._shares(position, response)
        work.started, work.spans = True, first
        if others:
            yield [self._flow(Work(spans)) for spans in others]
        if first and first[0][0] == position:
            position = first[0][1]
            yield from self._receive(work)
        if position == total:
            yield from self._end(total)

    def _shares(self, position: int, response: httpx.Response) -> list[list[Span]]:
        """Divide the missing bytes after ``position``, the end of the head, between the connections."""
        there = self.destination.there() if self.tag else ()
        spans = list(missing(there, position, self.total))
        size = sum(stop - start for start, stop in spans)
        cheap = response.headers.get(RANGE_COST) == "proportional"
        several = self.tag and cheap and self.destination.parallel and size >= WIDE
        with self._lock:
            self._started = True
            self.received = self.total - size
            self._most = max(self._most, self.received)
            self._progress.skip(self.received - position)
        return divided(spans, self._connections if several else 1)

    def _receive(self, work: Work) -> Flow:
        """Receive the first span of a connection, from the next byte on."""
        start, stop = work.spans[0]
        if work.buffers is None:
            work.buffers, work.buffer = self.destination.buffers(start, stop), memoryview(b"")
        while True:
            if not work.buffer:
                work.buffer = next(work.buffers, memoryview(b""))  # the destination handles the full one
            if not work.buffer:
                break
            count = yield from self._read(work.buffer)
            work.buffer = work.buffer[count:]
            start += count
            work.spans[0] = start, stop
        work.buffers = None
        del work.spans[0]

    def _read(self, buffer: memoryview) -> Generator[Step, Any, int]:
        """Read some bytes into a buffer and return how many; raise ``TruncatedBody`` at the end of the body."""
        count: int = yield buffer
        if not count:
            raise TruncatedBody(self.received, self.total)
        with self._lock:
            self.received += count
            self._progress.advance(count)
            if self.received > self._most:
                self._most = self.received
                self._failures.forget()
        return count

    def _end(self, promised: int) -> Flow:
        """Read the end of a body, so that its connection can be used again."""
        with suppress(httpx.HTTPError):  # every byte is there
            if (yield memoryview(bytearray(1))):
                raise UnexpectedResponse(f"the body is longer than its Content-Length of {promised} bytes")

    def _pause(self, work: Work, error: Exception) -> Pause:
        """Return the pause before the next attempt, or raise the error for the caller if there is no next attempt."""
        shown = self._described(error, work)
        with self._lock:
            pause = self._failures.pause(getattr(error, "retry_after", None)) if _is_temporary(error, work) else None
        if pause is None:
            raise shown from (error if shown is not error else error.__cause__)
        if self.retry.clock() + pause.seconds > self._deadline:
            raise TimedOut("the call would take longer than its deadline= allows") from error
        logger.warning("%s; trying again %s", shown, pause)
        return pause

    def _described(self, error: Exception, work: Work) -> Exception:
        """Convert an error of httpx, or a malformed answer, to a ``WeightwellError``."""
        if isinstance(error, RecursionError | UnicodeError):
            return UnexpectedResponse(f"the answer cannot be read ({error}); is this a Weightwell server?")
        if not isinstance(error, httpx.HTTPError):
            return error
        origin, reason = _origin(error), str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ConnectionFailed(f"no server answers at {origin} ({reason}): {_START}")
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(f"{origin} sent nothing for too long; a larger timeout= waits longer")
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) and work.answered:
            return TruncatedBody(self.received, self.total)
        return TransportError(f"no answer came from {origin} ({reason})")


class RangeTransfer(Transfer):
    """The transfer of a region, which has at least one byte. Raises ``FileChanged`` if the file has another tag."""

    def __init__(self, request: Request, region: Region, retry: Retry, progress: Progress, *, deadline: float):
        super().__init__(request, region, retry, progress, deadline=deadline)
        self.total, self.etag = region.total, region.etag
        self.received = self._most = region.total - (region.stop - region.start)
        self._started = True
        self._spans = [(region.start, region.stop)]

    def flow(self) -> Flow:
        """Return the flow of the only connection."""
        return self._flow(Work(self._spans))

    def start_over(self, error: FileChanged) -> float:
        """Raise the error: bytes of two files must not be mixed."""
        raise error


def _excerpt() -> Generator[Step, Any, bytes]:
    """Return the first bytes of the body of an error."""
    body, block = bytearray(), memoryview(bytearray(4096))
    with suppress(httpx.HTTPError):  # the status is known; an incomplete text is acceptable
        while len(body) < MAX_ERROR and (count := (yield block)):
            body += block[:count]
    return bytes(body)


def _is_temporary(error: Exception, work: Work) -> bool:
    """Whether the same request may succeed later; every request is safe to repeat."""
    if isinstance(error, ServerProblem):
        return error.status in TEMPORARY
    if isinstance(error, httpx.ReadTimeout):
        return work.answered  # a server that is still generating would only have to begin again
    return isinstance(error, TruncatedBody | httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout)


def _origin(error: httpx.HTTPError) -> str:
    """Return the address in an error, without credentials."""
    url = error.request.url
    return f"{url.scheme}://{url.netloc.decode()}"
