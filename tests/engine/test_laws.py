import math
from typing import Any, get_args

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.laws import (
    KINDS,
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
    Values,
)

CLASSES: tuple[Any, ...] = get_args(Law)

STACK = OrthogonalStack(16, 4, 2.0, 9, 4, 3, (1728,), (1,))


def test_every_law_has_a_kind_of_its_own() -> None:
    assert tuple(each.kind for each in CLASSES) == KINDS
    assert len(set(KINDS)) == len(CLASSES)


def test_constants_lattices_and_values_alone_need_no_random_numbers() -> None:
    assert [each for each in CLASSES if each.is_deterministic] == [Constant, Lattice, Values]


@pytest.mark.parametrize(
    ("law", "size", "text"),
    [
        (Constant(0.25), 3, "0.25 everywhere"),
        (Uniform(-0.0441941, 0.0441941), 3, "uniform in [-0.0442, 0.0442]"),
        (Normal(0.0, 0.02), 3, "normal with mean 0 and std 0.02"),
        (TruncatedNormal(0.0, 0.02, -2.0, 2.0), 3, "normal with mean 0 and std 0.02, truncated to [-2, 2]"),
        (ClampedNormal(0.0, 0.02, -0.04, 0.04), 3, "normal with mean 0 and std 0.02, clamped to [-0.04, 0.04]"),
        (Lattice(1.0, 0, (12, 5), (1, 3)), 12, "1 at 3 of 12 places, 0 at the others"),
        (Values((0.5,), (), ()), 1, "1 given number in [0.5, 0.5]"),
        (Values((0.5, -1.0), (3, 2), (0, 1)), 6, "2 given numbers in [-1, 0.5], each at 3 places"),
        (Sparse(8, 3, 6, 0.1), 24, "normal with std 0.1, but 6 of the 8 elements of every column are 0"),
        (Orthogonal(4, 16, 2.0), 64, "2 times a random orthogonal matrix of 4 x 16"),
        (Orthogonal(4, 4, 1.0, 9, 4), 144, "1 times a random orthogonal matrix of 4 x 4 in the middle of the kernel"),
        (OrthogonalStack(4, 3, 2.0, 1, 0, 1, (3, 4), (1, 3)), 12, "2 times a random orthogonal matrix of 4 x 3"),
        (STACK, 1728, "2 times 3 independent random orthogonal matrices of 16 x 4 in the middle of each kernel"),
    ],
)
def test_a_law_is_said_in_words(law: Law, size: int, text: str) -> None:
    assert law.words(size) == text


@pytest.mark.parametrize(
    ("law", "size", "moments"),
    [
        (Constant(-3.0), 5, (-3.0, 0.0)),
        (Normal(1.0, 0.5), 5, (1.0, 0.5)),
        (Uniform(-1.0, 3.0), 5, (1.0, 4 / math.sqrt(12))),
        (Lattice(2.0, 0, (16, 5), (1, 4)), 16, (0.5, math.sqrt(0.75))),
        (Values((1.0, 3.0), (2, 5), (1, 0)), 10, (2.0, 1.0)),
        (Values((1e308, -1e308, 0.0, 0.0), (4,), (1,)), 4, (0.0, 1e308 * math.sqrt(0.5))),
        (Lattice(2.0, 0, (0, 1), (1, 0)), 0, (0.0, 0.0)),
        (Sparse(8, 3, 6, 0.1), 24, (0.0, 0.05)),
        (Orthogonal(4, 16, -2.0), 64, (0.0, 0.5)),
        (Orthogonal(16, 4, 2.0, taps=9, centre=4), 576, (0.0, 0.5 / 3)),
        (STACK, 1728, (0.0, 0.5 / 3)),
    ],
)
def test_mean_and_std_are_those_of_an_element(law: Law, size: int, moments: tuple[float, float]) -> None:
    assert law.mean_std(size) == pytest.approx(moments, rel=1e-15)


def test_a_uniform_law_over_all_that_there_is_does_not_overflow() -> None:
    largest = 1.7e308
    assert Uniform(-largest, largest).mean_std(1) == pytest.approx((0.0, largest / math.sqrt(3)))


@given(
    *(st.floats(-1e300, 1e300) for _ in range(2)),
    *(st.floats(0, 1e300) for _ in range(2)),
)
def test_the_mean_of_a_truncated_normal_is_within_its_bounds(mean: float, low: float, std: float, width: float) -> None:
    law = TruncatedNormal(mean, max(std, 5e-324), low, low + width)
    found, deviation = law.mean_std(1)
    assert law.low <= found <= law.high
    assert 0 <= deviation < math.inf


@given(
    *(st.floats(-1e300, 1e300) for _ in range(2)),
    *(st.floats(0, 1e300) for _ in range(2)),
)
def test_the_mean_of_a_clamped_normal_is_within_its_bounds(mean: float, low: float, std: float, width: float) -> None:
    law = ClampedNormal(mean, max(std, 5e-324), low, low + width)
    found, deviation = law.mean_std(1)
    assert law.low <= found <= law.high
    assert 0 <= deviation < math.inf


@pytest.mark.parametrize(("low", "high"), [(-2, 2), (-1, 3), (0.5, 1), (2, 7), (-9, 9), (-3, -2.5), (-1e-3, 2e-3)])
def test_the_moments_of_a_clamped_normal_are_its_integrals(low: float, high: float) -> None:
    with mpmath.workdps(40):
        below, above = mpmath.ncdf(low), mpmath.ncdf(-high)
        mean, square = (
            below * mpmath.mpf(low) ** k
            + above * mpmath.mpf(high) ** k
            + mpmath.quad(lambda x, k=k: x**k * mpmath.npdf(x), mpmath.linspace(low, high, 9))
            for k in (1, 2)
        )
        expected = float(3 + mean / 2), float(mpmath.sqrt(square - mean**2) / 2)
    found = ClampedNormal(3.0, 0.5, 3 + low / 2, 3 + high / 2).mean_std(1)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("law", "extremes"),
    [
        (Constant(3.0), {("val", 3.0)}),
        (Lattice(2.0, 0, (16, 5), (1, 4)), {("val", 2.0)}),
        (Uniform(-1.0, 3.0), {("a", -1.0), ("b", 3.0), ("b", 4.0)}),
        (Normal(1.0, 0.5), {("mean", 1.0), ("std", 0.5)}),
        (TruncatedNormal(1.0, 0.5, -9.0, 9.0), {("mean", 1.0), ("std", 0.5)}),
        (ClampedNormal(1.0, 0.5, -9.0, 9.0), {("mean", 1.0), ("std", 0.5)}),
        (Sparse(8, 3, 6, 0.1), {("std", 0.1)}),
        (Orthogonal(4, 16, -2.0), {("gain", -2.0)}),
        (STACK, {("gain", 2.0)}),
    ],
)
def test_extremes_are_the_numbers_that_a_dtype_must_hold(law: Law, extremes: set[tuple[str, float]]) -> None:
    assert set(law.extremes()) == extremes
