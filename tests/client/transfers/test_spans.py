"""Spans: the gaps between received spans, and their division into equal shares."""

from hypothesis import given
from hypothesis import strategies as st

from weightwell.transfers.spans import Span, divided, missing

LENGTH = 40
spans = st.lists(st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(lambda pair: tuple(sorted(pair))))


def members(parts: object) -> set[int]:
    return {n for start, stop in parts for n in range(start, stop)}  # type: ignore[attr-defined]


@given(spans, st.integers(0, LENGTH), st.integers(0, LENGTH))
def test_what_is_missing_is_the_rest(there: list[Span], start: int, stop: int) -> None:
    found = list(missing(there, start, stop))
    assert members(found) == set(range(start, stop)) - members(there)
    assert all(begin < end for begin, end in found)


@given(spans, st.integers(1, 6))
def test_shares_are_equal_and_in_order(there: list[Span], count: int) -> None:
    rest = list(missing(there, 0, LENGTH))
    shares = divided(rest, count)
    sizes = [len(members(share)) for share in shares]
    size = -(-sum(sizes) // count)
    assert sorted(span for share in shares for span in share) == [span for share in shares for span in share]
    assert members(span for share in shares for span in share) == members(rest)
    assert len(shares) == count
    assert all(each == size for each in sizes[: sum(sizes) // size if size else 0])
