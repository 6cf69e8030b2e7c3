import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.generators.philox.specification.draws import Variate, settle
from weightwell_engine.generators.philox.specification.formats import nearest
from weightwell_engine.laws import Normal, TruncatedNormal, Uniform

names = st.sampled_from(list(FLOATS))


@given(low=st.floats(-1e5, 1e5), width=st.floats(1e-3, 1e5), name=names)
def test_the_limits_of_a_draw_are_numbers_of_its_dtype(low: float, width: float, name: str) -> None:
    draw = settle(Uniform(low, low + width), DTYPES[name])
    assert nearest(draw.low, DTYPES[name]) == draw.low
    assert nearest(draw.high, DTYPES[name]) == draw.high
    assert draw.low <= draw.high


@given(low=st.floats(-1e300, 1e300), high=st.floats(-1e300, 1e300))
def test_a_uniform_law_is_centred_without_overflow(low: float, high: float) -> None:
    draw = settle(Uniform(min(low, high), max(low, high)), DTYPES["float64"])
    assert math.isfinite(draw.scale)
    assert math.isfinite(draw.shift)


def test_where_no_number_lies_between_the_bounds_the_nearest_one_is_drawn() -> None:
    draw = settle(TruncatedNormal(0.0, 1.0, 0.1, 0.1000001), DTYPES["bfloat16"])
    assert draw.low == draw.high == nearest(0.1, DTYPES["bfloat16"])


@pytest.mark.parametrize("name", list(FLOATS))
def test_what_is_beyond_a_dtype_saturates(name: str) -> None:
    draw = settle(Normal(0.0, 1e300), DTYPES[name])
    assert (draw.low, draw.high) == (-DTYPES[name].max, DTYPES[name].max)


@pytest.mark.parametrize("name", list(FLOATS))
@pytest.mark.parametrize("law", [TruncatedNormal(0.3, 0.0, 0.5, 1.0), TruncatedNormal(0.3, 2.0, 0.5, 0.5)])
def test_a_degenerate_truncated_normal_is_the_point_nearest_to_its_mean(name: str, law: TruncatedNormal) -> None:
    draw = settle(law, DTYPES[name])
    assert (draw.variate, draw.scale, draw.shift) == (Variate.UNIFORM, 0.0, 0.5)


def test_bounds_that_do_not_bind_leave_a_normal() -> None:
    free, bounded = settle(Normal(0.0, 1.0), DTYPES["float32"]), settle(TruncatedNormal(0, 1, -8, 8), DTYPES["float32"])
    assert bounded.variate is free.variate is Variate.NORMAL


def test_a_narrow_window_is_drawn_in_float64_for_every_dtype() -> None:
    assert settle(TruncatedNormal(0.0, 1.0, 3.0, 4.0), DTYPES["bfloat16"]).carrier.name == "float64"


@given(std=st.floats(5e-324, 1e-19), mean=st.floats(-1e-19, 1e-19))
def test_a_tiny_law_is_scaled_up_to_ordinary_numbers(std: float, mean: float) -> None:
    draw = settle(Normal(mean, std), DTYPES["float32"])
    assert 1 <= max(draw.scale, abs(draw.shift)) <= 2
    assert draw.exponent > 60


@given(std=st.floats(1e-15, 1e30))
def test_an_ordinary_law_is_left_as_it_is(std: float) -> None:
    assert settle(Normal(0.0, std), DTYPES["float32"]).exponent == 0
