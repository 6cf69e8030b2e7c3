import math
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.nn.modules import activation as modules

from weightwell_engine import quadrature
from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.nonlinearities import NONLINEARITIES, calculate_gain
from weightwell_engine.quadrature import (
    ACTIVATIONS,
    SIGNIFICANT_DIGITS,
    ActivationGain,
    Parameter,
    activation_gain,
    activation_gains,
)

# What torch.nn.modules.activation holds besides functions of one number with defaults for all their parameters.
NOT_MEASURED = {
    "Threshold": "has no defaults",
    "GLU": "halves a dimension",
    "Softmin": "acts on a dimension",
    "Softmax": "acts on a dimension",
    "Softmax2d": "acts on a dimension",
    "LogSoftmax": "acts on a dimension",
    "MultiheadAttention": "has weights",
}
MODULES = {name.lower(): getattr(modules, name) for name in modules.__all__ if name not in NOT_MEASURED}
ODD = ["linear", "softsign", "tanh", "hardtanh", "tanhshrink", "softshrink", "hardshrink"]
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "gains.md"


def with_parameter() -> list[tuple[str, Parameter]]:
    return [(name, row.parameter) for name, row in ACTIVATIONS.items() if row.parameter]


def cases() -> list[tuple[str, float | None]]:
    """Every activation, at the default of its parameter and at both ends of its interval."""
    rows = [(name, row.parameter) for name, row in ACTIVATIONS.items()]
    return [(name, value) for name, p in rows for value in ((p.default, p.low, p.high) if p else (None,))]


def values(parameter: Parameter) -> st.SearchStrategy[float]:
    """The interval of a parameter, on the scale on which its effect varies."""
    if parameter.low > 0.0:
        exponents = st.floats(math.log(parameter.low), math.log(parameter.high))
        return exponents.map(lambda x: min(max(math.exp(x), parameter.low), parameter.high))
    return st.floats(parameter.low, parameter.high) | st.floats(max(parameter.low, -2.0), 2.0)


@cache
def exact(name: str, value: float | None) -> dict[str, mpmath.mpf]:
    """Return the gains of an activation by mpmath, to 25 digits, from the formula in its row and nothing else."""
    row = ACTIVATIONS[name]
    code = compile(row.formula, name, "eval")
    scope = {f: getattr(mpmath, f) for f in ("exp", "log", "tanh", "sqrt", "pi")} | {"Phi": mpmath.ncdf}
    given = {row.parameter.name: mpmath.mpf(value)} if row.parameter else {}

    def moments(z: mpmath.mpf) -> mpmath.mpc:
        f = eval(code, scope, given | {"z": z})  # noqa: S307 - the formulas are ours
        return mpmath.mpc(f, f * f) * mpmath.npdf(z)

    kinks = [x for x in row.kinks(*given.values()) if abs(x) < 16]
    knots = [sign * mpmath.mpf(x) for x in (0, 0.001, 0.01, 0.1, 1, 2, 3, 4, 6, 8, 10, 16) for sign in (1, -1)]
    with mpmath.workdps(25):
        both = mpmath.quad(moments, sorted({*knots, *kinks}), method="gauss-legendre")
        mean, second_moment = both.real, both.imag
        gain, std_ratio = 1 / mpmath.sqrt(second_moment), 1 / mpmath.sqrt(second_moment - mean**2)
    return {"gain": gain, "std_ratio": std_ratio, "mean": mean, "second_moment": second_moment}


def scales(result: ActivationGain) -> dict[str, float]:
    """Return the size that the last digit of each number is counted from: its own, and for the mean that of f(z)."""
    own = {number: getattr(result, number) for number in ("gain", "std_ratio", "second_moment")}
    return own | {"mean": math.sqrt(result.second_moment)}


def last_place(scale: float) -> float:
    return 10.0 ** (math.floor(math.log10(scale)) + 1 - SIGNIFICANT_DIGITS)


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show every digit of a double, not only those that are promised."""
    monkeypatch.setattr(quadrature, "SIGNIFICANT_DIGITS", 17)


def assert_exact(name: str, value: float | None) -> None:
    result = activation_gain(name, param=value)
    for number, scale in scales(result).items():
        assert abs(getattr(result, number) - exact(name, value)[number]) <= 1e-14 * scale, number


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize(("name", "value"), [*cases(), ("softplus", 12.0)])  # torch's threshold shows most near 12
def test_every_number_is_right_to_fourteen_digits(name: str, value: float | None) -> None:
    assert_exact(name, value)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize(("name", "parameter"), with_parameter())
def test_every_number_is_right_wherever_the_parameter_lies_in_its_interval(name: str, parameter: Parameter) -> None:
    @settings(max_examples=12, deadline=None)
    @given(values(parameter))
    def check(value: float) -> None:
        assert_exact(name, value)

    check()


@pytest.mark.parametrize(("name", "result"), activation_gains().items())
def test_no_number_shows_more_digits_than_are_promised(name: str, result: ActivationGain) -> None:
    shown = {number: getattr(result, number) for number in scales(result)}
    assert shown == {number: float(f"{value:.{SIGNIFICANT_DIGITS}g}") for number, value in shown.items()}, name


@pytest.mark.parametrize(("name", "result"), activation_gains().items())
def test_no_default_lies_where_the_last_bits_could_turn_a_digit(name: str, result: ActivationGain) -> None:
    truth = exact(name, *result.parameters.values()) if result.parameters else exact(name, None)
    for number, scale in scales(result).items():
        room = 0.5 * last_place(scale) - abs(getattr(result, number) - truth[number])
        assert room > 100 * math.ulp(scale), number


@pytest.mark.parametrize(("name", "value"), cases())
def test_a_function_is_that_of_torch_under_the_parameter_name_of_torch(name: str, value: float | None) -> None:
    row = ACTIVATIONS[name]
    special: dict[str, Callable[..., torch.Tensor]] = {
        "linear": torch.nn.Identity(),
        "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
        "prelu": lambda z, weight: functional.prelu(z, torch.tensor(weight, dtype=z.dtype)),
    }
    oracle = special.get(name) or getattr(functional, name)
    named = {row.parameter.name: value} if row.parameter else {}
    z = np.linspace(-12.0, 12.0, 2401)
    np.testing.assert_allclose(row.function(z, *named.values()), oracle(torch.from_numpy(z), **named), 1e-14, 2e-15)


def test_every_activation_module_of_torch_is_measured_or_left_out_for_a_reason() -> None:
    assert set(MODULES) == {name.replace("_", "") for name in ACTIVATIONS} - {"linear", "gelutanh"}


@pytest.mark.parametrize(("name", "parameter"), with_parameter())
def test_a_default_is_that_of_torch(name: str, parameter: Parameter) -> None:
    default = getattr(MODULES[name.replace("_", "")](), parameter.name)
    assert parameter.default == (default.item() if isinstance(default, torch.Tensor) else default)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6))
def test_measure_and_recommendation_agree_on_leaky_relu_at_every_slope(slope: float) -> None:
    measured = activation_gain("leaky_relu", negative_slope=slope).gain
    assert measured == pytest.approx(calculate_gain("leaky_relu", slope), rel=5e-12, abs=0.0)


@pytest.mark.parametrize("name", [name for name in NONLINEARITIES if not name.startswith("conv")])
def test_measure_and_recommendation_agree_where_torch_follows_a_formula_and_nowhere_else(name: str) -> None:
    agree = math.isclose(activation_gain(name).gain, calculate_gain(name), rel_tol=0.04)
    assert agree == (name in {"linear", "identity", "relu", "leaky_relu"})


@settings(deadline=None)
@given(st.floats(-1e3, 1e3))
def test_the_moments_of_elu_are_those_of_its_closed_form(alpha: float) -> None:
    below = [math.exp(k * k / 2) * 0.5 * math.erfc(k / math.sqrt(2)) for k in range(3)]  # E[e^(kz); z < 0]
    result = activation_gain("elu", alpha=alpha)
    assert result.mean == pytest.approx(1 / math.sqrt(2 * math.pi) + alpha * (below[1] - below[0]), abs=1e-9)
    assert result.second_moment == pytest.approx(0.5 + alpha**2 * (below[2] - 2 * below[1] + below[0]), rel=1e-11)


@settings(deadline=None)
@given(st.floats(0.0, 5.0))
def test_the_second_moments_of_the_shrinks_are_those_of_their_closed_forms(lambd: float) -> None:
    density, tail = math.exp(-(lambd**2) / 2) / math.sqrt(2 * math.pi), 0.5 * math.erfc(lambd / math.sqrt(2))
    hard, soft = 2 * (lambd * density + tail), 2 * ((1 + lambd**2) * tail - lambd * density)
    assert activation_gain("hardshrink", lambd=lambd).second_moment == pytest.approx(hard, rel=1e-11)
    assert activation_gain("softshrink", lambd=lambd).second_moment == pytest.approx(soft, rel=1e-9)


def test_selu_keeps_mean_zero_and_variance_one() -> None:
    assert activation_gain("selu") == ActivationGain("selu", {}, gain=1.0, std_ratio=1.0, mean=0.0, second_moment=1.0)


def test_the_constants_of_selu_are_those_of_its_fixed_point() -> None:
    with mpmath.workdps(30):
        # Mean 0 and variance 1 in elu's closed form; `one` and `two` are 2 E[e^z; z < 0] and 2 E[e^(2z); z < 0].
        one, two = mpmath.erfc(mpmath.sqrt(0.5)) * mpmath.exp(0.5), mpmath.erfc(mpmath.sqrt(2)) * mpmath.exp(2)
        alpha = mpmath.sqrt(2 / mpmath.pi) / (1 - one)
        scale = mpmath.sqrt(2 / (1 + alpha**2 * (two - 2 * one + 1)))
    assert ACTIVATIONS["selu"].formula.startswith(f"{float(scale)} * (max(z, 0) + {float(alpha)} * ")


@pytest.mark.parametrize("name", ODD)
def test_an_odd_function_has_exactly_mean_zero_and_one_gain(name: str) -> None:
    result = activation_gain(name)
    assert str(result.mean) == "0.0"
    assert result.gain == result.std_ratio


@pytest.mark.parametrize(
    ("name", "gamma"),
    # Sampled by the authors of Brock et al. 2021, arXiv:2101.08692, and released with their code.
    [
        ("celu", 1.2709),
        ("gelu", 1.7015),
        ("logsigmoid", 1.9193),
        ("relu", 1.7140),
        ("sigmoid", 4.8038),
        ("silu", 1.7881),
    ],
)
def test_a_std_ratio_agrees_with_the_sampled_value_of_nfnets(name: str, gamma: float) -> None:
    assert activation_gain(name).std_ratio == pytest.approx(gamma, rel=2e-3)


def test_the_whole_table_is_every_activation_at_its_default() -> None:
    assert activation_gains() == {name: activation_gain(name) for name in ACTIVATIONS}


@pytest.mark.parametrize(("alias", "name"), [("identity", "linear"), ("swish", "silu")])
def test_an_alias_is_answered_under_the_name_of_torch(alias: str, name: str) -> None:
    assert activation_gain(alias) == activation_gain(name)
    assert activation_gain(alias).nonlinearity == name


@pytest.mark.parametrize(("name", "parameter"), with_parameter())
def test_a_parameter_goes_by_the_name_of_torch_or_by_param(name: str, parameter: Parameter) -> None:
    named = activation_gain(name, **{parameter.name: parameter.high})
    assert named == activation_gain(name, param=parameter.high)
    assert named.parameters == {parameter.name: parameter.high}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_parameter_that_is_none_stands_for_the_default(name: str) -> None:
    assert activation_gain(name, param=None) == activation_gain(name)


def test_a_mean_that_rounds_to_zero_has_no_sign() -> None:
    assert str(activation_gain("elu", alpha=1.67326324235438).mean) == "0.0"


def test_a_result_belongs_to_its_caller() -> None:
    activation_gain("elu").parameters.clear()
    assert activation_gain("elu").parameters == {"alpha": 1.0}


@pytest.mark.parametrize("name", ["ReLU", "conv2d", "softmax", "threshold", ""])
def test_an_unknown_activation_is_refused_with_the_list_of_known_ones(name: str) -> None:
    with pytest.raises(InvalidSpec, match="nonlinearity must be one of linear, identity, relu, ") as caught:
        activation_gain(name)
    assert all(known in caught.value.expected for known in ACTIVATIONS)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e7, True, "1"])
@pytest.mark.parametrize(("name", "parameter"), with_parameter())
def test_a_value_outside_the_interval_is_refused(name: str, parameter: Parameter, bad: float) -> None:
    with pytest.raises(InvalidSpec, match=rf"^{parameter.name} must be a number in \[.+, .+\], got "):
        activation_gain(name, **{parameter.name: bad})


@pytest.mark.parametrize("name", [name for name, row in ACTIVATIONS.items() if not row.parameter])
def test_a_parameter_is_refused_where_none_is_taken(name: str) -> None:
    with pytest.raises(InvalidSpec, match=f"param must be absent, since {name} takes no parameter, got 0.5"):
        activation_gain(name, param=0.5)


def test_a_parameter_of_another_name_is_refused_with_the_right_one() -> None:
    with pytest.raises(InvalidSpec, match=r"beta must be absent, since elu takes alpha, got 2\.0"):
        activation_gain("elu", beta=2.0)


def test_a_parameter_that_is_given_twice_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="param must be absent where the parameter is given by its name"):
        activation_gain("elu", alpha=2.0, param=2.0)


def test_gains_need_no_torch() -> None:
    program = f"import sys; sys.path[:] = {sys.path}\n"
    program += "import weightwell_engine.nonlinearities, weightwell_engine.quadrature; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def documentation(after: str, before: str) -> list[str]:
    """Return the rows of the tables between two lines of the documentation."""
    section = DOCUMENTATION.read_text(encoding="utf-8").partition(f"\n{after}\n")[2].partition(f"\n{before}\n")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def documented(result: ActivationGain) -> str:
    row = ACTIVATIONS[result.nonlinearity]
    p = row.parameter
    parameter = f"`{p.name}` = {p.default:g}, in [{p.low:g}, {p.high:g}]" if p else "-"
    numbers = (result.gain, result.std_ratio, result.mean, result.second_moment)
    return f"| `{row.name}` | `{row.formula}` | {parameter} | {' | '.join(map(str, numbers))} |"


def test_the_documentation_holds_the_table() -> None:
    rows = documentation("## Gains by quadrature (source=quadrature)", "### Deep stacks")
    assert rows == [documented(result) for result in activation_gains().values()]


def test_the_documentation_tells_measure_and_recommendation_apart_by_their_numbers() -> None:
    def compared(name: str) -> str:
        result = activation_gain(name)
        return f"| `{name}` | {calculate_gain(name):.4f} | {result.gain:.4f} | {result.std_ratio:.4f} |"

    rows = documentation("## The two sources compared", "## Gains from torch (source=torch)")
    assert rows == [compared(name) for name in ("relu", "tanh", "sigmoid", "selu")]
