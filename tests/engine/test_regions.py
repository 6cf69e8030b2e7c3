from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.regions import Region, Runs, ScatteredRuns, indices


@st.composite
def regions(draw: st.DrawFn) -> Region:
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=5)))
    bounds = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    return Region(shape, tuple(start for start, _ in bounds), tuple(stop for _, stop in bounds))


def sliced(region: Region) -> np.ndarray:
    """Return the flat indices of a region, by numpy."""
    indices = np.arange(np.prod(region.shape, dtype=int)).reshape(region.shape)
    return indices[tuple(map(slice, region.starts, region.stops))].ravel()


@given(regions(), st.data())
def test_runs_are_the_flat_indices_of_a_numpy_slice_in_order(region: Region, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, region.size)] * 2)))
    runs = [indices(each) for each in region.runs(start, stop)]
    np.testing.assert_array_equal(np.concatenate([*runs, np.empty(0, int)]), sliced(region)[start:stop])


@given(regions(), st.data())
def test_parts_are_the_flat_indices_of_a_numpy_slice_in_order(region: Region, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, region.size)] * 2)))
    parts = list(region.parts(start, stop))
    np.testing.assert_array_equal(np.concatenate([*map(indices, parts), np.empty(0, int)]), sliced(region)[start:stop])
    assert sum(part.size for part in parts) == stop - start
    assert all(part.size > 0 for part in parts)


@pytest.mark.parametrize(
    "region",
    [
        pytest.param(Region((512, 512, 3, 3), (0, 0, 0, 0), (512, 512, 2, 2)), id="a crop of small kernels"),
        pytest.param(Region((3_000_000, 3, 41, 101), (0, 0, 0, 0), (3_000_000, 2, 1, 1)), id="single elements"),
        pytest.param(Region((2,) * 40, (0, 0) * 20, (2, 1) * 20), id="as many levels as there can be"),
    ],
)
def test_many_short_runs_are_few_parts_of_little_memory(region: Region) -> None:
    parts = list(region.parts(1, min(region.size, 2**18) - 1))
    assert len(parts) <= 20
    assert all(part.starts.nbytes <= 2**18 for part in parts if isinstance(part, ScatteredRuns))
    found = np.concatenate([*map(indices, parts)])
    digits = np.unravel_index(np.arange(1, min(region.size, 2**18) - 1), region.extent)
    moved = [digit + start for digit, start in zip(digits, region.starts, strict=True)]
    np.testing.assert_array_equal(found, np.ravel_multi_index(tuple(moved), region.shape))


def test_a_crop_of_large_planes_is_not_scattered() -> None:
    region = Region((8, 1000, 1000), (0, 0, 0), (8, 500, 500))
    assert list(region.parts(0, region.size)) == list(region.runs(0, region.size))


@given(regions())
def test_runs_are_never_empty(region: Region) -> None:
    assert all(runs.size > 0 for runs in region.runs(0, region.size))


@given(regions(), st.data())
def test_a_region_cut_anywhere_has_the_runs_of_the_whole(region: Region, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, region.size), max_size=4)))
    parts = [indices(runs) for cut in pairwise([0, *cuts, region.size]) for runs in region.runs(*cut)]
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
    assert [indices(each).tolist() for each in region.runs(0, region.size)] == [indices(runs).tolist()]


def test_a_part_far_into_an_enormous_region_is_found_at_once() -> None:
    region = Region((2**40, 2**20), (0, 1), (2**40, 3))
    assert list(region.runs(2**40, 2**40 + 2)) == [Runs(2**59 + 1, 2, 2**20, 1)]


@given(regions(), st.data())
def test_the_work_of_a_region_is_that_of_its_parts(region: Region, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, region.size)] * 2)))
    calls, elements = region.work(start, stop)
    assert abs(calls - len(list(region.parts(start, stop)))) <= 2
    assert stop - start <= elements <= 9 * (stop - start)


def test_the_work_of_short_runs_is_in_their_number() -> None:
    region = Region((3_000_000, 3, 41, 101), (0, 0, 0, 0), (3_000_000, 2, 1, 1))
    assert region.work(0, region.size) == (-(-6_000_000 // 2**15), 9 * 6_000_000)
