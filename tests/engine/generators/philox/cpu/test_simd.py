"""Operations on lanes equal those of numpy for each number."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numba import njit
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cpu.simd import (
    Lanes,
    Memory,
    count_from,
    either,
    interleave,
    join,
    operation,
    pair_order,
    rarely,
    where,
)

COUNT = 32  # more than a vector of any processor has
INTEGERS = ("int32", "uint32", "uint64")
ARITHMETIC = operator.add, operator.sub, operator.mul
COMPARISONS = operator.lt, operator.gt, operator.le
BITWISE = operator.and_, operator.or_, operator.xor
SHIFTS = operator.lshift, operator.rshift

Numbers = NDArray[Any]
Pair = tuple[Numbers, Numbers]


def pairs(dtype: str) -> st.SearchStrategy[Pair]:
    array = arrays.arrays(dtype, COUNT, elements=arrays.from_dtype(np.dtype(dtype), allow_nan=False))
    return st.tuples(array, array)


def _compiled(function: Callable[[Lanes, Lanes], list[Lanes]]) -> Callable[[Numbers, Numbers, Numbers], None]:
    """Compile ``out[...] = function(left, right)``, where ``out`` has a row for each result."""

    @operation
    def write(left: Any, right: Any, out: Any) -> None:
        at = 0
        for result in function(left.load(0, COUNT), right.load(0, COUNT)):
            out.store(at, result)
            at += result.count or 1

    @njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
    def kernel(left: Any, right: Any, out: Any) -> None:
        write(left, right, out)

    return kernel  # type: ignore[no-any-return, unused-ignore]


_ARITHMETIC = _compiled(lambda a, b: [f(a, b) for f in ARITHMETIC] + [where(f(a, b), a, b) for f in COMPARISONS])


@pytest.mark.parametrize("dtype", [*INTEGERS, "float32"])
@given(data=st.data())
def test_numbers_are_those_of_their_type_without_promotion(dtype: str, data: st.DataObject) -> None:
    a, b = data.draw(pairs(dtype))
    b = np.where(np.arange(COUNT) % 3 == 0, a, b)
    out = np.empty((6, COUNT), dtype)
    _ARITHMETIC(a, b, out)
    with np.errstate(all="ignore"):
        expected = [f(a, b) for f in ARITHMETIC] + [np.where(f(a, b), a, b) for f in COMPARISONS]
        np.testing.assert_array_equal(out, expected)


_BITS = _compiled(lambda a, b: [f(a, b) for f in BITWISE] + [f(a, b & 31) for f in SHIFTS])


@pytest.mark.parametrize("dtype", INTEGERS)
@given(data=st.data())
def test_bits_are_combined_and_shifted_with_the_sign(dtype: str, data: st.DataObject) -> None:
    a, b = data.draw(pairs(dtype))
    out = np.empty((5, COUNT), dtype)
    _BITS(a, b, out)
    low = b & b.dtype.type(31)
    np.testing.assert_array_equal(out, [f(a, b) for f in BITWISE] + [f(a, low) for f in SHIFTS])


_SCALARS = _compiled(lambda a, _: [a + 7, 7 + a, a * 3, 3 * a, a - 7, 7 - a, where(a < 9, a, 1), where(a < 9, 1, a)])


@given(pair=pairs("uint32"))
def test_a_python_number_is_as_many_equal_lanes(pair: Pair) -> None:
    a, _ = pair
    out = np.empty((8, COUNT), np.uint32)
    _SCALARS(*pair, out)
    seven, three = np.uint32(7), np.uint32(3)
    chosen = [np.where(a < 9, a, np.uint32(1)), np.where(a < 9, np.uint32(1), a)]
    np.testing.assert_array_equal(out, [a + seven, a + seven, a * three, a * three, a - seven, seven - a, *chosen])


@operation
def _times(numbers: Any, factor: Any, out: Any) -> None:
    out.store(0, factor * numbers.load(0, COUNT) + numbers.load(1))


@njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _scaled(numbers: Any, factor: Any, out: Any) -> None:
    _times(numbers, factor, out)


def test_a_scalar_of_a_kernel_is_as_many_equal_lanes() -> None:
    numbers, out = np.arange(COUNT, dtype=np.float32) + np.float32(0.5), np.empty(COUNT, np.float32)
    _scaled(numbers, np.float32(3), out)
    np.testing.assert_array_equal(out, 3 * numbers + numbers[1])


def test_lanes_of_another_type_are_refused_while_compiling() -> None:
    kernel = _compiled(lambda a, b: [a + b])
    out = np.empty(COUNT, np.float32)
    with pytest.raises(Exception, match=r"expected lanes of float32, got uint32"):
        kernel(out, np.zeros(COUNT, np.uint32), out)


_CONVERSIONS = {
    (old, new): _compiled(lambda a, _, new=new: [a.to(new)])  # type: ignore[misc]
    for old, new in [
        ("int32", "float32"),
        ("uint32", "float32"),
        ("uint32", "uint16"),
        ("uint32", "uint8"),
        ("uint32", "uint64"),
        ("uint64", "uint32"),
    ]
}


@pytest.mark.parametrize(("old", "new"), _CONVERSIONS)
@given(data=st.data())
def test_numbers_are_converted_as_by_numpy(old: str, new: str, data: st.DataObject) -> None:
    pair, out = data.draw(pairs(old)), np.empty(COUNT, new)
    _CONVERSIONS[old, new](*pair, out)
    np.testing.assert_array_equal(out, pair[0].astype(new))


_VIEWED = _compiled(lambda a, _: [a.view(np.uint32)])


@pytest.mark.parametrize("dtype", ["float32", "uint64"])
@given(data=st.data())
def test_a_view_is_the_same_bits(dtype: str, data: st.DataObject) -> None:
    pair = data.draw(pairs(dtype))
    out = np.empty_like(pair[0].view(np.uint32))
    _VIEWED(*pair, out)
    np.testing.assert_array_equal(out, pair[0].view(np.uint32))


_TAKEN_IN_TURNS = _compiled(lambda a, b: [interleave(a.take(pair_order(COUNT)), b.take(pair_order(COUNT)))])


@given(pair=pairs("uint64"))
def test_lanes_in_pair_order_are_interleaved_in_turns(pair: Pair) -> None:
    out = np.empty(2 * COUNT, np.uint64)
    _TAKEN_IN_TURNS(*pair, out)
    np.testing.assert_array_equal(out, np.stack(pair, axis=1).ravel())


_JOINED = _compiled(lambda a, b: [join([a, b, b, a])])


def test_lanes_are_joined_one_value_after_the_other() -> None:
    a, b, out = np.arange(COUNT), np.arange(COUNT) + 100, np.empty(4 * COUNT, np.int64)
    _JOINED(a, b, out)
    np.testing.assert_array_equal(out, np.concatenate([a, b, b, a]))


@operation
def _count(start: Any, out: Any) -> None:
    out.store(0, count_from(start, COUNT))


@njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _counted(start: Any, out: Any) -> None:
    _count(start, out)


def test_counting_wraps_around() -> None:
    out = np.empty(COUNT, np.uint64)
    _counted(np.uint64(2**64 - 3), out)
    np.testing.assert_array_equal(out, np.arange(COUNT, dtype=np.uint64) - np.uint64(3))


@operation
def _store_in_one(first: Any, numbers: Any, left: Any, right: Any) -> None:
    either(first, left, right).store(0, numbers.load(0, COUNT))


@njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _stored_in_one(first: Any, numbers: Any, left: Any, right: Any) -> None:
    _store_in_one(first, numbers, left, right)


@pytest.mark.parametrize("first", [True, False])
def test_a_condition_chooses_between_two_arrays_of_different_types(first: bool) -> None:
    numbers, left, right = np.arange(COUNT, dtype=np.uint16), np.zeros(COUNT, np.uint16), np.zeros(COUNT, np.uint32)
    _stored_in_one(first, numbers, left, right)
    written, other = (left, right) if first else (right.view(np.uint16)[:COUNT], left)
    assert written.tolist() == numbers.tolist()
    assert not other.any()


_CLEARED = _compiled(lambda a, b: [rarely(a < 0, lambda: a - a, b)])


@given(lane=st.none() | st.integers(0, COUNT - 1))
def test_what_is_rarely_needed_replaces_only_the_lanes_of_its_condition(lane: int | None) -> None:
    values, others, out = np.full(COUNT, 5, np.int32), np.arange(COUNT, dtype=np.int32) + 1, np.empty(COUNT, np.int32)
    if lane is not None:
        values[lane] = -5
    _CLEARED(values, others, out)
    assert out.tolist() == [0 if place == lane else place + 1 for place in range(COUNT)]


@operation
def _swap_halves(numbers: Any, out: Any) -> None:
    assert isinstance(numbers, Memory)
    for at in range(2 * COUNT):  # the elements of uint64, read as twice as many of uint32
        out.store(at ^ 1, numbers.load(at, None, np.uint32))


@njit(error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _swapped(numbers: Any, out: Any) -> None:
    _swap_halves(numbers, out)


@given(pair=pairs("uint64"))
def test_memory_is_read_as_elements_of_another_type(pair: Pair) -> None:
    out = np.empty(2 * COUNT, np.uint32)
    _swapped(pair[0], out)
    np.testing.assert_array_equal(out, pair[0].view(np.uint32).reshape(-1, 2)[:, ::-1].ravel())
