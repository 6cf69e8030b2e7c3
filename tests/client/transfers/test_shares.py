"""Shares divide what is missing between any number of takers: every byte is one's, and nobody's twice."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.transfers import shares
from weightwell.transfers.shares import BLOCK, LEAST, Share, Shares


def test_the_first_share_is_all_that_follows_the_head() -> None:
    share = Shares([(10, 100)]).begin(10)
    assert (share.start, share.stop) == (10, 100)


def test_the_first_share_is_empty_where_the_data_begins_with_what_is_there() -> None:
    divided = Shares([(50, 100)])
    share = divided.begin(10)
    assert share.start == share.stop == 10
    following = divided.take()
    assert following is not None
    assert (following.start, following.stop) == (50, 100)


def test_a_taker_gets_the_second_half_of_the_largest_share() -> None:
    divided = Shares([(0, 100 * BLOCK)])
    first = divided.begin(0)
    second, third = divided.take(), divided.take()
    assert second is not None
    assert third is not None
    assert (first.stop, second.start, second.stop) == (25 * BLOCK, 50 * BLOCK, 100 * BLOCK)
    assert (third.start, third.stop) == (25 * BLOCK, 50 * BLOCK)


def test_what_is_little_is_not_divided() -> None:
    divided = Shares([(0, LEAST - 1)])
    divided.begin(0)
    assert divided.take() is None


def test_what_is_begun_is_not_taken_away() -> None:
    divided = Shares([(0, BLOCK + LEAST)])
    share = divided.begin(0)
    divided.next_block(share)
    taken = divided.take()
    assert taken is not None
    assert taken.start == BLOCK + LEAST // 2


def test_what_is_given_back_is_taken_first() -> None:
    divided = Shares([(0, 100 * BLOCK)])
    divided.begin(0)
    share = divided.take()
    assert share is not None
    divided.next_block(share)
    divided.release(share, share.block)
    again = divided.take()
    assert again is not None
    assert (again.start, again.stop) == (50 * BLOCK, 100 * BLOCK)


@given(st.randoms(use_true_random=True))
def test_every_byte_is_brought_once_in_whatever_order(random: Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "BLOCK", 3)
        patch.setattr(shares, "LEAST", 5)
        divided = Shares([(0, 40), (50, 77)])
        brought: list[int] = []
        working: list[Share] = [divided.begin(0)]
        while working:
            share = random.choice(working)
            start, stop = divided.next_block(share)
            brought.extend(range(start, stop))
            if stop == share.stop or random.random() < 0.1:
                divided.release(share, stop)
                working.remove(share)
            while len(working) < random.randrange(1, 5) and (another := divided.take()):
                working.append(another)
        assert sorted(brought) == [*range(40), *range(50, 77)]
