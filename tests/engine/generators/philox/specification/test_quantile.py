"""The constants are derived again with 40 digits, and the maps are compared with mpmath and scipy."""

import math
from collections.abc import Callable, Sequence

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf
from scipy.special import ndtri

from weightwell_engine.generators.philox.specification import quantile

mp.dps = 40


def _interpolation(function: Callable[[mpf], mpf], low: mpf, high: mpf, degree: int, shift: int = 0) -> list[float]:
    """Return the polynomial in ``x + shift`` with a function's values at the Chebyshev nodes, rounded to float32."""
    angles = [mp.pi * (2 * i + 1) / (2 * degree + 2) for i in range(degree + 1)]
    nodes = [(low + high) / 2 + (high - low) / 2 * mpmath.cos(angle) for angle in angles]
    powers = mpmath.matrix([[(node + shift) ** j for j in range(degree + 1)] for node in nodes])
    values = mpmath.matrix([function(node) for node in nodes])
    return [float(np.float32(float(c))) for c in mpmath.lu_solve(powers, values)]


def _ratio(log: mpf) -> mpf:
    """Return z / v where log = log2(1 - v^2)."""
    v = mpmath.sqrt(-mpmath.expm1(log * mpmath.log(2)))
    tail = mpmath.power(2, log) / (1 + v)  # 1 - v
    start = mpmath.sqrt(2) * mpmath.erfinv(v) if tail > 0.01 else mpmath.sqrt(-2 * mpmath.log(tail))
    z = mpmath.findroot(lambda x: mpmath.log(mpmath.erfc(x / mpmath.sqrt(2))) - mpmath.log(tail), start)
    return z / v


def _singles(coefficients: Sequence[float]) -> list[float]:
    return [float(np.float32(c)) for c in coefficients]


def test_the_logarithm_interpolates_log2() -> None:
    low, high = mpmath.sqrt(mpf(1) / 2) - 1, mpmath.sqrt(2) - 1
    derived = _interpolation(lambda x: mpmath.log(1 + x, 2) / x, low, high, degree=7)
    assert derived == _singles(quantile.LOG2)


def test_the_centre_interpolates_the_quantile_function() -> None:
    assert _interpolation(_ratio, mpf(-9), mpf(0), degree=10) == _singles(quantile.CENTRE)


def test_the_tail_interpolates_the_quantile_function() -> None:
    derived = _interpolation(_ratio, mpf(-31), mpf(-9), degree=11, shift=int(quantile.TAIL_SHIFT))
    assert derived == _singles(quantile.TAIL)


def test_the_other_constants_have_the_values_of_their_names() -> None:
    assert np.float32(np.sqrt(0.5)).view(np.int32) == quantile.SQRT_HALF_32
    assert np.float64(np.sqrt(0.5)).view(np.int64) == quantile.SQRT_HALF_64
    assert float(mpmath.log(2)) == quantile.LN_2
    assert float(mpmath.log(2 * mp.pi)) == quantile.LN_2PI
    assert math.isclose(quantile.CENTRAL_BOUND**2, quantile.CENTRAL_SHIFT, rel_tol=1e-15)


@pytest.fixture(scope="module")
def words() -> np.ndarray:
    rng = np.random.default_rng(0)
    edges = [(1 << 31) + quantile.TAIL_BOUND, (1 << 32) - quantile.TAIL_BOUND, 1 << 31, 0, (1 << 32) - 4096]
    close = [np.arange(edge, edge + 4096) for edge in edges]
    return np.concatenate([*close, np.arange(0, 1 << 32, 4099), rng.integers(0, 1 << 32, 100_000)]).astype(np.uint32)


def test_a_float32_normal_is_within_five_units_in_the_last_place(words: np.ndarray) -> None:
    words |= np.uint32(1)
    middle = np.where(words >> 31, -((1 << 32) - words.astype(np.int64)), words.astype(np.int64))
    exact = np.sign(-middle) * -ndtri(np.abs(middle) * 2.0**-32)
    exact = np.where(words >> 31, np.abs(exact), -np.abs(exact))
    errors = np.abs(quantile.normal_singles(words) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert errors.max() < 5


def test_a_float32_normal_is_an_odd_function_of_its_word(words: np.ndarray) -> None:
    np.testing.assert_array_equal(quantile.normal_singles(~words), -quantile.normal_singles(words))


def test_a_float64_normal_is_an_odd_function_of_its_words(words: np.ndarray) -> None:
    low = words[::-1].copy()
    np.testing.assert_array_equal(quantile.normal_doubles(~words, ~low), -quantile.normal_doubles(words, low))


def test_float64_and_float32_normals_are_the_same_draws(words: np.ndarray) -> None:
    doubles = quantile.normal_doubles(words, np.full_like(words, 1 << 31))
    np.testing.assert_allclose(quantile.normal_singles(words | np.uint32(1)), doubles, rtol=0.2, atol=2e-9)
    ordinary = np.abs(doubles) < 4
    np.testing.assert_allclose(quantile.normal_singles(words)[ordinary], doubles[ordinary], rtol=2e-5, atol=2e-9)


@pytest.mark.parametrize("sigmas", [0.001, 0.5, 1.4, 1.44, 2, 5, 6.6, 6.7, 8, 20, 37.5, 37.7, 100, 1e4])
def test_the_tail_quantile_and_the_logarithm_are_good_to_1e_15(sigmas: float) -> None:
    tail = mpmath.erfc(mpf(sigmas) / mpmath.sqrt(2)) / 2
    exponent = -int(mpmath.floor(mpmath.log(tail, 2))) - 1
    log = quantile.log_tail(np.array([float(tail * mpmath.power(2, exponent))]), exponent)
    assert log[0] == pytest.approx(float(-mpmath.log(tail)), rel=1e-15)
    if sigmas < 1.44:
        assert quantile.signed_quantile(np.array([0.5 - float(tail)]))[0] == pytest.approx(sigmas, rel=1e-12)
    else:
        assert quantile.tail_quantile(log)[0] == pytest.approx(sigmas, rel=3e-15)


def test_a_float64_normal_is_good_to_1e_15() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 1 << 32, (2, 500), dtype=np.uint32)
    high[:100] = rng.integers(0, 1 << 12, 100)
    drawn = quantile.normal_doubles(high, low)
    for h, l_, z in zip(high.tolist(), low.tolist(), drawn.tolist(), strict=True):
        middle = mpf((h << 32 | l_ | 1) - (1 << 63)) / (1 << 63)
        assert z == pytest.approx(float(mpmath.sqrt(2) * mpmath.erfinv(middle)), rel=2e-15)
