from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.regions import Cover, Region, Runs


@st.composite
def regions(draw: st.DrawFn) -> Region:
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=5)))
    bounds = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    return Region(shape, tuple(start for start, _ in bounds), tuple(stop for _, stop in bounds))


def flat(runs: Runs) -> np.ndarray:
    return (runs.first + runs.stride * np.arange(runs.count)[:, None] + np.arange(runs.length)).ravel()


def covered(part: Runs | Cover) -> np.ndarray:
    """Return the flat indices that are wanted of runs, or of a cover."""
    if isinstance(part, Runs):
        return flat(part)
    picked = np.zeros(1, int)
    for size, stride in part.picks:
        picked = (picked[:, None] + stride * np.arange(size)).ravel()
    return flat(part.runs).reshape(part.runs.count, -1)[:, picked].ravel()[part.begin : part.end]


def sliced(region: Region) -> np.ndarray:
    """Return the flat indices of a region, by numpy."""
    indices = np.arange(np.prod(region.shape, dtype=int)).reshape(region.shape)
    return indices[tuple(map(slice, region.starts, region.stops))].ravel()


@given(regions(), st.data())
def test_runs_are_the_flat_indices_of_a_numpy_slice_in_order(region: Region, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, region.size)] * 2)))
    runs = [flat(each) for each in region.runs(start, stop)]
    np.testing.assert_array_equal(np.concatenate([*runs, np.empty(0, int)]), sliced(region)[start:stop])


@given(regions(), st.data())
def test_covers_hold_what_runs_are_in_the_same_order(region: Region, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, region.size)] * 2)))
    parts = list(region.covers(start, stop))
    np.testing.assert_array_equal(np.concatenate([*map(covered, parts), np.empty(0, int)]), sliced(region)[start:stop])
    assert sum(part.size for part in parts) == stop - start


def test_a_crop_of_many_small_kernels_is_few_covers_of_little_memory() -> None:
    covers = list(Region((512, 512, 3, 3), (0, 0, 0, 0), (512, 512, 2, 2)).covers(0, 2**20))
    assert all(isinstance(cover, Cover) and cover.runs.size <= 2**16 for cover in covers)
    assert len(covers) < 100


def test_a_crop_of_large_planes_is_not_covered() -> None:
    region = Region((8, 1000, 1000), (0, 0, 0), (8, 500, 500))
    assert list(region.covers(0, region.size)) == list(region.runs(0, region.size))


@given(regions())
def test_runs_are_never_empty(region: Region) -> None:
    assert all(runs.size > 0 for runs in region.runs(0, region.size))


@given(regions(), st.data())
def test_a_region_cut_anywhere_has_the_runs_of_the_whole(region: Region, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, region.size), max_size=4)))
    parts = [flat(runs) for cut in pairwise([0, *cuts, region.size]) for runs in region.runs(*cut)]
    np.testing.assert_array_equal(np.concatenate([*parts, np.empty(0, int)]), sliced(region))


@given(regions())
def test_a_region_knows_its_extent_and_size(region: Region) -> None:
    assert region.size == sliced(region).size
    assert np.prod(region.extent, dtype=int) == region.size


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4, 5)])
def test_the_whole_tensor_is_one_run(shape: tuple[int, ...]) -> None:
    region = Region.whole(shape)
    assert region.is_whole
    assert list(region.runs(0, region.size)) == [Runs(0, region.size, region.size, 1)]


@pytest.mark.parametrize(
    ("shape", "starts", "stops", "runs"),
    [
        ((8, 6), (2, 0), (5, 6), Runs(12, 18, 18, 1)),
        ((8, 6), (0, 1), (8, 3), Runs(1, 2, 6, 8)),
        ((8, 6), (0, 4), (8, 5), Runs(4, 1, 6, 8)),
        ((8, 6, 3, 3), (0, 0, 1, 1), (8, 6, 2, 2), Runs(4, 1, 9, 48)),
        ((8, 6, 5), (0, 2, 1), (8, 3, 4), Runs(11, 3, 30, 8)),
    ],
    ids=["rows", "columns", "one column", "the centre of a kernel", "a plane cut from a stack"],
)
def test_a_common_slice_is_one_progression_of_runs(
    shape: tuple[int, ...], starts: tuple[int, ...], stops: tuple[int, ...], runs: Runs
) -> None:
    region = Region(shape, starts, stops)
    assert [flat(each).tolist() for each in region.runs(0, region.size)] == [flat(runs).tolist()]


def test_a_part_far_into_an_enormous_region_is_found_at_once() -> None:
    region = Region((2**40, 2**20), (0, 1), (2**40, 3))
    assert list(region.runs(2**40, 2**40 + 2)) == [Runs(2**59 + 1, 2, 2**20, 1)]
