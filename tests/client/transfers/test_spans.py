"""Spans are a set of bytes, however they were added."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from weightwell.transfers.spans import Spans

LENGTH = 40
spans = st.lists(st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(lambda pair: tuple(sorted(pair))))


def members(parts: object) -> set[int]:
    return {n for start, stop in parts for n in range(start, stop)}  # type: ignore[attr-defined]


@given(spans)
def test_what_was_added_is_there_in_as_few_spans_as_possible(added: list[tuple[int, int]]) -> None:
    found = list(Spans(added))
    assert members(found) == members(added)
    assert all(left[1] < right[0] for left, right in pairwise(found))
    assert all(start < stop for start, stop in found)


@given(spans, st.integers(0, LENGTH), st.integers(0, LENGTH))
def test_what_is_missing_is_the_rest(added: list[tuple[int, int]], start: int, stop: int) -> None:
    missing = list(Spans(added).missing(start, stop))
    assert members(missing) == set(range(start, stop)) - members(added)
    assert all(begin < end for begin, end in missing)
