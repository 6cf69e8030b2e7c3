"""Transfers: one answer on its way into its destination, over as many attempts as that takes. No I/O is done here.

A driver sends ``message``, hands the response to ``begin``, fills ``window`` (or calls ``feed``) until the body ends
and calls ``end``. When anything raises, ``wait_after`` says how long to wait before the next attempt, or raises what
the caller should see. An attempt after a broken one asks for the rest of the file, if it is still the same file.
"""

import logging
from collections.abc import Iterator
from typing import Any, NoReturn

import httpx

from weightwell.destinations import Destination
from weightwell.exceptions import (
    ConnectionFailed,
    ServerProblem,
    TimedOut,
    TransportError,
    TruncatedBody,
    UnexpectedResponse,
    WeightwellError,
)
from weightwell.progress import Progress
from weightwell.request import Request
from weightwell.response import check_rest, check_whole, length_of, refusal, strong_etag
from weightwell.retry import Retry

logger = logging.getLogger("weightwell")

TEMPORARY = {429, 502, 503, 504}  # what a busy server, or a gateway while a server restarts, answers


class Transfer:
    """One answer on its way; ``total`` is the length of the whole body, ``position`` how much of it has its place."""

    def __init__(self, request: Request, destination: Destination, retry: Retry, progress: Progress):
        self.total = 0
        self.position = 0
        self.complete = False
        self._request = request
        self._destination = destination
        self._retry = retry
        self._progress = progress
        self._windows: Iterator[memoryview] = iter(())
        self._window = memoryview(b"")
        self._etag: str | None = None
        self._answered = False  # whether this attempt got as far as a body
        self._failures = 0  # in a row
        self._furthest = 0  # the position that counts as progress when it is passed

    @property
    def message(self) -> dict[str, Any]:
        """The next request to send, in the words of ``httpx.Client.stream``."""
        self._answered = False
        etag = self._resumable
        headers = {"Range": f"bytes={self.position}-", "If-Range": etag} if etag else {}
        return {**self._request.message, "headers": headers}

    @property
    def remaining(self) -> int:
        """Number of bytes still to come."""
        return self.total - self.position

    def begin(self, response: httpx.Response) -> None:
        """Judge the head of a response; raise unless it brings what is missing. The body of an error must be read."""
        if response.is_error:
            raise refusal(response)
        if response.status_code == 206 and (etag := self._resumable):
            check_rest(response, start=self.position, total=self.total, etag=etag)
        else:
            check_whole(response)
            self._start(length_of(response), strong_etag(response))
        self._answered = True

    def window(self) -> memoryview:
        """Return memory for the next bytes; not empty while any remain."""
        while not self._window:
            self._window = next(self._windows)
        return self._window

    def advance(self, count: int) -> None:
        """Take note that the first ``count`` bytes of the window are filled."""
        self._window = self._window[count:]
        self.position += count
        self._progress.advance(count)

    def feed(self, chunk: bytes) -> None:
        """Copy the next bytes of the body into place."""
        if len(chunk) > self.remaining:
            raise UnexpectedResponse(f"the body is longer than the {self.total} bytes that it promised")
        rest = memoryview(chunk)
        while rest:
            window = self.window()
            count = min(len(window), len(rest))
            window[:count] = rest[:count]
            self.advance(count)
            rest = rest[count:]

    def end(self) -> None:
        """Take note that the body has ended; raise ``TruncatedBody`` if that was too early."""
        if self.remaining:
            raise TruncatedBody(self.position, self.total)
        if any(self._windows):  # the last lines of a destination run here; it may have an empty window left
            raise UnexpectedResponse(f"the body ended after {self.total} bytes, and the file in it did not")
        self.complete = True

    def wait_after(self, error: Exception) -> float:
        """Return the seconds to wait before the next attempt, or raise what came of it all."""
        if self.position > self._furthest:
            self._furthest = self.position
            self._failures = 0
        self._failures += 1
        wait = self._retry.wait(self._failures, getattr(error, "retry_after", None)) if self._passing(error) else None
        if wait is None:
            self._give_up(error)
        logger.warning("%s; trying again in %.1f s", self._described(error), wait)
        return wait

    @property
    def _resumable(self) -> str | None:
        """The entity tag of the file whose rest can be asked for, if it can: only GET has ranges (RFC 9110, 14.2)."""
        return self._etag if self.position and self._request.method == "GET" else None

    def _start(self, total: int, etag: str | None) -> None:
        """Start, or start over, with a whole body."""
        self.total, self.position, self._etag = total, 0, etag
        self._window = memoryview(b"")
        self._windows = self._destination.windows(total)
        self._progress.start(total)

    def _passing(self, error: Exception) -> bool:
        """Whether the same request may well succeed a little later; every request here is safe to repeat."""
        if isinstance(error, ServerProblem):
            return error.status in TEMPORARY
        if isinstance(error, httpx.ReadTimeout):
            return self._answered  # a server that is still drawing would only have to begin again
        return isinstance(error, TruncatedBody | httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout)

    def _give_up(self, error: Exception) -> NoReturn:
        """Raise ``error`` as what the caller should see."""
        if isinstance(error, WeightwellError):
            raise error
        raise self._described(error) from error

    def _described(self, error: Exception) -> Exception:
        """Return an error of the transport as one of ours."""
        if not isinstance(error, httpx.HTTPError):
            return error
        origin, reason = _origin(error), str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ConnectionFailed(f"no server answers at {origin} ({reason}); start it there, or correct base_url")
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(f"{origin} was silent for too long; a larger timeout= waits longer")
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) and self._answered:
            return TruncatedBody(self.position, self.total)
        return TransportError(f"no answer came from {origin} ({reason})")


def _origin(error: httpx.HTTPError) -> str:
    """Return the address that an error is about, without the credentials that may stand in it."""
    url = error.request.url
    return f"{url.scheme}://{url.netloc.decode()}"
