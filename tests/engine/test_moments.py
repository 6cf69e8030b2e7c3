import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from weightwell_engine.moments import truncated_normal


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
    mean, std = truncated_normal(0.0, 1.0, *bounds)
    assert (mean, std) == pytest.approx(exact(*bounds), rel=1e-13, abs=1e-15)


@given(st.floats(-5, 5), st.floats(1e-3, 10), st.floats(-9, 9), st.floats(1e-3, 9))
def test_a_truncated_normal_has_the_moments_that_scipy_finds(mean: float, std: float, low: float, width: float) -> None:
    theirs = stats.truncnorm(low, low + width, loc=mean, scale=std)
    found = truncated_normal(mean, std, mean + low * std, mean + (low + width) * std)
    assert found == pytest.approx((float(theirs.mean()), float(theirs.std())), rel=1e-5, abs=1e-5 * std)


def test_what_is_symmetric_has_its_mean_in_the_middle() -> None:
    assert truncated_normal(0.0, 0.02, -2.0, 2.0)[0] == 0.0
