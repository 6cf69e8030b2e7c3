"""The lowest of every column are found, whatever the words."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cpu.sparse_columns import RANKED, _limit, rank_columns

Words = NDArray[np.uint32]


def _ranked(words: Words, zeros: int) -> tuple[NDArray[np.bool], NDArray[np.bool]]:
    """Return which of a panel's words are the lowest, by the limits of their columns, and as bits."""
    rows, width = words.shape
    stride = -(-width // RANKED)
    last_words, last_rows = np.empty(width, np.uint32), np.empty(width, np.uint32)
    bits = np.zeros(rows * stride, np.uint16)
    rank_columns(np.append(words, np.zeros(RANKED, np.uint32)), width, zeros, last_words, last_rows, bits, stride)
    keys = _keys(words)
    unpacked = np.unpackbits(bits.reshape(rows, stride).view(np.uint8), axis=1, bitorder="little")
    return keys <= (last_words.astype(np.uint64) << np.uint64(32) | last_rows), unpacked[:, :width] == 1


def _keys(words: Words) -> NDArray[np.uint64]:
    return words.astype(np.uint64) << np.uint64(32) | np.arange(len(words), dtype=np.uint64)[:, None]


@given(rows=st.integers(1, 40), width=st.integers(1, 40), highest=st.sampled_from([0, 1, 9, 2**32 - 1]), data=st.data())
def test_the_lowest_of_any_words_are_found(rows: int, width: int, highest: int, data: st.DataObject) -> None:
    zeros, seed = data.draw(st.integers(1, rows)), data.draw(st.integers(0, 2**32))
    words = np.random.default_rng(seed).integers(highest, size=(rows, width), endpoint=True, dtype=np.uint32)
    expected = _keys(words).argsort(axis=0).argsort(axis=0) < zeros
    for found in _ranked(words, zeros):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("zeros", [1, 2, 1500, 2999, 3000])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(lambda words: words, id="uniform"),
        pytest.param(lambda words: words // 1000, id="all of them low"),
        pytest.param(lambda words: ~(words // 1000), id="all of them high"),
        pytest.param(lambda words: np.where(words < 2**31, words // 2**20, ~(words // 2**20)), id="in two heaps"),
        pytest.param(lambda words: words & np.uint32(0xF0000000), id="of a few values"),
        pytest.param(lambda words: words * 0 + np.uint32(2**32 - 1), id="all the highest"),
    ],
)
def test_words_that_are_not_uniform_are_ranked_all_the_same(shape: Any, zeros: int) -> None:
    words: Words = shape(np.random.default_rng(0).integers(2**32, size=(3000, 20), dtype=np.uint32))
    expected = _keys(words).argsort(axis=0).argsort(axis=0) < zeros
    for found in _ranked(words, zeros):
        np.testing.assert_array_equal(found, expected)


@given(keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50, unique=True), data=st.data())
def test_as_many_keys_as_are_wanted_are_up_to_the_limit(keys: list[int], data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, len(keys)))
    limit = _limit(np.array(keys, np.uint64), 0, len(keys), wanted)
    assert sum(key <= limit for key in keys) == wanted
