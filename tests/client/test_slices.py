"""A slice selects the same elements as in numpy, in every spelling."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from weightwell.slices import bounds_of, text_of


@st.composite
def _sliced(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape, and slices of its first dimensions."""
    shape = draw(st.lists(st.integers(0, 6), max_size=4).map(tuple))
    ends = st.none() | st.integers(-8, 8)
    count = draw(st.integers(0, len(shape)))
    index: list[Any] = [slice(draw(ends), draw(ends)) for _ in range(count)]
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, count)), ...)
    return shape, tuple(index)


@given(_sliced())
def test_a_slice_equals_that_of_numpy(sliced: tuple[tuple[int, ...], tuple[Any, ...]]) -> None:
    shape, index = sliced
    whole = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    bounds = bounds_of(index, shape)
    assert all(0 <= start <= stop <= length for (start, stop), length in zip(bounds, shape, strict=True))
    assert np.array_equal(whole[tuple(slice(*ends) for ends in bounds)], whole[index])


@given(npst.array_shapes(min_dims=1, max_dims=4, max_side=9), st.data())
def test_the_text_of_a_slice_is_a_spelling_of_it(shape: tuple[int, ...], data: st.DataObject) -> None:
    bounds = tuple(tuple(sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in shape)
    assert bounds_of(text_of(bounds), shape) == bounds


@pytest.mark.parametrize(
    ("index", "bounds"),
    [
        ("0:2,:", ((0, 2), (0, 5))),
        (" 1: , :-1", ((1, 4), (0, 4))),
        ("...,3:", ((0, 4), (3, 5))),
        ("", ((0, 4), (0, 5))),
        (slice(1, 3), ((1, 3), (0, 5))),
        (..., ((0, 4), (0, 5))),
    ],
)
def test_every_spelling_is_read(index: Any, bounds: object) -> None:
    assert bounds_of(index, (4, 5)) == bounds


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        ("1", "like 0:128"),
        ("0:x", "like 0:128"),
        ("0:4:2", "like 0:128"),
        (":,:,:", "at most"),
        ((slice(None), slice(None), slice(None)), "at most"),
        ((..., ...), "at most one"),
        ((1, slice(None)), "i:i[+]1"),
        (slice(None, None, 2), "step 1"),
    ],
)
def test_what_is_no_slice_of_the_tensor_is_refused_with_the_cure(index: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        bounds_of(index, (4, 5))
