"""The distributions of an element are those of scipy."""

from math import inf

import numpy as np
import pytest
from scipy import stats

from weightwell_engine.distributions import Mixture, NormalPart, SpherePart, UniformPart

X = np.linspace(-3.0, 3.0, 61)


@pytest.mark.parametrize(
    ("part", "theirs"),
    [
        (UniformPart(-1.0, 2.0), stats.uniform(-1, 3)),
        (NormalPart(0.5, 0.7), stats.norm(0.5, 0.7)),
        (NormalPart(0.5, 0.7, -0.2, inf), stats.truncnorm(-1, inf, 0.5, 0.7)),
        (NormalPart(0.5, 0.7, 1.2, 2.6), stats.truncnorm(1, 3, 0.5, 0.7)),
        (NormalPart(0.5, 0.7, -1.6, -0.2), stats.truncnorm(-3, -1, 0.5, 0.7)),
        (NormalPart(0.0, 0.01, 0.3, 1.0), stats.truncnorm(30, 100, 0, 0.01)),
        (SpherePart(2.0, 2), stats.arcsine(-2, 4)),
        (SpherePart(2.0, 3), stats.uniform(-2, 4)),
        (SpherePart(2.0, 12), stats.beta(5.5, 5.5, -2, 4)),
    ],
    ids=lambda each: str(each) if isinstance(each, UniformPart | NormalPart | SpherePart) else "",
)
def test_a_part_is_that_of_scipy(part: UniformPart | NormalPart | SpherePart, theirs: stats.rv_continuous) -> None:
    x = np.unique([*X, *theirs.ppf(np.linspace(0.01, 0.99, 30))])
    assert np.allclose(part.below(x), theirs.cdf(x), atol=2e-4)
    mean, variance, skewness, excess = map(float, theirs.stats("mvsk"))
    assert part.moments == pytest.approx((mean, variance**0.5, skewness, excess + 3), rel=1e-2, abs=1e-6)
    low, high = part.support
    assert theirs.cdf(high) - theirs.cdf(low) == pytest.approx(1.0, abs=1e-12)


def test_a_mixture_has_atoms_that_count_above_them() -> None:
    mixture = Mixture.of([(1.0, 0.25), (0.0, 0.5)], UniformPart(-1.0, 1.0))
    assert mixture.below(np.array([-2.0, 0.0, 1e-9, 1.0, 2.0])) == pytest.approx([0.0, 0.125, 0.625, 0.75, 1.0])
    assert mixture.support == (-1.0, 1.0)


def test_a_mixture_has_the_moments_of_its_parts() -> None:
    mixture = Mixture.of([(1.0, 0.25)], NormalPart(0.0, 2.0))
    generator = np.random.default_rng(1)
    values = np.where(generator.random(10**6) < 0.25, 1.0, generator.normal(0, 2, 10**6))
    found = mixture.skewness_kurtosis(float(values.mean()), float(values.std()))
    assert found == pytest.approx((stats.skew(values), stats.kurtosis(values, fisher=False)), abs=0.03)


def test_a_constant_has_no_skewness() -> None:
    assert Mixture.of([(3.0, 1.0)]).skewness_kurtosis(3.0, 0.0) is None
