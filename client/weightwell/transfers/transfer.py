"""Transfers: one answer on its way into its destination, over as many attempts as that takes. No I/O is done here.

A ``Transfer`` is brought by one ``Receiver``, or by several where the answer is long, each over a connection of its
own. A driver asks a receiver to ``proceed``, sends its ``message``, hands the response to ``begin``, fills ``window``
(or calls ``feed``) while any bytes ``remain``, and calls ``end``. When anything raises, ``wait_after`` says how long to
wait before the next attempt, or raises what the caller should see. An attempt after a broken one asks for the rest of
the file, if it is still the same file. In between, ``vacancies`` says how many more receivers to ``enlist``.
"""

import logging
import time
from collections.abc import Iterator
from threading import Lock
from typing import Any, NoReturn

import httpx

from weightwell.exceptions import (
    ConnectionFailed,
    FileChanged,
    ServerProblem,
    TimedOut,
    TransportError,
    TruncatedBody,
    UnexpectedResponse,
    WeightwellError,
)
from weightwell.request import Request
from weightwell.transfers.destinations import Destination
from weightwell.transfers.growth import Growth
from weightwell.transfers.progress import Progress
from weightwell.transfers.response import check_range, check_whole, length_of, refusal, strong_etag
from weightwell.transfers.retry import Failures, Retry
from weightwell.transfers.shares import Share, Shares
from weightwell.transfers.spans import Span, Spans

logger = logging.getLogger("weightwell")

TEMPORARY = {429, 502, 503, 504}  # what a busy server, or a gateway while a server restarts, answers
WIDE = 64 << 20  # bytes; for less, more than one connection is not worth it


_START = "start a server with `weightwell-service`, or give the address of one: base_url=, --url or WEIGHTWELL_URL"


class Transfer:
    """One answer on its way.

    ``total`` is the length of the whole body, and ``received`` how much of it has its place. ``connections`` is the
    largest number of receivers that there may be at once. All methods may be called from several threads.
    """

    def __init__(
        self, request: Request, destination: Destination, retry: Retry, progress: Progress, connections: int = 1
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
        self._lock = Lock()
        self._shares = Shares()
        self._open = False  # whether the head is there
        self._ranges = request.method == "GET"  # only GET has ranges (RFC 9110, 14.2), and not on every server
        self._growth = Growth(1)
        self._latency = 0.0  # seconds before the first byte
        self._receivers: list[Receiver] = []
        self._most = 0  # what counts as progress when it is passed
        self._changes = Failures(retry)

    @property
    def complete(self) -> bool:
        """Whether every byte has its place."""
        return self._open and self.received == self.total

    @property
    def tag(self) -> str | None:
        """The entity tag that names the file when a part of it is asked for; None where it cannot be."""
        return self.etag if self._ranges else None

    def enlist(self) -> "Receiver | None":
        """Return one more receiver; None if there is nothing for it to do."""
        with self._lock:
            share = self._shares.take() if self._open else None
            if self._receivers and share is None:
                return None
            self._receivers.append(Receiver(self, share))
            return self._receivers[-1]

    def vacancies(self) -> int:
        """Return how many more receivers are worth having now."""
        if self._growth.over:
            return 0
        with self._lock:
            if not all(receiver.answered for receiver in self._receivers):
                self._growth.begin(self.received)
                return 0
            missing = self.total - self.received
            return self._growth.more(len(self._receivers), self.received, missing, self._latency)

    def start(self, total: int, etag: str | None, receiver: "Receiver") -> Iterator[memoryview]:
        """Start, or start over, with the whole body that came to a receiver; return the windows of its head."""
        with self._lock:
            if receiver.asked is not None and etag == self.etag:
                self._refuse_ranges()
            elif len(self._receivers) > 1:
                raise FileChanged("the server's file is no longer the one of which a part has come")
            self.total, self.received, self.etag = total, 0, etag
            self._open = False
            self._latency = time.monotonic() - receiver.sent
            self._progress.start(total)
        return self.destination.head(total, etag, self.tag)

    def open(self, position: int) -> Share:
        """Divide what follows the head, which ends at this position; return the share of what comes next."""
        with self._lock:
            there = Spans(self.destination.there() if self.tag else ())
            missing = list(there.missing(position, self.total))
            self._shares = Shares(missing)
            self._open = True
            self._growth = Growth(self._connections if self._wide(missing) else 1)
            self._skip(sum(stop - start for start, stop in there))
            return self._shares.begin(position)

    def next_share(self, receiver: "Receiver", share: Share) -> Share | None:
        """Return the next share for a receiver that has brought one; None if all the rest is in other hands."""
        with self._lock:
            self._shares.release(share, share.stop)
            following = self._shares.take()
            if following is None:
                self._receivers.remove(receiver)
            return following

    def next_block(self, share: Share) -> Iterator[memoryview]:
        """Return the windows of the next block of a share."""
        return self.destination.windows(*self._shares.next_block(share))

    def count(self, count: int) -> bool:
        """Take note of ``count`` more bytes in their place; return whether there were never as many before."""
        with self._lock:
            return self._count(count)

    def leave(self, receiver: "Receiver", share: Share | None, position: int) -> bool:
        """Let others bring what a receiver cannot; return whether there are any."""
        with self._lock:
            if len(self._receivers) == 1 or share is None:
                return False
            self._receivers.remove(receiver)
            self._shares.release(share, share.block)
            self._count(share.block - position)
            self._growth.end()
            return True

    def start_over(self, error: FileChanged) -> float:
        """Return the seconds to wait before all is asked for anew; raise ``error`` if that has gone on for too long."""
        pause = self._changes.pause()
        if pause is None:
            raise error
        logger.warning("%s; starting over %s", error, pause)
        self._receivers.clear()
        self._open = False
        return pause.seconds

    def _count(self, count: int) -> bool:
        self.received += count
        self._progress.advance(count)
        if self.received <= self._most:
            return False
        self._most = self.received
        self._changes.forget()
        return True

    def _skip(self, count: int) -> None:
        """Take note of bytes that need not come."""
        self.received += count
        self._most = max(self._most, self.received)
        self._progress.skip(count)

    def _wide(self, missing: list[Span]) -> bool:
        """Whether several receivers could bring what is missing, and it is long enough for that."""
        return bool(self.tag) and self.destination.parallel and sum(b - a for a, b in missing) >= WIDE

    def _refuse_ranges(self) -> None:
        """Take note that the server sends the whole file where a part of it is asked for."""
        if len(self._receivers) > 1:
            raise UnexpectedResponse("a range was asked for, and the whole file came")
        self._ranges = False


class Receiver:
    """One connection's part in a transfer, over all its attempts.

    ``position`` is the place in the body of the next byte, ``asked`` the range that the last request asked for and
    ``sent`` when, and ``answered`` whether that attempt got as far as a body.
    """

    def __init__(self, transfer: Transfer, share: Share | None):
        self.position = share.start if share else 0
        self.asked: Span | None = None
        self.sent = 0.0
        self.answered = False
        self._transfer = transfer
        self._share = share  # None while the head is coming
        self._windows: Iterator[memoryview] = iter(())
        self._window = memoryview(b"")
        self._promised = 0  # where the body of this attempt ends
        self._failures = Failures(transfer.retry)

    @property
    def remaining(self) -> int:
        """Number of bytes still to come, as far as is known."""
        return (self._share.stop if self._share else self._transfer.total) - self.position

    @property
    def satisfied(self) -> bool:
        """Whether what is still to come of this attempt's body is no longer wanted: others bring it."""
        return not self.remaining and self.position < self._promised

    def proceed(self) -> bool:
        """Settle what to ask for next; return False if nothing is left for this receiver."""
        if self._share is not None and not self.remaining:
            self._share = self._transfer.next_share(self, self._share)
            if self._share is None:
                return False
            self.position = self._share.start
        return True

    @property
    def message(self) -> dict[str, Any]:
        """The next request to send, in the words of ``httpx.Client.stream``."""
        transfer = self._transfer
        self.answered, self.asked, headers = False, None, {}
        if transfer.tag and (self._share or self.position):
            self.asked = start, stop = self.position, self.position + self.remaining
            last = "" if stop == transfer.total else stop - 1
            headers = {"Range": f"bytes={start}-{last}", "If-Range": transfer.tag}
        self.sent = time.monotonic()
        return {**transfer.request.message, "headers": headers}

    def begin(self, response: httpx.Response) -> None:
        """Judge the head of a response; raise unless it brings what is missing. The body of an error must be read."""
        transfer = self._transfer
        transfer.retry.answered = True
        if response.is_error:
            raise refusal(response)
        if response.status_code == 206 and self.asked and transfer.tag:
            start, self._promised = self.asked
            check_range(response, start=start, stop=self._promised, total=transfer.total, etag=transfer.tag)
        else:
            check_whole(response)
            transfer.unused_rules = response.headers.get("Weightwell-Unused-Rules", "")
            self._promised = length_of(response)
            self._windows = transfer.start(self._promised, strong_etag(response), self)
            self._window = memoryview(b"")
            self._share, self.position = None, 0
        self.answered = True

    def window(self) -> memoryview:
        """Return memory for the next bytes; not empty while any remain."""
        self._refill()
        return self._window

    def advance(self, count: int) -> None:
        """Take note that the first ``count`` bytes of the window are filled."""
        self._window = self._window[count:]
        self.position += count
        if self._transfer.count(count):
            self._failures.forget()
        self._refill()

    def feed(self, chunk: bytes) -> None:
        """Copy the next bytes of the body into place, as far as they are still wanted from this receiver."""
        if self.position + len(chunk) > self._promised:
            raise UnexpectedResponse(f"the body is longer than the {self._promised} bytes that it promised")
        rest = memoryview(chunk)
        while rest and self.remaining:
            window = self.window()
            count = min(len(window), len(rest))
            window[:count] = rest[:count]
            self.advance(count)
            rest = rest[count:]

    def end(self) -> None:
        """Take note that the body has ended; raise ``TruncatedBody`` if that was too early."""
        if self.remaining:
            raise TruncatedBody(self._transfer.received, self._transfer.total)
        self._refill()

    def wait_after(self, error: Exception) -> float | None:
        """Return the seconds to wait before the next attempt; None if this was the last, and others bring the rest.

        Raises what came of it all where there are no others.
        """
        pause = self._failures.pause(getattr(error, "retry_after", None)) if self._passing(error) else None
        if pause is not None:
            logger.warning("%s; trying again %s", self._described(error), pause)
            return pause.seconds
        if isinstance(error, FileChanged) or not self._transfer.leave(self, self._share, self.position):
            self._give_up(error)
        logger.warning("%s; going on with fewer connections", self._described(error))
        return None

    def _refill(self) -> None:
        """Go on to the next window when one is full, running what the destination does with the full one."""
        while not self._window:
            window = next(self._windows, None)
            if window is not None:
                self._window = window
            elif self._share is None:
                self._share = self._transfer.open(self.position)
            elif self.remaining:
                self._windows = self._transfer.next_block(self._share)
            else:
                return

    def _passing(self, error: Exception) -> bool:
        """Whether the same request may well succeed a little later; every request here is safe to repeat."""
        if isinstance(error, ServerProblem):
            return error.status in TEMPORARY
        if isinstance(error, httpx.ReadTimeout):
            return self.answered  # a server that is still drawing would only have to begin again
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
            return ConnectionFailed(f"nobody answers at {origin} ({reason}): {_START}")
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(f"{origin} was silent for too long; a larger timeout= waits longer")
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) and self.answered:
            return TruncatedBody(self._transfer.received, self._transfer.total)
        return TransportError(f"no answer came from {origin} ({reason})")


def _origin(error: httpx.HTTPError) -> str:
    """Return the address that an error is about, without the credentials that may stand in it."""
    url = error.request.url
    return f"{url.scheme}://{url.netloc.decode()}"
