"""Deadlines: the longest time of a connection in each phase, and the least rate of transfer.

Nothing here reads a clock or a socket. The server checks every connection once a second and passes the values.
"""

from dataclasses import dataclass
from enum import Enum

# Seconds for a client to read an error and to stop sending. Closing at once could discard the error before it arrives.
LINGER = 5.0


class Phase(Enum):
    """The phases in which a connection waits for its client."""

    HEAD = "the head of a request"
    BODY = "the body of a request"
    READER = "the client to read an answer"
    LINGER = "the client to close"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The limits: ``head`` and ``window`` in seconds, ``rate`` in bytes per second."""

    head: float
    window: float
    rate: float

    def seconds(self, phase: Phase) -> float:
        """Return how long a phase may last; for bodies and readers, the window in which their rate is measured."""
        return {Phase.HEAD: self.head, Phase.LINGER: LINGER}.get(phase, self.window)


@dataclass(slots=True)
class Watch:
    """The progress of one connection in its current phase."""

    phase: Phase | None = None
    serial: int = 0
    since: float = 0.0
    moved: int = 0

    def overdue(self, phase: Phase | None, serial: int, moved: int, now: float, deadlines: Deadlines) -> float | None:
        """Return the rate of a connection that is too slow, in bytes per second; ``None`` if it is fast enough.

        ``serial`` distinguishes phases of the same kind, for example those of two requests. ``moved`` counts bytes of
        the whole connection. It matters only for bodies and answers, and is checked once in each window, because
        networks move bytes in bursts.
        """
        if phase is None or (phase, serial) != (self.phase, self.serial):
            self.phase, self.serial, self.since, self.moved = phase, serial, now, moved
            return None
        elapsed = now - self.since
        if elapsed < deadlines.seconds(phase):
            return None
        rate = (moved - self.moved) / elapsed
        if phase in (Phase.BODY, Phase.READER) and rate >= deadlines.rate:
            self.since, self.moved = now, moved
            return None
        return rate
