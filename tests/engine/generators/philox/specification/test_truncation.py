import math
from decimal import Decimal

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf

from weightwell_engine.generators.philox.specification.truncation import (
    Narrow,
    Probability,
    Remote,
    Wide,
    probability,
    window,
)

mp.dps = 120


def _phi(x: mpf) -> mpf:
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


@pytest.mark.parametrize("bound", ["0", "0.001", "1", "3.9999", "4.0001", "-2", "-7.5", "12", "38", "100"])
def test_probabilities_are_good_to_45_digits(bound: str) -> None:
    got, x = probability(Decimal(bound)), mpf(bound)
    for side, exact in ((got.below, _phi(x)), (got.above, _phi(-x))):
        assert abs(mpf(str(side)) / exact - 1) < mpf(10) ** -45


def test_infinite_bounds_are_certain() -> None:
    assert probability(Decimal("-Infinity")) == Probability(below=Decimal(0), above=Decimal(1))
    assert probability(Decimal("Infinity")) == Probability(below=Decimal(1), above=Decimal(0))


@given(low=st.floats(-8, 8), width=st.floats(0.1, 8), bits=st.sampled_from([32, 64]))
def test_a_wide_window_has_the_bounds_probabilities_rounded_to_integers(low: float, width: float, bits: int) -> None:
    high = low + width
    got = window(0.0, 1.0, low, high, bits)
    if isinstance(got, Wide):
        origin, end = (mpmath.floor(_phi(mpf(bound)) * 2**bits + mpf("0.5")) for bound in (low, high))
        assert (got.origin, got.origin + got.width) == (int(origin), int(end))
    else:
        assert (_phi(mpf(high)) - _phi(mpf(low))) * 2**32 < 2**24 + 1


@pytest.mark.parametrize(("low", "high"), [(-100.0, 100.0), (-math.inf, math.inf)])
@pytest.mark.parametrize("bits", [32, 64])
def test_bounds_that_do_not_bind_keep_every_word(low: float, high: float, bits: int) -> None:
    assert window(0.0, 1.0, low, high, bits) == Wide(0, 1 << bits)


@pytest.mark.parametrize(("low", "high"), [(3.0, 4.0), (8.0, 9.0), (40.0, math.inf), (1000.0, 1001.0)])
def test_a_tail_is_scaled_to_keep_all_its_digits(low: float, high: float) -> None:
    got = window(0.0, 1.0, low, high)
    near, far = _phi(-mpf(low)), _phi(-mpf(high))
    scale = mpmath.power(2, got.exponent) if isinstance(got, Narrow) else mpf(0)
    assert mpf("0.5") <= near * scale < 1
    assert got == Narrow(1, float(far * scale), float((near - far) * scale), int(mpmath.log(scale, 2)))


@given(low=st.floats(2.7, 60), width=st.floats(0.01, 5))
def test_the_lower_tail_is_the_mirror_of_the_upper(low: float, width: float) -> None:
    upper, lower = window(0.0, 1.0, low, low + width), window(0.0, 1.0, -(low + width), -low)
    assert isinstance(upper, Narrow)
    assert lower == Narrow(-1, upper.start, upper.span, upper.exponent)


def test_a_window_of_the_centre_is_measured_from_the_mean() -> None:
    low, high = (_phi(mpf(bound)) for bound in (-0.001, 0.002))
    assert window(0.0, 1.0, -0.001, 0.002) == Narrow(0, float(low - mpf("0.5")), float(high - low), 0)


def test_a_window_depends_on_its_distance_in_standard_deviations_only() -> None:
    assert window(1.0, 0.5, 2.0, 3.0) == window(0.0, 1.0, 2.0, 4.0)


@pytest.mark.parametrize(("low", "high"), [(1e9, 2e9), (-math.inf, -1e8), (1e300, math.inf)])
def test_a_window_beyond_all_distances_is_a_point(low: float, high: float) -> None:
    assert window(0.0, 1.0, low, high) == Remote()
