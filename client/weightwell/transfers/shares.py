"""Shares: the missing bytes of a body, divided between the connections that bring them.

A connection asks for its share in one request and brings it block by block. One that has nothing left takes the second
half of what somebody else has not begun, so that all end together, however slow one of them is.
"""

from collections.abc import Iterable
from threading import Lock

from weightwell.transfers.spans import Span

BLOCK = 1 << 20  # bytes; what a connection has begun, nobody takes from it
LEAST = 4 << 20  # bytes; for the half of less, another request would cost more than it gains


class Share:
    """The bytes ``[start, stop)``: those before ``block`` have come, and those before ``begun`` are coming."""

    __slots__ = ("begun", "block", "start", "stop")

    def __init__(self, start: int, stop: int):
        self.start = self.block = self.begun = start
        self.stop = stop


class Shares:
    """Divides spans; may be used by several threads. The end of a share is only ever moved to beyond what is begun."""

    def __init__(self, spans: Iterable[Span] = ()):
        self._lock = Lock()
        self._free = list(spans)
        self._held: list[Share] = []

    def begin(self, position: int) -> Share:
        """Return the first share, which begins where the head ends; empty if that byte is not missing."""
        with self._lock:
            here = bool(self._free) and self._free[0][0] == position
            return self._hold(self._free.pop(0) if here else (position, position))

    def take(self) -> Share | None:
        """Return a share for one more connection; None where all is spoken for."""
        with self._lock:
            span = self._free.pop(0) if self._free else self._half()
            return None if span is None else self._hold(span)

    def next_block(self, share: Share) -> Span:
        """Return the next block of a share, now that the last one has come; empty at the end of the share."""
        with self._lock:
            share.block, share.begun = share.begun, min(share.begun + BLOCK, share.stop)
            return share.block, share.begun

    def release(self, share: Share, rest: int) -> None:
        """Let go of a share; what it has from ``rest`` on is for others to bring."""
        with self._lock:
            self._held.remove(share)
            if rest < share.stop:
                self._free.append((rest, share.stop))

    def _hold(self, span: Span) -> Share:
        share = Share(*span)
        self._held.append(share)
        return share

    def _half(self) -> Span | None:
        """Cut off the second half of what is left of the largest share."""
        victim = max(self._held, key=_left, default=None)
        if victim is None or _left(victim) < LEAST:
            return None
        middle, stop = victim.begun + _left(victim) // 2, victim.stop
        victim.stop = middle
        return middle, stop


def _left(share: Share) -> int:
    """Return the number of bytes that are not begun."""
    return share.stop - share.begun
