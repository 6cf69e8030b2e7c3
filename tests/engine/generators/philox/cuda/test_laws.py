"""Any parts of any tensors, drawn by the GPU code, equal those of the CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES, FLOATS, DType
from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.generators.philox.cpu import laws as cpu
from weightwell_engine.generators.philox.cuda import Prepared, fill, kernels, laws, prepare
from weightwell_engine.generators.philox.cuda.laws import Elements
from weightwell_engine.generators.philox.cuda.segments import law_row
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.draws import carrier_of, settle
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, encode
from weightwell_engine.laws import (
    ClampedNormal,
    Constant,
    Lattice,
    Law,
    Normal,
    Orthogonal,
    OrthogonalStack,
    PowersOfTwo,
    Sparse,
    TruncatedNormal,
    Uniform,
    UniformIntegers,
)
from weightwell_engine.regions import Runs

ROWS, COLS = 90, 70
HERE = torch.device("cpu")
GUARD = 0xA5
PACKED = "float4_e2m1fn_x2"

LAWS: list[Law] = [
    Uniform(-0.1, 0.3),
    Normal(0.0, 0.02),
    Normal(1e-42, 1e-38),
    Normal(0.0, 1e-300),
    TruncatedNormal(0.0, 1.0, -2.0, 2.0),
    ClampedNormal(0.1, 1.0, -0.5, 2.0),
    TruncatedNormal(0.0, 1.0, 3.0, 4.0),
    TruncatedNormal(0.0, 1.0, -4.0, -3.0),
    TruncatedNormal(0.0, 1.0, -0.001, 0.002),
    TruncatedNormal(0.0, 1.0, -1.4405, -1.439),
    TruncatedNormal(0.0, 1.0, 100.0, 1000.0),
    Sparse(ROWS, COLS, 23, 0.01),
    Constant(0.1),
    Lattice(0.3, 5, (COLS + 1, 2), (80, 4)),
]
WHOLE = Runs(0, ROWS * COLS, 0, 1)
ODD, EVEN, COLUMNS = Runs(1, 4095, 0, 1), Runs(8, 24, 72, 60), Runs(3, 17, 70, 80)

Wanted = tuple[Law, DType, Runs]

runs_anywhere = st.builds(
    Runs,
    first=st.one_of(st.integers(0, 2**20), st.integers(2**34 - 500, 2**34), st.integers(2**59, 2**60)),
    length=st.integers(1, 70),
    stride=st.integers(70, 2**48),
    count=st.integers(1, 60),
)
wanted = st.tuples(
    st.sampled_from([law for law in LAWS if not isinstance(law, Sparse)]),
    st.sampled_from(list(FLOATS.values())),
    st.one_of(runs_anywhere, runs_anywhere.map(lambda r: Runs(4 * r.first, 4 * r.length, 4 * r.stride, r.count))),
)


def _places(parts: Sequence[Wanted]) -> list[int]:
    """Return where parts begin, one after the other, with at least a byte between them."""
    places, end = [], 1
    for _, dtype, runs in parts:
        places.append(-(-end // dtype.itemsize) * dtype.itemsize)
        end = places[-1] + runs.size * dtype.itemsize + 1
    return [*places, end]


def _expected(parts: Sequence[Wanted], seed: int) -> bytes:
    *places, end = _places(parts)
    out = bytearray([GUARD]) * end
    for (law, dtype, runs), place in zip(parts, places, strict=True):
        cpu.prepare(law, dtype, seed, "weight").fill(runs, memoryview(out)[place:][: runs.size * dtype.itemsize])
    return bytes(out)


def _drawn(parts: Sequence[Wanted], seed: int) -> bytes:
    *places, end = _places(parts)
    out = torch.full((end,), GUARD, dtype=torch.uint8)
    prepared = [prepare(law, dtype, seed, "weight", HERE) for law, dtype, _ in parts]
    fill([(law, part[2], place) for law, part, place in zip(prepared, parts, places, strict=True)], out)
    return out.numpy().tobytes()


def _draw(prepared: Prepared, dtype: DType, runs: Runs) -> Any:
    out = torch.empty(runs.size * dtype.itemsize, dtype=torch.uint8)
    fill([(prepared, runs, 0)], out)
    return out.numpy().view(UNSIGNED[dtype.itemsize])


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_law_has_the_bits_of_the_cpu_in_every_dtype(law: Law) -> None:
    parts = [(law, dtype, COLUMNS) for dtype in FLOATS.values()]
    parts += [(law, DTYPES["float32"], ODD), (law, DTYPES["bfloat16"], EVEN), (law, DTYPES["float64"], EVEN)]
    assert _drawn(parts, seed=7) == _expected(parts, seed=7)


INTEGERS: list[tuple[Law, str]] = [
    *((UniformIntegers(-128, 128), "int8"), (UniformIntegers(0, 16), "uint8"), (UniformIntegers(0, 2), "bool")),
    *((UniformIntegers(-127, 128), "int8"), (UniformIntegers(-(2**15), 2**15), "int16")),
    *((UniformIntegers(-(2**31), 2**31), "int32"), (UniformIntegers(0, 50257), "int32")),
    *((UniformIntegers(1 - 2**53, 2**53), "int64"), (UniformIntegers(-(2**63), 2**63), "int64")),
    *((PowersOfTwo(-127, 128), "float8_e8m0fnu"), (PowersOfTwo(-4, 4), "float32"), (PowersOfTwo(0, 3), PACKED)),
]


SHORT = Runs(1, 66, 0, 1), Runs(8, 24, 72, 3), Runs(3, 17, 70, 5), Runs(2**34 - 9, 30, 0, 1)


def test_integers_have_the_bits_of_the_cpu() -> None:
    parts = [(law, DTYPES[name], runs) for law, name in INTEGERS for runs in SHORT]
    assert _drawn(parts, seed=7) == _expected(parts, seed=7)


def test_packed_elements_have_the_bits_of_the_cpu() -> None:
    parts = [(law, DTYPES[PACKED], runs) for law in (Normal(0.0, 1.5), LAWS[-1]) for runs in SHORT[:3]]
    assert _drawn(parts, seed=7) == _expected(parts, seed=7)


@pytest.mark.usefixtures("haar_of_reference")
@pytest.mark.parametrize("name", ["float64", "bfloat16"])
def test_an_orthogonal_kernel_has_the_bits_of_the_cpu(name: str) -> None:
    law, dtype = Orthogonal(8, 13, -0.5, taps=5, centre=2), DTYPES[name]
    drawn = prepare(law, dtype, 7, "weight", HERE)
    for runs in (Runs(0, 520, 0, 1), Runs(7, 31, 65, 7), Runs(2, 3, 10, 50)):
        expected = np.empty(runs.size, UNSIGNED[dtype.itemsize])
        cpu.prepare(law, dtype, 7, "weight").fill(runs, expected.data.cast("B"))
        np.testing.assert_array_equal(_draw(drawn, dtype, runs), expected)


STACKS = {
    "stacked experts": OrthogonalStack(9, 6, 1.25, 1, 0, 3, (162,), (1,)),
    "a dense layer of jax": OrthogonalStack(6, 9, -0.5, 1, 0, 1, (9, 6), (1, 9)),
    "kernels with their batch inside": OrthogonalStack(6, 4, 0.5, 3, 1, 2, (3, 2, 24), (1, 72, 3)),
}


def test_a_stack_of_matrices_has_the_bits_of_the_cpu() -> None:
    _compare_stack(OrthogonalStack(9, 6, 1.25, 1, 0, 2, (108,), (1,)), DTYPES["float32"])


@pytest.mark.usefixtures("haar_of_reference")
@pytest.mark.parametrize("law", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("name", ["float64", "float32", "float8_e5m2"])
def test_the_matrices_of_a_stack_are_where_those_of_the_cpu_are(law: OrthogonalStack, name: str) -> None:
    _compare_stack(law, DTYPES[name])


def _compare_stack(law: OrthogonalStack, dtype: DType) -> None:
    drawn = prepare(law, dtype, 7, "weight", HERE)
    size = law.count * law.rows * law.cols * law.taps
    for runs in (Runs(0, size, 0, 1), Runs(7, 5, 13, 3)):
        expected = np.empty(runs.size, UNSIGNED[dtype.itemsize])
        cpu.prepare(law, dtype, 7, "weight").fill(runs, expected.data.cast("B"))
        np.testing.assert_array_equal(_draw(drawn, dtype, runs), expected)


def test_integers_are_counted_in_all_their_bits() -> None:
    parts = [(Constant(-1.0), DTYPES["int64"], COLUMNS), (Constant(2.0**53 - 1), DTYPES["int64"], EVEN)]
    assert _drawn(parts, seed=0) == _expected(parts, seed=0)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(wanted, max_size=4), seed=st.integers(0, 2**64 - 1))
def test_parts_that_are_drawn_together_have_the_bits_of_the_cpu(parts: list[Wanted], seed: int) -> None:
    assert _drawn(parts, seed) == _expected(parts, seed)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.integers(0, 2000),
    outer=st.integers(1, 90),
    inner=st.integers(1, 9),
    counts=st.tuples(st.integers(0, 60), st.integers(1, 10)),
    runs=st.builds(Runs, st.integers(0, 2000), st.integers(1, 50), st.integers(50, 100), st.integers(1, 40)),
)
def test_the_points_of_a_lattice_are_where_the_reference_has_them(
    first: int, outer: int, inner: int, counts: tuple[int, int], runs: Runs
) -> None:
    law, dtype = Lattice(0.3, first, (outer + inner * counts[1], inner), counts), DTYPES["float8_e5m2"]
    expected = np.empty(runs.size, np.uint8)
    reference.Prepared(law, dtype, 0, "weight").fill(runs, expected.data.cast("B"))
    np.testing.assert_array_equal(_draw(prepare(law, dtype, 0, "weight", HERE), dtype, runs), expected)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 3000), cols=st.integers(1, 9), data=st.data())
def test_columns_are_ranked_as_by_the_reference(rows: int, cols: int, data: st.DataObject) -> None:
    law, runs, dtype = Sparse(rows, cols, data.draw(st.integers(0, rows)), 1.0), Runs(0, rows * cols, 0, 1), "float16"
    expected = np.empty(runs.size, np.uint16)
    reference.Prepared(law, DTYPES[dtype], 3, "s").fill(runs, expected.data.cast("B"))
    np.testing.assert_array_equal(_draw(prepare(law, DTYPES[dtype], 3, "s", HERE), DTYPES[dtype], runs), expected)


@pytest.mark.parametrize("start", [0, 3, 61])
def test_columns_that_are_ranked_by_themselves_are_those_of_the_whole(
    start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    law, dtype = Sparse(ROWS, COLS, 23, 0.01), DTYPES["float32"]
    matrix = _draw(prepare(law, dtype, 0, "weight", HERE), dtype, WHOLE).reshape(ROWS, COLS)
    monkeypatch.setattr(laws, "_PANEL", 4 * ROWS)
    shard = _draw(prepare(law, dtype, 0, "weight", HERE), dtype, Runs(start, 9, COLS, ROWS))
    np.testing.assert_array_equal(shard.reshape(ROWS, 9), matrix[:, start : start + 9])


def test_equal_words_of_a_mask_are_ranked_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    columns: Any = prepare(Sparse(10, 3, 4, 1.0), DTYPES["float32"], 0, "weight", HERE)
    monkeypatch.setattr(laws, "fill", lambda _, words: words.fill_(0xFF))
    columns.segments(Runs(0, 30, 0, 1), 0)
    assert columns._limits.numpy().view(np.uint64).tolist() == [0xFFFFFFFF << 32 | 3] * 3


def test_too_many_rows_for_a_sparse_matrix_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="at most 2\\^32 rows"):
        prepare(Sparse(2**32 + 1, 1, 1, 1.0), DTYPES["float32"], 0, "weight", HERE)


@pytest.mark.parametrize("exponent", [0, 1, 20, 150, 1000])
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_elements_are_rounded_as_formats_rounds_them(dtype: DType, exponent: int) -> None:
    carrier = carrier_of(dtype)
    bits = np.random.default_rng(exponent).integers(0, 1 << 8 * carrier.itemsize, 8000, UNSIGNED[carrier.itemsize])
    values = bits.view(carrier.name)
    least = np.finfo(carrier.name).smallest_normal  # nothing smaller comes to be rounded
    values = np.concatenate([values, np.float32(0.1) * np.exp2(np.arange(-30, 2)).astype(values.dtype)])
    values = values[(np.abs(values) >= least) & (np.abs(values) <= dtype.max)]
    row = law_row(scale=1.0, low=-dtype.max, high=dtype.max, exponent=exponent, taps=1, address=values.ctypes.data)
    draw = settle(Normal(0.0, 1.0 if exponent == 0 else 1e-320 if dtype.itemsize == 8 else 1e-38), dtype)
    drawn = _draw(Elements(draw, row, kernels.MATRIX), dtype, Runs(0, values.size, 0, 1))
    np.testing.assert_array_equal(drawn, encode(values, dtype, exponent))


def test_the_points_of_a_matrix_are_not_lost_to_the_zeros_of_the_next() -> None:
    sides = 4, 5  # the first has no zeros that are written one by one, and the other has
    eyes = [prepare(Lattice(1.0, 0, (side + 1, 1), (side, 1)), DTYPES["float32"], 0, "eye", HERE) for side in sides]
    out = torch.empty(4 * (16 + 25), dtype=torch.uint8)
    fill([(eyes[0], Runs(0, 16, 0, 1), 0), (eyes[1], Runs(0, 25, 0, 1), 4 * 16)], out)
    assert torch.equal(out.view(torch.float32), torch.cat([torch.eye(side).flatten() for side in sides]))


def test_no_elements_are_nothing_to_do() -> None:
    fill(
        [(prepare(law, DTYPES["float32"], 0, "w", HERE), Runs(0, 0, 0, 1), 0) for law in LAWS],
        torch.empty(0, dtype=torch.uint8),
    )
