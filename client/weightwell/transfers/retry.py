"""For how long, and after which waits, a request is tried again."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Seconds, while no server has ever answered: the address may be wrong, and whoever waits should know soon.
UNANSWERED = 3.0

# Seconds, once a server has answered: containers and machines that start again take a minute or two.
ANSWERED = 300.0

# The backoff doubles from the first to the longest, in seconds.
FIRST = 0.5
LONGEST = 30.0


@dataclass(slots=True)
class Retry:
    """The patience of a client: the seconds for which it goes on trying while nothing is gained.

    ``wait`` are the seconds; None for a few while no server has ever ``answered``, and some minutes afterwards.
    """

    wait: float | None = None
    answered: bool = False
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.wait is not None and not self.wait >= 0:
            raise ValueError(f"wait must be a number of seconds, 0 or more, or None, got {self.wait!r}")

    def __reduce__(self) -> tuple[type["Retry"], tuple[float | None]]:
        return Retry, (self.wait,)  # a copy has met no server, and must not draw the same random numbers

    @property
    def budget(self) -> float:
        """The seconds for which to go on."""
        if self.wait is not None:
            return self.wait
        return ANSWERED if self.answered else UNANSWERED


@dataclass(frozen=True, slots=True)
class Pause:
    """The ``seconds`` before the next attempt, and the seconds that are ``left`` for this and all further ones."""

    seconds: float
    left: float

    def __str__(self) -> str:
        return f"in {self.seconds:.1f} s, for up to {self.left:.3g} s more; wait= sets this"


class Failures:
    """Failures in a row, with nothing gained between them.

    Backoff is exponential, and shortened by up to a half at random, so that clients that lost one server together do
    not come back together.
    """

    def __init__(self, retry: Retry):
        self._retry = retry
        self._count = 0
        self._since = 0.0

    def forget(self) -> None:
        """Take note that something was gained."""
        self._count = 0

    def pause(self, retry_after: float | None = None) -> Pause | None:
        """Take note of one more failure; return the pause after it, or None to give up.

        The pause is no shorter than the server asks for; a server that asks for more than is left is not waited for.
        The last attempt is made when the time is up.
        """
        now = self._retry.clock()
        self._since = self._since if self._count else now
        self._count += 1
        asked, left = retry_after or 0.0, self._retry.budget - (now - self._since)
        if left < 1e-6 or asked > left:
            return None
        backoff = min(FIRST * 2.0 ** min(self._count - 1, 63), LONGEST)
        return Pause(min(asked + backoff * (1.0 - self._retry.random() / 2.0), left), left)


def seconds_of(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Return the wait that a ``Retry-After`` field asks for, in seconds, or None (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        wanted = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    aware = wanted if wanted.tzinfo else wanted.replace(tzinfo=UTC)
    return max(0.0, (aware - (now or datetime.now(UTC))).total_seconds())
