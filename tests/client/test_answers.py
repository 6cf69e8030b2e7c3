"""Values are compared by their meaning, for any spelling that the server accepts."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.answers import OneOf, is_same

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)


@given(numbers)
def test_a_number_is_itself_as_text_and_as_a_float(number: float) -> None:
    assert is_same(number, number)
    assert is_same(str(number), float(number))
    assert is_same(number, float(number))


@given(st.integers(0, 2**64), st.integers(0, 2**64))
def test_whole_numbers_are_compared_exactly(asked: int, got: int) -> None:
    assert is_same(asked, got) == (asked == got)
    assert is_same(asked, str(got)) == (asked == got)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("FAN_OUT", "fan_out"),
        (True, True),
        ("yes", True),
        (0, False),
        ((3, 4), [3, 4]),
        ("3,4", [3, 4]),
        (3, [3]),
        (np.float32(0.1), 0.10000000149011612),
        (Fraction(1, 2), 0.5),
        (None, None),
        (OneOf((1, 2)), 2),
    ],
)
def test_the_same_in_other_words_is_the_same(asked: Any, got: Any) -> None:
    assert is_same(asked, got)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("fan_out", "fan_in"),
        (True, False),
        ("maybe", True),
        ((3, 4), [4, 3]),
        ((3, 4), [3, 4, 1]),
        (3, None),
        (None, 3),
        (None, "none"),
        ("fan_in", 3),
        (2**1100, 1.0),
        (0.1, 0.10000000149011612),
        (3, {"alias": 3}),
        (OneOf((1, 2)), 3),
    ],
)
def test_anything_else_is_not(asked: Any, got: Any) -> None:
    assert not is_same(asked, got)
