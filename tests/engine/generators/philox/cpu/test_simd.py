"""Lanes do to each of many numbers what numpy does to it."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numba import njit
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cpu.simd import (
    any_of,
    bits_of,
    convert,
    count_from,
    interleave,
    load,
    lowest,
    store,
    truths,
    view,
    where,
)

COUNT = 32  # more than a vector of any processor has
INTEGERS = ("int32", "uint32", "uint64")
_SHIFTS = {name: np.dtype(name).type(31) for name in INTEGERS}

Numbers = NDArray[Any]
Pair = tuple[Numbers, Numbers]


def pairs(dtype: str) -> st.SearchStrategy[Pair]:
    array = arrays.arrays(dtype, COUNT, elements=arrays.from_dtype(np.dtype(dtype), allow_nan=False))
    return st.tuples(array, array)


@njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _operate(left: Any, right: Any, out: Any) -> None:
    a, b = load(left, 0, COUNT), load(right, 0, COUNT)
    store(out[0], 0, a + b)
    store(out[1], 0, a - b)
    store(out[2], 0, a * b)
    store(out[3], 0, where(a < b, a, b))
    store(out[4], 0, where(a > b, a, b))
    store(out[5], 0, where(a <= b, a, b))
    store(out[6], 0, where(a == b, a, b))


@pytest.mark.parametrize("dtype", [*INTEGERS, "float32"])
@given(data=st.data())
def test_numbers_are_those_of_their_type_without_promotion(dtype: str, data: st.DataObject) -> None:
    a, b = data.draw(pairs(dtype))
    b = np.where(np.arange(COUNT) % 3 == 0, a, b)
    out = np.empty((7, COUNT), dtype)
    _operate(a, b, out)
    with np.errstate(all="ignore"):
        chosen = [np.where(which, a, b) for which in (a < b, a > b, a <= b, a == b)]
        np.testing.assert_array_equal(out, [a + b, a - b, a * b, *chosen])


@njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _combine(left: Any, right: Any, most: Any, out: Any) -> None:
    a, b = load(left, 0, COUNT), load(right, 0, COUNT)
    store(out[0], 0, a & b)
    store(out[1], 0, a | b)
    store(out[2], 0, a ^ b)
    store(out[3], 0, a << (b & most))
    store(out[4], 0, a >> (b & most))


@pytest.mark.parametrize("dtype", INTEGERS)
@given(data=st.data())
def test_bits_are_combined_and_shifted_with_the_sign(dtype: str, data: st.DataObject) -> None:
    (a, b), most = data.draw(pairs(dtype)), _SHIFTS[dtype]
    out = np.empty((5, COUNT), dtype)
    _combine(a, b, most, out)
    np.testing.assert_array_equal(out, [a & b, a | b, a ^ b, a << (b & most), a >> (b & most)])


def _compiled(function: Callable[..., Any]) -> Callable[[Numbers, Numbers], None]:
    """Compile ``out[:] = function(values)`` on lanes."""
    compiled = njit(function) if isinstance(function, FunctionType) else function

    @njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
    def loop(values: Any, out: Any) -> None:
        store(out, 0, compiled(load(values, 0, COUNT)))

    return loop  # type: ignore[no-any-return, unused-ignore]


_CONVERSIONS = {
    ("int32", "float32"): _compiled(lambda lanes: convert(lanes, np.float32)),
    ("uint32", "float32"): _compiled(lambda lanes: convert(lanes, np.float32)),
    ("uint32", "uint16"): _compiled(lambda lanes: convert(lanes, np.uint16)),
    ("uint32", "uint64"): _compiled(lambda lanes: convert(lanes, np.uint64)),
}


@pytest.mark.parametrize(("old", "new"), _CONVERSIONS)
@given(data=st.data())
def test_numbers_are_converted_as_by_numpy(old: str, new: str, data: st.DataObject) -> None:
    values, out = data.draw(pairs(old))[0], np.empty(COUNT, new)
    _CONVERSIONS[old, new](values, out)
    np.testing.assert_array_equal(out, values.astype(new))


_VIEWED = _compiled(lambda lanes: view(lanes, np.uint32))


@pytest.mark.parametrize("dtype", ["float32", "uint64"])
@given(data=st.data())
def test_a_view_is_the_same_bits(dtype: str, data: st.DataObject) -> None:
    values = data.draw(pairs(dtype))[0]
    out = np.empty_like(values.view(np.uint32))
    _VIEWED(values, out)
    np.testing.assert_array_equal(out, values.view(np.uint32))


_SCALED = _compiled(lambda lanes: (np.uint32(7) - lanes) * np.uint32(3))


@given(pairs("uint32"))
def test_a_scalar_is_as_many_equal_lanes(pair: Pair) -> None:
    out = np.empty(COUNT, np.uint32)
    _SCALED(pair[0], out)
    np.testing.assert_array_equal(out, (np.uint32(7) - pair[0]) * np.uint32(3))


_TAKEN_IN_TURNS = _compiled(lambda lanes: interleave(lanes, lanes + np.uint64(1)))


@given(pairs("uint64"))
def test_lanes_are_interleaved_in_turns(pair: Pair) -> None:
    out = np.empty(2 * COUNT, np.uint64)
    _TAKEN_IN_TURNS(pair[0], out)
    np.testing.assert_array_equal(out, np.stack([pair[0], pair[0] + np.uint64(1)], axis=1).ravel())


_COUNTED = _compiled(lambda lanes: lanes + count_from(np.uint64(2**64 - 3), COUNT))


def test_counting_wraps_around() -> None:
    out = np.empty(COUNT, np.uint64)
    _COUNTED(np.zeros(COUNT, np.uint64), out)
    np.testing.assert_array_equal(out, np.arange(COUNT, dtype=np.uint64) - np.uint64(3))


_CLEARED_IF_ANY_IS_NEGATIVE = _compiled(lambda lanes: lanes - lanes if any_of(lanes < np.int32(0)) else lanes)


@given(lane=st.none() | st.integers(0, COUNT - 1))
def test_any_lane_counts(lane: int | None) -> None:
    values, out = np.full(COUNT, 5, np.int32), np.empty(COUNT, np.int32)
    if lane is not None:
        values[lane] = -5
    _CLEARED_IF_ANY_IS_NEGATIVE(values, out)
    assert out.tolist() == [5 if lane is None else 0] * COUNT


@njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _negatives(values: Any, out: Any) -> Any:
    bits = bits_of(load(values, 0, COUNT) < np.int32(0))
    store(out, 0, where(truths(np.uint32(bits)), np.int32(-1), load(values, 0, COUNT)))
    return bits


@given(pairs("int32"))
def test_a_condition_is_bits_and_bits_are_a_condition(pair: Pair) -> None:
    out = np.empty(COUNT, np.int32)
    bits = _negatives(pair[0], out)
    assert int(bits) == sum(1 << lane for lane in range(COUNT) if pair[0][lane] < 0)
    np.testing.assert_array_equal(out, np.maximum(pair[0], -1))


_lowest = njit(lambda bits: lowest(bits))


@given(st.integers(1, 2**64 - 1))
def test_the_lowest_bit_has_its_place(bits: int) -> None:
    assert 1 << _lowest(np.uint64(bits)) == bits & -bits
