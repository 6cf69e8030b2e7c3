import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES, FLOATS, REALS, DType
from weightwell_engine.generators.philox.cpu import narrow
from weightwell_engine.generators.philox.specification.formats import (
    FORMATS,
    UNSIGNED,
    encode,
    interval,
    nearest,
    pattern,
)

NARROW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def _candidates(dtype: DType) -> np.ndarray:
    """Return all upper halves of float32, with lower halves that make ties of every narrow type, and near them."""
    halves = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    lows = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (halves[:, None] | lows).ravel().view(np.float32)
    return values[np.abs(values) <= dtype.max]


def _torch_cast(values: np.ndarray, dtype: DType) -> np.ndarray:
    cast = torch.from_numpy(values).to(getattr(torch, dtype.name))
    return cast.view(torch.uint8).numpy().view(UNSIGNED[dtype.itemsize])


def test_every_dtype_has_a_format_of_its_size_and_range() -> None:
    assert set(FORMATS) == set(REALS)
    for name, form in FORMATS.items():
        assert form.width == 8 * DTYPES[name].itemsize // DTYPES[name].packed
        assert form.bias == DTYPES[name].bias
        assert form.round(DTYPES[name].max) == DTYPES[name].max


@pytest.mark.parametrize("name", NARROW)
def test_the_reference_rounds_as_torch_does(name: str) -> None:
    values = _candidates(DTYPES[name])
    np.testing.assert_array_equal(encode(values, DTYPES[name]), _torch_cast(values, DTYPES[name]))


@pytest.mark.parametrize("name", NARROW)
def test_the_kernel_rounds_as_torch_does(name: str) -> None:
    values = _candidates(DTYPES[name])
    np.testing.assert_array_equal(narrow.encode(values, DTYPES[name]), _torch_cast(values, DTYPES[name]))


@given(value=st.floats(2.0**-20, 2.0**60), exponent=st.integers(0, 1100))
def test_scaling_back_rounds_once_into_the_subnormal_numbers(value: float, exponent: int) -> None:
    singles = np.array([value, -value], np.float32)
    exact = [Fraction(float(single)) / 2**exponent for single in singles]
    expected = np.array([FORMATS["float32"].round(float(x)) for x in exact], np.float64).astype(np.float32)
    got = encode(singles, DTYPES["float32"], exponent).view(np.float32)
    np.testing.assert_array_equal(np.abs(got), np.abs(expected))
    np.testing.assert_array_equal(np.signbit(got), [False, True])


@given(value=st.floats(-1e60, 1e60), exponent=st.integers(0, 1200))
def test_scaling_back_float64_is_that_of_ieee_754(value: float, exponent: int) -> None:
    values = np.array([value if abs(value) > 1e-60 else 1.0])
    got = encode(values, DTYPES["float64"], exponent).view(np.float64)
    assert got[0] == math.ldexp(values[0], -exponent)


@given(value=st.floats(-1e6, 1e6), name=st.sampled_from(list(FLOATS)))
def test_the_interval_has_the_smallest_and_largest_number_within_it(value: float, name: str) -> None:
    dtype = DTYPES[name]
    low, high = interval(value, value, dtype)
    assert low >= max(value, -dtype.max) or value > dtype.max
    assert high <= min(value, dtype.max) or value < -dtype.max
    assert nearest(low, dtype) == low
    assert nearest(high, dtype) == high
    assert nearest(value, dtype) in (low, high)


@pytest.mark.parametrize("name", list(FLOATS))
def test_infinite_bounds_are_the_largest_numbers(name: str) -> None:
    assert interval(-math.inf, math.inf, DTYPES[name]) == (-DTYPES[name].max, DTYPES[name].max)


@pytest.mark.parametrize("name", NARROW)
@given(value=st.floats(-(2.0**126), 2.0**126, width=32))
def test_a_constant_is_rounded_as_an_element_is(name: str, value: float) -> None:
    dtype = DTYPES[name]
    clamped = np.array([max(-dtype.max, min(value, dtype.max))], np.float32)
    assert pattern(value, dtype) == _torch_cast(clamped, dtype)[0]


def test_a_constant_keeps_its_sign_and_its_smallest_digits() -> None:
    assert pattern(-0.0, DTYPES["float32"]) == 0x80000000
    assert pattern(1e-45, DTYPES["float32"]) == 1
    assert pattern(-5e-324, DTYPES["float64"]) == 0x8000000000000001
