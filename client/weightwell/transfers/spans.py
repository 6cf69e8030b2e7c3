"""Spans: ranges of bytes, and sets of them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Span = tuple[int, int]  # the bytes [start, stop)


class Spans:
    """A set of bytes as disjoint spans in order, of which no two touch."""

    def __init__(self, spans: Iterable[Span] = ()):
        self._spans: list[Span] = []
        for start, stop in spans:
            self.add(start, stop)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def add(self, start: int, stop: int) -> None:
        """Add the bytes ``[start, stop)``."""
        if start >= stop:
            return
        first = bisect_left(self._spans, start, key=_stop)  # the first that touches what is added, or is right of it
        last = bisect_right(self._spans, stop, key=_start)
        touched = self._spans[first:last]
        if touched:
            start, stop = min(start, touched[0][0]), max(stop, touched[-1][1])
        self._spans[first:last] = [(start, stop)]

    def missing(self, start: int, stop: int) -> Iterator[Span]:
        """Yield the spans of ``[start, stop)`` that are not in the set."""
        for begin, end in self._spans:
            if start < min(begin, stop):
                yield start, min(begin, stop)
            start = max(start, end)
        if start < stop:
            yield start, stop


def _start(span: Span) -> int:
    return span[0]


def _stop(span: Span) -> int:
    return span[1]
