"""Uniform integers, powers of two, and dtypes that pack elements: the bits of the reference, and the right law."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weightwell_engine.dtypes import DTYPES, INTEGERS, DType
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.cpu.packed import elements_of
from weightwell_engine.generators.philox.cpu.words import Run, fill_words
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.draws import field_of
from weightwell_engine.generators.philox.specification.formats import UNSIGNED
from weightwell_engine.generators.philox.specification.keys import Stream, derive_key
from weightwell_engine.laws import Constant, Lattice, Law, Normal, PowersOfTwo, Uniform, UniformIntegers, Values
from weightwell_engine.regions import Part, Region, Runs, ScatteredRuns, indices

FOUR = DTYPES["float4_e2m1fn_x2"]
SCALE = DTYPES["float8_e8m0fnu"]
SHAPE = ROWS, COLS = 90, 70
WHOLE = Runs(0, ROWS * COLS, 0, 1)


@st.composite
def integers(draw: st.DrawFn) -> tuple[Law, DType]:
    """Draw a law of integers in a dtype that holds them, of a count of any field."""
    dtype = draw(st.sampled_from(list(INTEGERS.values())))
    least, most = int(dtype.min), int(dtype.max)
    powers = [1 << bits for bits in range(54) if 1 << bits <= most - least + 1]
    count = draw(st.sampled_from(powers) | st.integers(1, most - least + 1))
    low = draw(st.integers(least, most + 1 - count))
    return UniformIntegers(low, low + count), dtype


PACKED: list[Law] = [
    *(Uniform(-5.0, 7.0), Normal(0.0, 1.5), PowersOfTwo(0, 3), Constant(-1.5)),
    *(Lattice(3.0, 5, (2 * COLS + 1, 2), (80, 4)), Values((0.5, -1.0, 6.0, 2.0), (ROWS, 5 * COLS // 10, 4), (0, 0, 1))),
]
laws = integers() | st.tuples(st.sampled_from(PACKED), st.just(FOUR)) | st.just((PowersOfTwo(-20, 31), SCALE))

runs = st.builds(
    Runs,
    first=st.integers(0, 2**20) | st.integers(2**34 - 500, 2**34) | st.integers(2**60, 2**61),
    length=st.integers(1, 70),
    stride=st.integers(70, 2**50),
    count=st.integers(1, 60),
)


@st.composite
def scattered(draw: st.DrawFn) -> ScatteredRuns:
    """Short runs in order, which do not overlap: a region has each element once."""
    length = draw(st.integers(1, 9))
    gaps = draw(st.lists(st.integers(0, 100), min_size=1, max_size=60))
    return ScatteredRuns(np.cumsum([gap + length for gap in gaps], dtype=np.int64) - length, length)


def drawn(law: Law, dtype: DType, part: Part, seed: int = 0) -> NDArray[Any]:
    bits = np.empty(part.size, UNSIGNED[dtype.itemsize])
    prepare(law, dtype, seed, "weight").fill(part, bits.data.cast("B"))
    return bits


def expected(law: Law, dtype: DType, part: Part, seed: int = 0) -> NDArray[Any]:
    bits = np.empty(part.size, UNSIGNED[dtype.itemsize])
    reference.Prepared(law, dtype, seed, "weight").fill(part, bits.data.cast("B"))
    return bits


@given(law=integers() | st.just((PowersOfTwo(-20, 31), SCALE)), part=runs | scattered(), seed=st.integers(0, 2**64 - 1))
def test_the_integers_are_those_of_the_reference(law: tuple[Law, DType], part: Part, seed: int) -> None:
    np.testing.assert_array_equal(drawn(*law, part, seed), expected(*law, part, seed))


@given(law=st.sampled_from(PACKED), part=scattered())
def test_packed_elements_are_those_of_the_reference(law: Law, part: Part) -> None:
    np.testing.assert_array_equal(drawn(law, FOUR, part), expected(law, FOUR, part))


@pytest.mark.parametrize("length", [1, 3, 2**15, 2**17 + 1, 2**19 + 6])
@pytest.mark.parametrize("start", [0, 1, 2, 4, 2**34 - 9])
def test_a_long_run_is_its_pieces(start: int, length: int) -> None:
    for law, dtype in (UniformIntegers(-8, 8), DTYPES["int8"]), (UniformIntegers(-3, 997), DTYPES["int16"]):
        whole, middle = drawn(law, dtype, Runs(start, length, 0, 1)), length // 2 + 1
        pieces = [Runs(start, middle, 0, 1), Runs(start + middle, length - middle, 0, 1)]
        np.testing.assert_array_equal(whole, np.concatenate([drawn(law, dtype, piece) for piece in pieces]))


@given(law=laws, data=st.data())
def test_a_slice_is_that_slice_of_the_whole(law: tuple[Law, DType], data: st.DataObject) -> None:
    edges = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in SHAPE]
    region = Region(SHAPE, (edges[0][0], edges[1][0]), (edges[0][1], edges[1][1]))
    whole = drawn(*law, WHOLE).reshape(SHAPE)
    parts = np.concatenate([drawn(*law, part) for part in region.parts(0, region.size)])
    np.testing.assert_array_equal(parts.reshape(region.extent), whole[tuple(slice(*edge) for edge in edges)])


def test_memory_may_begin_anywhere_and_only_the_elements_are_written() -> None:
    for name, offset in (("uint8", 1), ("int8", 3), ("int16", 2)):
        dtype, law = DTYPES[name], UniformIntegers(0, 128)
        out = bytearray(b"\xaa" * 1000)
        size = 100 * dtype.itemsize
        prepare(law, dtype, 0, "weight").fill(Runs(0, 100, 0, 1), memoryview(out)[offset : offset + size])
        assert out[offset : offset + size] == drawn(law, dtype, Runs(0, 100, 0, 1)).tobytes()
        assert out[:offset] + out[offset + size :] == b"\xaa" * (1000 - size)


def test_all_bytes_are_the_bytes_of_the_words() -> None:
    words = np.empty(64, np.uint32)
    fill_words(derive_key(0, "weight", Stream.DATA), Run(0, 64, 0, 1), words)
    assert drawn(UniformIntegers(0, 256), DTYPES["uint8"], Runs(0, 256, 0, 1)).tobytes() == words.tobytes()


@pytest.mark.parametrize(("low", "high"), [(0, 2), (0, 1), (0, 100), (0, 128)])
def test_the_integers_do_not_depend_on_the_dtype(low: int, high: int) -> None:
    law, part = UniformIntegers(low, high), Runs(7, 1000, 0, 1)
    names = [name for name, dtype in INTEGERS.items() if dtype.max >= high - 1]
    found = [drawn(law, DTYPES[name], part).astype(np.int64).tolist() for name in names]
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 100, 255, 256, 257, 1000, 2**16, 2**32, 2**32 + 1, 2**53, 2**64])
def test_the_probability_of_an_integer_is_next_to_that_of_the_law(count: int) -> None:
    field = field_of(count)
    for k in {0, min(1, count - 1), count // 3, count // 2, count - 1}:
        begin, end = -(-(k << field) // count), -(-((k + 1) << field) // count)  # u * count >> field == k between them
        probability = Fraction(end - begin, 1 << field)
        bias = abs(probability * count - 1)
        assert bias == 0 if count & (count - 1) == 0 else bias < Fraction(count, 1 << field)
        assert bias < Fraction(1, 1 << (24 if count < 256 else 11))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-128, 128, "int8"),
        (-127, 128, "int8"),
        (0, 16, "uint8"),
        (0, 2, "bool"),
        (-300, 700, "int32"),
        (5, 12, "int64"),
    ],
)
def test_every_integer_is_as_likely_as_the_others(low: int, high: int, dtype: str) -> None:
    law, size = UniformIntegers(low, high), 2**20
    bits = drawn(law, DTYPES[dtype], Runs(0, size, 0, 1), seed=5)
    found = bits.view(bool if dtype == "bool" else dtype).astype(np.int64)
    counts = np.bincount(found - low, minlength=high - low)
    assert counts.size == high - low  # nothing is beyond the bounds
    assert counts.min() > 0
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    mean, std = law.mean_std(size)
    assert abs(found.mean() - mean) < 4.5 * std / size**0.5
    assert found.std() == pytest.approx(std, rel=0.01)
    pairs = np.corrcoef(found[:-1], found[1:])[0, 1]
    assert abs(pairs) < 4.5 / size**0.5


def test_large_integers_fill_their_range() -> None:
    low, high, size = -(2**53) + 1, 2**53, 2**18
    found = drawn(UniformIntegers(low, high), DTYPES["int64"], Runs(0, size, 0, 1)).view(np.int64)
    assert low <= found.min() < low + 2**40
    assert high - 2**40 < found.max() < high
    assert scipy.stats.kstest(found / 2**53, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_scales_are_finite_and_their_exponents_are_uniform() -> None:
    every = drawn(PowersOfTwo(-127, 128), SCALE, Runs(0, 2**18, 0, 1))
    assert (every.min(), every.max()) == (0, 254)  # 255 is NaN
    assert scipy.stats.chisquare(np.bincount(every, minlength=255)).pvalue > 1e-4
    singles = drawn(PowersOfTwo(-4, 4), DTYPES["float32"], Runs(0, 4096, 0, 1)).view(np.float32)
    assert set(singles.tolist()) == {2.0**k for k in range(-4, 4)}
    mean, std = PowersOfTwo(-4, 4).mean_std(4096)
    assert (singles.mean(), singles.std()) == pytest.approx((mean, std), rel=0.05)


def test_the_elements_of_a_packed_law_are_those_of_float32_rounded_once() -> None:
    part = Runs(0, 3000, 0, 1)
    items = drawn(Normal(0.0, 1.5), FOUR, part)
    codes = np.stack([items & 15, items >> 4], axis=-1).ravel()
    singles = np.empty(6000, np.float32)
    prepare(Normal(0.0, 1.5), DTYPES["float32"], 0, "weight").fill(elements_of(part, 2), singles.data.cast("B"))
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    distances = np.abs(np.abs(singles)[:, None] - values)
    assert (
        np.take_along_axis(distances, (codes & 7)[:, None].astype(int), axis=1)[:, 0] == distances.min(axis=1)
    ).all()
    assert (codes >> 3 == np.signbit(singles)).all()


def test_the_indices_of_a_part_are_kept_in_blocks() -> None:
    part = ScatteredRuns(np.array([3, 40, 77]), 2)
    assert indices(elements_of(part, 2)).tolist() == [6, 7, 8, 9, 80, 81, 82, 83, 154, 155, 156, 157]
