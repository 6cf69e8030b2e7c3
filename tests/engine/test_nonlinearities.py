import math
from fractions import Fraction
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.nonlinearities import NONLINEARITIES, calculate_gain, gains, nonlinearity

TORCH_NAMES = [name for name in NONLINEARITIES if name != "identity"]
WITHOUT_PARAM = [name for name, row in NONLINEARITIES.items() if row.param is None]
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "gains.md"

# Enough slopes to meet some whose square pow does not round to the nearest float: about one in 1,200 in glibc.
DENSE = np.random.default_rng(0).uniform(-2.0, 2.0, 50_000).tolist()

slopes = st.floats(min_value=-1e154, max_value=1e154) | st.floats(min_value=-4, max_value=4)


def refusal(*args: object) -> str:
    """Return torch's error message for these arguments."""
    with pytest.raises(ValueError, match=r"Unsupported|not a valid number") as caught:
        torch.nn.init.calculate_gain(*args)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_table_holds_every_nonlinearity_that_torch_declares() -> None:
    assert set(TORCH_NAMES) == set(get_args(torch.nn.init._NonlinearityType))


@pytest.mark.parametrize("name", TORCH_NAMES)
def test_a_gain_has_the_bits_of_torch(name: str) -> None:
    assert calculate_gain(name).hex() == float(torch.nn.init.calculate_gain(name)).hex()  # type: ignore[arg-type]


@given(slopes | st.integers(min_value=-(2**64), max_value=2**64))
def test_the_gain_of_leaky_relu_has_the_bits_of_torch_at_every_slope(slope: float) -> None:
    assert calculate_gain("leaky_relu", slope).hex() == torch.nn.init.calculate_gain("leaky_relu", slope).hex()


@pytest.mark.parametrize(
    ("name", "gain"), [("linear", 1.0), ("tanh", 1.6666666666666667), ("relu", 1.4142135623730951), ("selu", 0.75)]
)
def test_a_gain_is_the_number_that_torch_documents(name: str, gain: float) -> None:
    assert calculate_gain(name) == gain


def test_identity_is_linear_by_another_name_which_torch_does_not_know() -> None:
    assert refusal("identity")
    assert calculate_gain("identity") == calculate_gain("linear")


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_a_formula_computes_the_gain_in_the_same_row(name: str) -> None:
    row = nonlinearity(name)
    scope = {"sqrt": math.sqrt, str(row.param): row.default}
    assert eval(row.formula, scope) == row.gain  # noqa: S307 - the formulas are ours


def test_the_whole_table_is_every_gain_without_a_parameter() -> None:
    assert gains() == {name: calculate_gain(name) for name in NONLINEARITIES}


def test_the_gain_of_leaky_relu_has_the_bits_of_torch_also_where_pow_misses_the_nearest_square() -> None:
    ours = [calculate_gain("leaky_relu", slope) for slope in DENSE]
    assert ours == [torch.nn.init.calculate_gain("leaky_relu", slope) for slope in DENSE]


def test_a_portable_gain_does_not_depend_on_pow() -> None:
    squares = [float(Fraction(slope) ** 2) for slope in DENSE]
    ours = [calculate_gain("leaky_relu", slope, portable=True) for slope in DENSE]
    assert ours == [math.sqrt(2.0 / (1.0 + square)) for square in squares]


@given(slopes)
def test_a_portable_gain_squares_the_slope_to_the_nearest_float(slope: float) -> None:
    square = float(Fraction(slope) ** 2)
    assert calculate_gain("leaky_relu", slope, portable=True) == math.sqrt(2.0 / (1.0 + square))


@given(slopes)
def test_a_portable_gain_is_at_most_an_ulp_from_that_of_torch(slope: float) -> None:
    gain = calculate_gain("leaky_relu", slope)
    assert abs(calculate_gain("leaky_relu", slope, portable=True) - gain) <= math.ulp(gain)


@pytest.mark.parametrize("name", ["gelu", "silu", "ReLU", "Identity", "leaky-relu", ""])
def test_an_unknown_nonlinearity_is_refused_in_the_words_of_torch(name: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        calculate_gain(name)
    assert caught.value.field == "nonlinearity"
    assert caught.value.detail == refusal(name)
    assert all(known in caught.value.expected for known in NONLINEARITIES)


@pytest.mark.parametrize("param", [True, False, "0.2", [0.2]])
def test_a_slope_that_is_no_number_is_refused_in_the_words_of_torch(param: object) -> None:
    with pytest.raises(InvalidSpec) as caught:
        calculate_gain("leaky_relu", param)  # type: ignore[arg-type]
    assert caught.value.field == "param"
    assert caught.value.detail == refusal("leaky_relu", param)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("param", [math.nan, math.inf, -math.inf, 1e200, 10**200])
def test_a_slope_without_a_positive_gain_is_refused(param: float, portable: bool) -> None:
    with pytest.raises(InvalidSpec, match=r"param must be a finite number of size less than 1\.3e154"):
        calculate_gain("leaky_relu", param, portable=portable)


@pytest.mark.parametrize("name", WITHOUT_PARAM)
def test_a_parameter_is_refused_where_none_is_taken(name: str) -> None:
    with pytest.raises(InvalidSpec, match=f"param must be absent, since {name} takes no parameter, got 0.2"):
        calculate_gain(name, 0.2)


def test_the_documentation_holds_the_table() -> None:
    page = DOCUMENTATION.read_text(encoding="utf-8")
    section = page.partition("\n## Gains from torch (source=torch)\n")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("| `")] == [
        f"| `{row.name}` | `{row.formula}` | {row.gain} | {row.reference} |" for row in NONLINEARITIES.values()
    ]
