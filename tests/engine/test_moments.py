import math

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from weightwell_engine.laws import Constant, Lattice, Law, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform
from weightwell_engine.moments import mean_std


def exact(low: float, high: float) -> tuple[float, float]:
    """Return mean and std of N(0, 1) truncated to bounds, by the closed forms with digits to spare."""
    with mpmath.workdps(80):
        a, b = mpmath.mpf(low), mpmath.mpf(high)
        tails = [mpmath.erfc(x / mpmath.sqrt(2)) for x in ((a, b) if a > 0 else (-b, -a))]
        mass = (tails[0] - tails[1]) / 2
        mean = (mpmath.npdf(a) - mpmath.npdf(b)) / mass
        variance = 1 + (a * mpmath.npdf(a) - b * mpmath.npdf(b)) / mass - mean**2
        return float(mean), float(mpmath.sqrt(variance))


@pytest.mark.parametrize(
    "bounds",
    [
        *((-2, 2), (-100, 100), (-5, 1), (0, 18), (2, 2.5), (1, 1 + 1e-6), (-3, 1e3)),
        *((8, 9), (8, 30), (37, 1e5), (-40, -39), (-1e-9, 1e-9)),
    ],
)
def test_a_truncated_normal_has_the_moments_of_the_closed_form(bounds: tuple[float, float]) -> None:
    mean, std = mean_std(TruncatedNormal(0.0, 1.0, *bounds), 1)
    assert (mean, std) == pytest.approx(exact(*bounds), rel=1e-13, abs=1e-15)


@given(st.floats(-5, 5), st.floats(1e-3, 10), st.floats(-9, 9), st.floats(1e-3, 9))
def test_a_truncated_normal_has_the_moments_that_scipy_finds(mean: float, std: float, low: float, width: float) -> None:
    law = TruncatedNormal(mean, std, mean + low * std, mean + (low + width) * std)
    theirs = stats.truncnorm(low, low + width, loc=mean, scale=std)
    found = mean_std(law, 1)
    assert found == pytest.approx((float(theirs.mean()), float(theirs.std())), rel=1e-5, abs=1e-5 * std)


def test_what_is_symmetric_has_its_mean_in_the_middle() -> None:
    assert mean_std(TruncatedNormal(0.0, 0.02, -2.0, 2.0), 1)[0] == 0.0


@given(
    *(st.floats(-1e300, 1e300) for _ in range(2)),
    *(st.floats(0, 1e300) for _ in range(2)),
)
def test_the_moments_are_finite_and_within_the_bounds(mean: float, low: float, std: float, width: float) -> None:
    law = TruncatedNormal(mean, max(std, 5e-324), low, low + width)
    found, deviation = mean_std(law, 1)
    assert law.low <= found <= law.high
    assert 0 <= deviation < math.inf


@pytest.mark.parametrize(
    ("law", "size", "moments"),
    [
        (Constant(-3.0), 5, (-3.0, 0.0)),
        (Normal(1.0, 0.5), 5, (1.0, 0.5)),
        (Uniform(-1.0, 3.0), 5, (1.0, 4 / math.sqrt(12))),
        (Lattice(2.0, 0, (16, 5), (1, 4)), 16, (0.5, math.sqrt(0.75))),
        (Lattice(2.0, 0, (0, 1), (1, 0)), 0, (0.0, 0.0)),
        (Sparse(8, 3, 6, 0.1), 24, (0.0, 0.05)),
        (Orthogonal(4, 16, -2.0), 64, (0.0, 0.5)),
        (Orthogonal(16, 4, 2.0, taps=9, centre=4), 576, (0.0, 0.5 / 3)),
    ],
)
def test_the_moments_of_a_law_are_those_of_its_elements(law: Law, size: int, moments: tuple[float, float]) -> None:
    assert mean_std(law, size) == pytest.approx(moments, rel=1e-15)


def test_a_uniform_law_over_all_that_there_is_does_not_overflow() -> None:
    largest = 1.7e308
    assert mean_std(Uniform(-largest, largest), 1) == pytest.approx((0.0, largest / math.sqrt(3)))
