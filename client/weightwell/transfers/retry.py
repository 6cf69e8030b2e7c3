"""How often, and after which wait, a request is tried again."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with jitter.

    ``limit`` is the number of failures in a row, with nothing gained between them, that are forgiven. The backoff
    doubles from ``first`` to ``longest`` seconds, and is shortened by up to a half at random, so that clients that lost
    one server together do not come back together.
    """

    limit: int = 5
    first: float = 0.5
    longest: float = 30.0
    random: Callable[[], float] = random.random

    def wait(self, failures: int, retry_after: float | None = None) -> float | None:
        """Return the seconds to wait after this many failures in a row, beyond any ``retry_after``; None to give up.

        A server that asks for more than ``longest`` is not waited for: the caller may have better things to do.
        """
        asked = retry_after or 0.0
        if failures > self.limit or asked > self.longest:
            return None
        backoff = min(self.first * 2.0 ** min(failures - 1, 63), self.longest)
        return asked + backoff * (1.0 - self.random() / 2.0)


def seconds_of(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Return the wait that a ``Retry-After`` field asks for, in seconds, or None (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        wanted = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    aware = wanted if wanted.tzinfo else wanted.replace(tzinfo=UTC)
    return max(0.0, (aware - (now or datetime.now(UTC))).total_seconds())
