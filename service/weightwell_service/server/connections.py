"""Connections: their limit, and a check of each once a second."""

import errno
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from weightwell_service.server.deadlines import Deadlines, Phase
from weightwell_service.server.write_limit import WriteLimit
from weightwell_service.settings import Settings

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

# File descriptors for other uses: libraries, logs, the event loop, and connections that are being closed.
_OTHER_FILES = 128

# Seconds between two equal log lines about missing file descriptors.
_REPEAT = 60.0


class Connection(Protocol):
    """The interface of a connection."""

    def check(self, now: float) -> Phase | None:
        """Close the connection if its client is too slow; return the phase of a closed connection, else None."""

    def abort(self) -> None:
        """Close the connection now."""

    def turn_away(self, limit: int) -> None:
        """Refuse the connection, because there are too many."""


class Connections:
    """The common limits of all connections of one server. It is used only on the server's event loop.

    ``quiet`` has the connections without a request, the longest idle one first; ``open`` returns all connections.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]):
        self.deadlines = Deadlines(settings.head_timeout, settings.stall_timeout, settings.min_rate)
        self.max_request_bytes = settings.max_request_bytes
        self.limit = min(settings.max_connections, max(descriptors() - _OTHER_FILES, 1))
        if self.limit < settings.max_connections:
            log.warning(
                "at most %d connections instead of %d: the limit of open files (ulimit -n) is %d",
                self.limit,
                settings.max_connections,
                descriptors(),
            )
        self.quiet: dict[Connection, None] = {}
        self.writes = WriteLimit()
        self.open: Callable[[], Iterable[Connection]] = tuple
        self._clock = clock
        self._closed_quiet = 0
        self._turned_away = 0
        self._said = -_REPEAT

    def admit(self, connection: Connection, count: int) -> None:
        """Add a new connection; there are now ``count``. If there are too many, close the longest idle one."""
        if count > self.limit:
            oldest = next(iter(self.quiet), None)
            if oldest is None:
                self._turned_away += 1
                connection.turn_away(self.limit)
                return
            del self.quiet[oldest]
            self._closed_quiet += 1
            oldest.abort()
        self.quiet[connection] = None

    async def sweep(self) -> None:
        """Check every connection, and log the closed ones. The server calls this once a second."""
        now = self._clock()
        closed = Counter(connection.check(now) for connection in list(self.open()))
        if closed[Phase.HEAD]:
            log.warning(
                "closed %d connections: no complete head of a request for %g s (WEIGHTWELL_HEAD_TIMEOUT)",
                closed[Phase.HEAD],
                self.deadlines.head,
            )
        if self._closed_quiet or self._turned_away:
            log.warning(
                "%d connections are the limit (WEIGHTWELL_MAX_CONNECTIONS): closed %d without a request, refused %d",
                self.limit,
                self._closed_quiet,
                self._turned_away,
            )
            self._closed_quiet = self._turned_away = 0
        self._look_for_descriptors(now)

    def _look_for_descriptors(self, now: float) -> None:
        """Log that there are no free file descriptors. The event loop then closes new connections silently."""
        try:
            os.close(os.dup(2))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and now - self._said >= _REPEAT:
                self._said = now
                log.error("no file descriptor is free, new connections are closed: %s; see ulimit -n", error.strerror)  # noqa: TRY400 - the traceback says nothing


def descriptors() -> int:
    """Return the limit of open file descriptors of this process."""
    if sys.platform == "win32":
        return 2**31
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft


def allow_descriptors(connections: int) -> None:
    """Raise the soft limit of open files for a number of connections, up to the hard limit."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
