"""Usage: what each client has used, in this process: open answers, and bytes today."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from weightwell_service.access.clients import Client

_DAY = 86400

# The most clients that are counted. Beyond it, those are forgotten that have no open answer, the longest absent first.
MOST_CLIENTS = 2**15


class Exceeded(Exception):
    """A client has reached a limit. ``retry_after``: seconds until it should try again."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(slots=True)
class Used:
    """What one client has used.

    ``responses`` are open in this process, and ``others`` in other processes. ``nbytes`` are those of ``day``, which
    counts from 1970.
    """

    responses: int = 0
    others: int = 0
    day: int = 0
    nbytes: int = 0


class Usage:
    """What every client has used, by its key. Belongs to one event loop. ``clock``: seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self.clock = clock
        self._used: OrderedDict[str, Used] = OrderedDict()

    @contextmanager
    def _changing(self, key: str) -> Iterator[Used]:
        """Yield what a client has used, to be changed."""
        if key in self._used:
            self._used.move_to_end(key)
        else:
            self._forget()
        yield self._used.setdefault(key, Used())

    def _forget(self) -> None:
        """Make place for a new client."""
        if len(self._used) >= MOST_CLIENTS:
            idle = next((key for key, used in self._used.items() if not used.responses), None)
            if idle is not None:
                del self._used[idle]

    @contextmanager
    def _today(self, client: Client) -> Iterator[Used]:
        with self._changing(client.key) as used:
            day = int(self.clock() // _DAY)
            if used.day != day:
                used.day, used.nbytes = day, 0
            yield used

    def of(self, client: Client) -> Used:
        """Return what a client has used today."""
        with self._today(client) as used:
            return used

    def begin(self, client: Client) -> None:
        """Count an answer; raise ``Exceeded`` if the client has as many as it may."""
        with self._today(client) as used:
            if client.max_responses is not None and used.responses + used.others >= client.max_responses:
                raise Exceeded(
                    f"{client} has {used.responses + used.others} answers under way, and may have "
                    f"{client.max_responses} ({client.setting('max_responses')}); try again when one has ended",
                    retry_after=1,
                )
            used.responses += 1

    def end(self, client: Client) -> None:
        """Count an answer no more."""
        with self._today(client) as used:
            used.responses -= 1

    def check(self, client: Client, nbytes: int) -> None:
        """Raise ``Exceeded`` if a client may not have an answer of ``nbytes`` today."""
        if client.bytes_per_day is not None:
            with self._today(client) as used:
                self._check(client, used, nbytes)

    def take(self, client: Client, nbytes: int) -> int:
        """Count the bytes of an answer before it is sent, and return the day; raise as ``check``."""
        with self._today(client) as used:
            self._check(client, used, nbytes)
            used.nbytes += nbytes
            return used.day

    def give(self, client: Client, nbytes: int, day: int) -> None:
        """Give back bytes that were counted on a day and not sent. Those of an earlier day do not count any more."""
        with self._today(client) as used:
            if used.day == day:
                used.nbytes = max(used.nbytes - nbytes, 0)

    def _check(self, client: Client, used: Used, nbytes: int) -> None:
        if client.bytes_per_day is not None and used.nbytes + nbytes > client.bytes_per_day:
            rest = _DAY - int(self.clock()) % _DAY
            raise Exceeded(
                f"{client} may have {client.bytes_per_day} bytes a day ({client.setting('bytes_per_day')}), has "
                f"had {used.nbytes}, and this answer has {nbytes}; try again after midnight, UTC, in {rest} s",
                retry_after=rest,
            )
