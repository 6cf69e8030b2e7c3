"""Any part of a tensor equals that part of the whole tensor, and of the reference."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weightwell_engine.dtypes import DTYPES, FLOATS, DType
from weightwell_engine.exceptions import UnsupportedSpec
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, encode
from weightwell_engine.laws import (
    ClampedNormal,
    Constant,
    Lattice,
    Law,
    Normal,
    Orthogonal,
    OrthogonalStack,
    Sparse,
    TruncatedNormal,
    Uniform,
)
from weightwell_engine.regions import Part, Region, Runs, ScatteredRuns, indices

ROWS, COLS = 90, 70
SHAPE = (ROWS, COLS)

INDEPENDENT: list[Law] = [
    Uniform(-0.1, 0.3),
    Normal(0.0, 0.02),
    Normal(1.0, 1e5),
    Normal(1e-42, 1e-38),
    TruncatedNormal(0.0, 1.0, -2.0, 2.0),
    ClampedNormal(0.1, 1.0, -0.5, 2.0),
    TruncatedNormal(0.0, 1.0, 3.0, 4.0),
    TruncatedNormal(0.0, 1.0, -0.001, 0.002),
]
SPARSE = Sparse(ROWS, COLS, 23, 0.01)
MATRICES: list[Law] = [Orthogonal(ROWS, COLS, 1.5), Orthogonal(28, 45, -0.5, taps=5, centre=2)]
POSITIONAL: list[Law] = [Constant(0.1), Lattice(0.3, 5, (COLS + 1, 2), (80, 4))]
LAWS: list[Law] = [*INDEPENDENT, SPARSE, *MATRICES, *POSITIONAL]

STACK = OrthogonalStack(7, 10, 1.0, taps=9, centre=4, count=10, sizes=(7, 10, 10, 9), strides=(90, 9, 630, 1))

laws = st.sampled_from(LAWS)
independent = st.sampled_from(INDEPENDENT)
dtypes = st.sampled_from(list(FLOATS.values()))
whole = Runs(0, ROWS * COLS, 0, 1)
runs_anywhere = st.builds(
    Runs,
    first=st.one_of(st.integers(0, 2**20), st.integers(2**34 - 500, 2**34), st.integers(2**61, 2**62)),
    length=st.integers(1, 70),
    stride=st.integers(70, 2**50),
    count=st.integers(1, 60),
)


def _draw(law: Law, dtype: DType, part: Part, seed: int = 0, name: str = "weight") -> NDArray[Any]:
    bits = np.empty(part.size, UNSIGNED[dtype.itemsize])
    prepare(law, dtype, seed, name).fill(part, bits.data.cast("B"))
    return bits


@st.composite
def rectangles(draw: st.DrawFn) -> Region:
    edges = [sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True))) for size in SHAPE]
    return Region(SHAPE, (edges[0][0], edges[1][0]), (edges[0][1], edges[1][1]))


@given(law=independent, dtype=dtypes, runs=runs_anywhere, seed=st.integers(0, 2**64 - 1), name=st.text(max_size=9))
def test_the_kernels_equal_the_reference(law: Law, dtype: DType, runs: Runs, seed: int, name: str) -> None:
    expected = np.empty(runs.size, UNSIGNED[dtype.itemsize])
    reference.Prepared(law, dtype, seed, name).fill(runs, expected.data.cast("B"))
    np.testing.assert_array_equal(_draw(law, dtype, runs, seed, name), expected)


@pytest.mark.parametrize("start", [2**34 - 4096, 2**34 - 1000, 2**34 - 2])
def test_a_long_run_goes_on_where_the_high_half_of_the_counter_changes(start: int) -> None:
    law, dtype, runs = Normal(0.0, 1.0), DTYPES["float32"], Runs(start, 9000, 0, 1)
    expected = np.empty(runs.size, np.uint32)
    reference.Prepared(law, dtype, 0, "weight").fill(runs, expected.data.cast("B"))
    np.testing.assert_array_equal(_draw(law, dtype, runs), expected)


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("size", [1, 127, 128, 4096, 4097, 9000])
def test_only_the_requested_elements_are_written(start: int, size: int) -> None:
    for law, name in (Normal(0.0, 1.0), "float32"), (Uniform(0.0, 1.0), "float8_e5m2"), (SPARSE, "bfloat16"):
        dtype = DTYPES[name]
        out, size_of_out = bytearray(b"\xaa" * ((size + 200) * dtype.itemsize)), size * dtype.itemsize
        prepare(law, dtype, 0, "weight").fill(Runs(start, size, 0, 1), memoryview(out)[:size_of_out])
        assert out[size_of_out:] == b"\xaa" * (200 * dtype.itemsize)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_a_whole_tensor_equals_the_reference(law: Law, dtype: DType) -> None:
    expected = np.empty(whole.size, UNSIGNED[dtype.itemsize])
    reference.Prepared(law, dtype, 0, "weight").fill(whole, expected.data.cast("B"))
    np.testing.assert_array_equal(_draw(law, dtype, whole), expected)


@given(law=laws, dtype=dtypes, region=rectangles())
def test_a_slice_is_that_slice_of_the_whole(law: Law, dtype: DType, region: Region) -> None:
    matrix = _draw(law, dtype, whole).reshape(SHAPE)
    slices = tuple(slice(start, stop) for start, stop in zip(region.starts, region.stops, strict=True))
    drawn = np.concatenate([_draw(law, dtype, part) for part in region.parts(0, region.size)])
    np.testing.assert_array_equal(drawn.reshape(region.extent), matrix[slices])


@given(law=st.sampled_from([*LAWS, STACK]), dtype=dtypes, data=st.data())
def test_scattered_runs_are_those_of_the_whole(law: Law, dtype: DType, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 9))
    gaps = data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=100))
    starts = np.cumsum(np.array(gaps) + length) - length
    part = ScatteredRuns(starts[starts + length <= whole.size], length)
    if part.size:
        np.testing.assert_array_equal(_draw(law, dtype, part), _draw(law, dtype, whole)[indices(part)])


@given(law=independent, dtype=dtypes, starts=st.lists(st.integers(0, 2**62), min_size=1, max_size=60, unique=True))
def test_scattered_runs_equal_the_reference(law: Law, dtype: DType, starts: list[int]) -> None:
    part = ScatteredRuns(np.array(sorted(starts)), 3)
    expected = np.empty(part.size, UNSIGNED[dtype.itemsize])
    reference.Prepared(law, dtype, 0, "weight").fill(part, expected.data.cast("B"))
    np.testing.assert_array_equal(_draw(law, dtype, part), expected)


@given(law=laws, dtype=dtypes, cuts=st.lists(st.integers(0, ROWS * COLS), max_size=7))
def test_pieces_of_any_size_are_the_whole(law: Law, dtype: DType, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), ROWS * COLS]
    prepared = prepare(law, dtype, 0, "weight")
    drawn = np.empty(whole.size, UNSIGNED[dtype.itemsize])
    for start, stop in pairwise(edges):
        prepared.fill(Runs(start, stop - start, 0, 1), drawn[start:stop].data.cast("B"))
    np.testing.assert_array_equal(drawn, _draw(law, dtype, whole))


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("law", [Normal(0.0, 1.0), SPARSE, MATRICES[0]], ids=["normal", "sparse", "orthogonal"])
def test_threads_that_draw_at_once_draw_the_whole(law: Law, threads: int) -> None:
    dtype = DTYPES["bfloat16"]
    prepared, drawn = prepare(law, dtype, 0, "weight"), np.empty(SHAPE, np.uint16)
    with ThreadPoolExecutor(threads) as executor:
        for row in range(ROWS):
            executor.submit(prepared.fill, Runs(row * COLS, COLS, 0, 1), drawn[row].data.cast("B"))
    np.testing.assert_array_equal(drawn.ravel(), _draw(law, dtype, whole))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize(
    "law", [Normal(0.0, 0.02), TruncatedNormal(0.0, 1.0, 3.0, 8.0), Sparse(ROWS, COLS, 9, 1.0), *MATRICES]
)
def test_a_narrow_element_is_the_rounded_float32_element(law: Law, name: str) -> None:
    singles = _draw(law, DTYPES["float32"], whole).view(np.float32)
    np.testing.assert_array_equal(_draw(law, DTYPES[name], whole), encode(singles, DTYPES[name]))


@pytest.mark.parametrize(
    "law",
    [
        Uniform(-1.0, 3.0),
        Normal(0.0, 1.0),
        TruncatedNormal(0.0, 1.0, -2.0, 1.0),
        ClampedNormal(0.0, 1.0, -1.0, 0.5),
        *MATRICES,
    ],
)
def test_a_float64_element_is_the_float32_element_to_more_digits(law: Law) -> None:
    singles = _draw(law, DTYPES["float32"], whole).view(np.float32)
    doubles = _draw(law, DTYPES["float64"], whole).view(np.float64)
    np.testing.assert_allclose(singles, doubles, atol=2e-6)


@given(low=st.floats(-400, 400), width=st.floats(1e-3, 100), dtype=dtypes)
def test_no_element_is_outside_its_bounds(low: float, width: float, dtype: DType) -> None:
    for law in (Uniform(low, low + width), TruncatedNormal(low + width / 3, width, low, low + width)):
        drawn = _as_floats(_draw(law, dtype, Runs(0, 500, 0, 1)), dtype)
        inside = (drawn >= low) & (drawn <= low + width)
        assert inside.all() or np.unique(drawn).size == 1  # a single one, where no number of the dtype is inside


SAMPLE = Runs(0, 300_000, 0, 1)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("law", [*INDEPENDENT, ClampedNormal(1.0, 0.5, 1.25, 3.0)], ids=str)
def test_elements_have_the_mean_and_the_std_of_their_law(law: Law, name: str) -> None:
    """Within five standard errors of the sample."""
    drawn = _as_floats(_draw(law, DTYPES[name], SAMPLE), DTYPES[name])
    mean, std = law.mean_std(drawn.size)
    squares = (drawn - mean) ** 2
    assert abs(drawn.mean() - mean) < 5 * std / drawn.size**0.5
    assert abs(squares.mean() - std**2) < 5 * squares.std() / drawn.size**0.5


CLAMPED: list[tuple[float, float]] = [(-0.5, 2.0), (0.25, 0.75), (1.0, 9.0), (-9.0, -1.0)]


@pytest.mark.parametrize(("low", "high"), CLAMPED)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_a_clamped_normal_has_the_mass_of_the_normal_at_its_bounds(low: float, high: float, name: str) -> None:
    drawn = _as_floats(_draw(ClampedNormal(0.1, 1.0, low, high), DTYPES[name], SAMPLE), DTYPES[name])
    normal = scipy.stats.norm(0.1, 1.0)
    for bound, mass in ((low, normal.cdf(low)), (high, normal.sf(high))):
        standard_error = (mass * (1 - mass) / drawn.size) ** 0.5
        assert abs((drawn == bound).mean() - mass) < 5 * standard_error


@pytest.mark.parametrize(("low", "high"), CLAMPED)
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_a_clamped_normal_is_the_normal_clamped(low: float, high: float, dtype: DType) -> None:
    laws = Normal(0.1, 1.0), ClampedNormal(0.1, 1.0, low, high)
    normal, clamped = (_as_floats(_draw(law, dtype, whole), dtype) for law in laws)
    np.testing.assert_array_equal(clamped, np.clip(normal, low, high))


def _as_floats(bits: NDArray[Any], dtype: DType) -> NDArray[np.float64]:
    signed = torch.from_numpy(bits.view(f"int{8 * dtype.itemsize}"))
    return signed.view(getattr(torch, dtype.name)).to(torch.float64).numpy()


@given(law=independent, dtype=dtypes, rows=st.integers(1, 40), more=st.integers(1, 40))
def test_what_grows_in_its_first_dimension_keeps_its_elements(law: Law, dtype: DType, rows: int, more: int) -> None:
    old, new = (_draw(law, dtype, Runs(0, n * COLS, 0, 1)) for n in (rows, rows + more))
    np.testing.assert_array_equal(new[: rows * COLS], old)


@given(seed=st.integers(0, 2**64 - 1), other=st.integers(0, 2**64 - 1))
def test_another_seed_or_name_draws_other_elements(seed: int, other: int) -> None:
    law, dtype, few = Uniform(0.0, 1.0), DTYPES["float32"], Runs(0, 8, 0, 1)
    drawn = {_draw(law, dtype, few, s, name).tobytes() for s in {seed, other} for name in ("a", "b")}
    assert len(drawn) == 2 * len({seed, other})


@pytest.mark.parametrize("zeros", [0, 1, 45, ROWS])
def test_every_column_of_a_sparse_matrix_has_its_zeros(zeros: int) -> None:
    matrix = _draw(Sparse(ROWS, COLS, zeros, 1.0), DTYPES["float32"], whole).reshape(SHAPE)
    assert (np.count_nonzero(matrix == 0, axis=0) == zeros).all()


def test_what_is_not_zero_in_a_sparse_matrix_is_normal() -> None:
    sparse, dense = (_draw(law, DTYPES["float32"], whole) for law in (SPARSE, Normal(0.0, SPARSE.std)))
    np.testing.assert_array_equal(sparse[sparse != 0], dense[sparse != 0])


@settings(max_examples=20)
@given(rows=st.integers(1, 3000), cols=st.integers(1, 9), data=st.data())
def test_columns_are_ranked_as_by_the_reference(rows: int, cols: int, data: st.DataObject) -> None:
    law, runs = Sparse(rows, cols, data.draw(st.integers(0, rows)), 1.0), Runs(0, rows * cols, 0, 1)
    expected = np.empty(runs.size, np.uint32)
    reference.Prepared(law, DTYPES["float32"], 3, "s").fill(runs, expected.data.cast("B"))
    np.testing.assert_array_equal(_draw(law, DTYPES["float32"], runs, 3, "s"), expected)


@pytest.mark.parametrize("zeros", [300, 700, 999])
def test_columns_of_a_matrix_that_is_mostly_zero_or_not_are_those_of_the_whole(zeros: int) -> None:
    law, dtype = Sparse(1000, 100, zeros, 1.0), DTYPES["float32"]
    matrix = _draw(law, dtype, Runs(0, 100_000, 0, 1)).reshape(1000, 100)
    for start, stop in (0, 1), (15, 17), (3, 98), (16, 80), (99, 100):
        shard = _draw(law, dtype, Runs(start, stop - start, 100, 1000))
        np.testing.assert_array_equal(shard.reshape(1000, -1), matrix[:, start:stop])


def test_too_many_rows_for_a_sparse_matrix_are_refused() -> None:
    with pytest.raises(UnsupportedSpec, match="at most 2\\^32 rows"):
        prepare(Sparse(2**32 + 1, 1, 1, 1.0), DTYPES["float32"], 0, "weight")


def test_no_elements_are_no_bytes() -> None:
    for law in LAWS:
        prepare(law, DTYPES["float32"], 0, "weight").fill(Runs(0, 0, 0, 1), memoryview(bytearray()))
