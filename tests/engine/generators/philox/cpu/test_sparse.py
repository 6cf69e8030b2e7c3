"""The lowest words of every column are found for any words; among equal words, the first rows count."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators.philox.cpu import sparse
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.cpu.sparse import find_bounds
from weightwell_engine.laws import Sparse
from weightwell_engine.regions import Runs

Words = NDArray[np.uint32]

ROWS, COLS = 90, 70
SPARSE = Sparse(ROWS, COLS, 23, 0.01)


def _require_bounds(words: Words, zeros: int) -> None:
    """Require that the words below a column's bound, and the first of those that are equal to it, are the lowest."""
    bounds, below = np.empty(words.shape[1], np.uint32), np.empty(words.shape[1], np.int64)
    find_bounds(words.ravel(), zeros, bounds, below)
    np.testing.assert_array_equal((words < bounds).sum(axis=0), below)
    assert (below <= zeros).all()
    equal = words == bounds
    chosen = (words < bounds) | (equal & (equal.cumsum(axis=0) <= zeros - below))
    lowest = words.argsort(axis=0, kind="stable").argsort(axis=0) < zeros
    np.testing.assert_array_equal(chosen, lowest)


@given(rows=st.integers(1, 40), width=st.integers(1, 40), highest=st.sampled_from([0, 1, 9, 2**32 - 1]), data=st.data())
def test_the_lowest_of_any_words_are_found(rows: int, width: int, highest: int, data: st.DataObject) -> None:
    zeros, seed = data.draw(st.integers(1, rows)), data.draw(st.integers(0, 2**32))
    words = np.random.default_rng(seed).integers(highest, size=(rows, width), endpoint=True, dtype=np.uint32)
    _require_bounds(words, zeros)


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
    _require_bounds(words, zeros)


def _draw(law: Sparse, runs: Runs) -> NDArray[np.uint32]:
    bits = np.empty(runs.size, np.uint32)
    prepare(law, DTYPES["float32"], 0, "weight").fill(runs, bits.data.cast("B"))
    return bits


@pytest.mark.parametrize("start", [0, 3, 4, 61])
def test_columns_that_are_ranked_by_themselves_are_those_of_the_whole(
    start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = _draw(SPARSE, Runs(0, ROWS * COLS, 0, 1)).reshape(ROWS, COLS)
    monkeypatch.setattr(sparse, "_PANEL", 1)
    monkeypatch.setattr(sparse, "_LARGEST", 1)
    shard = _draw(SPARSE, Runs(start, 9, COLS, ROWS))
    np.testing.assert_array_equal(shard.reshape(ROWS, 9), matrix[:, start : start + 9])


@given(data=st.data())
def test_parts_that_need_few_panels_are_those_of_the_whole(data: st.DataObject) -> None:
    matrix = _draw(SPARSE, Runs(0, ROWS * COLS, 0, 1))
    first = data.draw(st.integers(0, ROWS * COLS - 1))
    runs = Runs(first, data.draw(st.integers(1, min(200, ROWS * COLS - first))), 0, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_PANEL", 1)
        patch.setattr(sparse, "_LARGEST", 1)
        np.testing.assert_array_equal(_draw(SPARSE, runs), matrix[first : first + runs.length])


def test_equal_words_are_ranked_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix: Any = prepare(Sparse(10, 3, 4, 1.0), DTYPES["float32"], 0, "weight")
    monkeypatch.setattr(sparse, "fill_words", lambda _key, _run, out: out.fill(5))
    monkeypatch.setattr(sparse, "set_zeros", lambda *_: None)  # no word is below 5
    out = np.empty((10, 3), np.float32)
    matrix.fill(Runs(0, 30, 0, 1), out.data.cast("B"))
    assert (out == 0).all(axis=1).tolist() == [True] * 4 + [False] * 6
    part = np.empty(7, np.float32)
    matrix.fill(Runs(7, 7, 0, 1), part.data.cast("B"))
    assert (part == 0).tolist() == [True] * 5 + [False] * 2


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize(("rows", "cols"), [(10, 10), (4096, 4096), (10**6, 3), (2**32, 1), (1, 10**9)])
def test_the_working_memory_covers_a_panel_for_each_thread(rows: int, cols: int, threads: int) -> None:
    law = Sparse(rows, cols, rows // 2, 1.0)
    panel = 4 * rows * min(sparse._width(law), cols)
    assert sparse.nbytes(law, threads) >= 5 * cols + threads * panel
