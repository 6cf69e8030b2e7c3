"""Retries: the time limit and the backoff."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Seconds before the first answer of a server: the address may be wrong, so the error must come soon.
UNANSWERED = 3.0

# Seconds once a server has answered: a container or a machine restarts in a minute or two.
ANSWERED = 300.0

# The backoff doubles from the first to the longest, in seconds.
FIRST = 0.5
LONGEST = 30.0


@dataclass(slots=True)
class Retry:
    """The time limit for retries, in seconds without a new byte.

    ``wait`` is that number; None for 3 until a server has ``answered``, and 300 afterwards.
    """

    wait: float | None = None
    answered: bool = False
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.wait is not None and not self.wait >= 0:
            raise ValueError(f"wait must be a number of seconds, 0 or more, or None, got {self.wait!r}")

    def __reduce__(self) -> tuple[type["Retry"], tuple[float | None]]:
        return Retry, (self.wait,)  # a copy has no answers, and its own random numbers

    @property
    def budget(self) -> float:
        """The time limit in seconds."""
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
    """Failures in a row, with no new byte in between.

    The backoff is exponential, and shortened by up to a half at random, so that the clients of a server that restarts
    do not return all at once.
    """

    def __init__(self, retry: Retry):
        self._retry = retry
        self._count = 0
        self._since = 0.0

    def forget(self) -> None:
        """Note that new bytes have arrived."""
        self._count = 0

    def pause(self, retry_after: float | None = None) -> Pause | None:
        """Note one more failure; return the pause after it, or None to give up.

        The pause is at least ``retry_after`` seconds. If that is more than the time that is left, the result is None.
        The last attempt is made at the end of the time.
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
