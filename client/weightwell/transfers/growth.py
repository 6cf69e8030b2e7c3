"""How many connections a transfer is worth: more, for as long as they bring more."""

import time
from collections.abc import Callable

PERIOD = 0.25  # seconds over which a rate is measured
NOTICEABLE = 1.2  # by which factor twice the connections must raise the rate for that to be called a gain
WORTHWHILE = 1.0  # seconds that are still to go, at the rate so far, when connections are added


class Growth:
    """Doubles the connections of a transfer, up to ``limit``, until that no longer raises its rate.

    A file from a server that draws as fast as one connection carries ends with one or two; one over lines that are slow
    each ends with all of them. ``clock`` tells seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic):
        self._limit = limit
        self._clock = clock
        self._before = 0.0  # the rate in bytes a second before the last growth
        self._since = clock()
        self._mark = 0

    @property
    def over(self) -> bool:
        """Whether there will be no more connections than there are."""
        return self._limit <= 1

    def end(self) -> None:
        """Stop growing."""
        self._limit = 1

    def begin(self, received: int) -> None:
        """Start a period; ``received`` bytes have come up to now."""
        self._since, self._mark = self._clock(), received

    def more(self, working: int, received: int, missing: int, latency: float) -> int:
        """Return how many connections to add to the ``working`` ones, all of which bring bytes by now.

        ``missing`` bytes are still to come. A connection brings its first byte after about ``latency`` seconds, which
        are many where a server draws a matrix as a whole, and does so again for each.
        """
        elapsed = self._clock() - self._since
        if self.over or elapsed < PERIOD:
            return 0
        rate = (received - self._mark) / elapsed
        self.begin(received)
        if rate < NOTICEABLE * self._before:
            self.end()
            return 0
        if missing < rate * max(WORTHWHILE, 4 * latency):
            return 0
        self._before = rate
        return min(working, self._limit - working)
