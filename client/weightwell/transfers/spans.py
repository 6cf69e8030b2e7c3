"""Spans: ranges of bytes, the gaps between them, and equal shares of the gaps."""

from collections.abc import Iterable, Iterator, Sequence

Span = tuple[int, int]  # the bytes [start, stop)


def missing(there: Iterable[Span], start: int, stop: int) -> Iterator[Span]:
    """Yield the gaps in ``[start, stop)``, in order: the spans that ``there`` does not cover."""
    for begin, end in sorted(there):
        if start < min(begin, stop):
            yield start, min(begin, stop)
        start = max(start, end)
    if start < stop:
        yield start, stop


def divided(spans: Sequence[Span], count: int) -> list[list[Span]]:
    """Divide disjoint spans, which are in order, into ``count`` shares of equal size; some may be empty."""
    size = -(-sum(stop - start for start, stop in spans) // count)
    shares: list[list[Span]] = [[] for _ in range(count)]
    index, room = 0, size
    for start, stop in spans:
        while start < stop:
            end = min(stop, start + room)
            shares[index].append((start, end))
            room -= end - start
            start = end
            if not room:
                index, room = index + 1, size
    return shares
