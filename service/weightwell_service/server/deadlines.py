"""Deadlines: how long a connection may stay in a phase, and how much it has to move meanwhile.

Nothing here reads a clock or a socket. The server looks at every connection once a second and gives what it finds.
"""

from dataclasses import dataclass
from enum import Enum

# Seconds that a client has to read a refusal and to stop sending. Closing at once would destroy the refusal on its way.
LINGER = 5.0


class Phase(Enum):
    """What a connection waits for, if it waits for its client."""

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
    """What one connection has done in its current phase."""

    phase: Phase | None = None
    serial: int = 0
    since: float = 0.0
    moved: int = 0

    def overdue(self, phase: Phase | None, serial: int, moved: int, now: float, deadlines: Deadlines) -> float | None:
        """Return the bytes per second that a connection is too slow with; ``None`` if it is in time.

        ``serial`` tells phases of the same kind apart, as those of two requests. ``moved`` counts bytes of the whole
        connection. Only bodies and readers are judged by it: once a window, because networks move bytes in bursts.
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
