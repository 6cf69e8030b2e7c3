"""Usage: what each token has used, in this process: open answers, and bytes today."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from weightwell_service.access.tokens import Token

_DAY = 86400


class Exceeded(Exception):
    """A token has reached a limit. ``retry_after``: seconds until the client should try again."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(slots=True)
class Used:
    """What one token has used.

    ``responses`` are open in this process, and ``others`` in other processes. ``nbytes`` are those of ``day``, which
    counts from 1970.
    """

    responses: int = 0
    others: int = 0
    day: int = 0
    nbytes: int = 0


class Usage:
    """What every token has used, by its name. Belongs to one event loop. ``clock``: seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self.clock = clock
        self._used: dict[str, Used] = {}

    @contextmanager
    def _changing(self, name: str) -> Iterator[Used]:
        """Yield what a token has used, to be changed."""
        yield self._used.setdefault(name, Used())

    @contextmanager
    def _today(self, token: Token) -> Iterator[Used]:
        with self._changing(token.name) as used:
            day = int(self.clock() // _DAY)
            if used.day != day:
                used.day, used.nbytes = day, 0
            yield used

    def of(self, token: Token) -> Used:
        """Return what a token has used today."""
        with self._today(token) as used:
            return used

    def begin(self, token: Token) -> None:
        """Count an answer; raise ``Exceeded`` if the token has as many as it may."""
        with self._today(token) as used:
            if token.max_responses is not None and used.responses + used.others >= token.max_responses:
                raise Exceeded(
                    f"the token {token.name} has {used.responses + used.others} answers under way, and may have "
                    f"{token.max_responses} (max_responses); try again when one has ended",
                    retry_after=1,
                )
            used.responses += 1

    def end(self, token: Token) -> None:
        """Count an answer no more."""
        with self._today(token) as used:
            used.responses -= 1

    def take(self, token: Token, nbytes: int) -> None:
        """Count the bytes of an answer before it is sent; raise ``Exceeded`` if the token may not have them today."""
        with self._today(token) as used:
            if token.bytes_per_day is not None and used.nbytes + nbytes > token.bytes_per_day:
                rest = _DAY - int(self.clock()) % _DAY
                raise Exceeded(
                    f"the token {token.name} may have {token.bytes_per_day} bytes a day (bytes_per_day), has had "
                    f"{used.nbytes}, and this answer has {nbytes}; try again after midnight, UTC, in {rest} s",
                    retry_after=rest,
                )
            used.nbytes += nbytes

    def give(self, token: Token, nbytes: int) -> None:
        """Give back bytes that were counted and not sent."""
        with self._today(token) as used:
            used.nbytes = max(used.nbytes - nbytes, 0)
