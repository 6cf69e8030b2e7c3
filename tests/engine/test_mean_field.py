"""Mean-field theory of one layer: fixed points, chi_1, the correlation map and the edge of chaos."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate

from weightwell_engine.gains import measured_gain, measured_gains
from weightwell_engine.mean_field import Edge, edge_at, edge_for, gaussian, stability_of
from weightwell_engine.quadrature import ACTIVATIONS, BY_NAME, Activation, settle


def values_of(row: Activation) -> tuple[float, ...]:
    return tuple(settle(row, {}).values())


@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_a_derivative_is_the_limit_of_differences(row: Activation) -> None:
    z, values = np.linspace(-8.01, 8.03, 401), values_of(row)
    if row.derivative is None:
        assert row.name == "hardshrink"  # which has jumps
        return
    differences = (row.function(z + 1e-6, *values) - row.function(z - 1e-6, *values)) / 2e-6
    np.testing.assert_allclose(row.derivative(z, *values), differences, atol=1e-6)


# Computed for the issue that asked for them, with another program.
SLOPES = {"gelu": 1.144, "silu": 1.173, "hardswish": 1.224, "mish": 1.076, "tanhshrink": 1.826}


@pytest.mark.parametrize(("name", "slope"), SLOPES.items())
def test_the_fixed_point_of_a_measured_gain_is_unstable(name: str, slope: float) -> None:
    found = measured_gain(name)
    assert round(found.slope, 3) == slope
    assert found.stability == "unstable"


@pytest.mark.parametrize("name", ["tanh", "elu", "selu", "softsign", "sigmoid", "softplus"])
def test_the_fixed_point_of_a_measured_gain_is_stable(name: str) -> None:
    assert measured_gain(name).slope < 1
    assert measured_gain(name).stability == "stable"


@pytest.mark.parametrize("name", ["linear", "relu", "leaky_relu", "prelu", "rrelu"])
def test_a_piecewise_linear_function_through_0_keeps_every_variance(name: str) -> None:
    found = measured_gain(name)
    assert (found.slope, found.stability, found.chi_1) == (1.0, "marginal", 1.0)
    row = ACTIVATIONS[name]
    edge = edge_for(row, values_of(row), 0.0)
    assert edge is not None
    assert edge.q is None
    assert edge.weight_variance == pytest.approx(found.gain**2, rel=1e-9)


@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("q", [1e-3, 1.0, 1e4])
def test_the_slope_of_the_second_moment_is_the_limit_of_differences(row: Activation, q: float) -> None:
    def second_moment(at: float) -> float:
        return gaussian(row, values_of(row), at).second_moment

    step = 1e-4 * q
    difference = (second_moment(q + step) - second_moment(q - step)) / (2 * step)
    assert gaussian(row, values_of(row), q).second_moment_slope == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_tanh_is_critical_where_the_literature_has_it() -> None:
    """Schoenholz et al. 2017, arXiv:1611.01232, figure 1, which has bias variances of 0.05."""
    edge = edge_for(BY_NAME["tanh"], (), 0.05)
    assert edge is not None
    assert round(edge.weight_variance, 5) == 1.76095
    assert edge.q is not None
    assert round(edge.q, 5) == 0.57005
    at_edge = gaussian(BY_NAME["tanh"], (), edge.q)
    assert at_edge.squared_derivative is not None
    assert edge.weight_variance * at_edge.squared_derivative == pytest.approx(1.0, rel=1e-9)
    assert edge.weight_variance * at_edge.second_moment + 0.05 == pytest.approx(edge.q, rel=1e-9)


@pytest.mark.parametrize("name", [name for name, row in measured_gains().gains.items() if row.edge_of_chaos])
def test_the_edge_of_chaos_of_a_gain_has_chi_1_and_q_of_1(name: str) -> None:
    row = ACTIVATIONS[name]
    edge, f = edge_at(row, values_of(row), 1.0), gaussian(row, values_of(row), 1.0)
    assert edge is not None
    assert f.squared_derivative is not None
    assert edge.weight_variance * f.squared_derivative == pytest.approx(1.0)
    assert edge.weight_variance * f.second_moment + edge.bias_variance == pytest.approx(1.0)
    assert edge.bias_variance >= 0


def test_sigmoid_and_functions_with_jumps_have_no_edge_at_variance_1() -> None:
    without = {name for name, row in measured_gains().gains.items() if row.edge_of_chaos is None}
    assert without == {"softplus", "sigmoid", "logsigmoid", "hardsigmoid", "hardshrink"}
    assert {name for name, row in measured_gains().gains.items() if row.chi_1 is None} == {"hardshrink"}


def test_an_edge_is_chosen_by_its_bias_variance() -> None:
    found = measured_gain("tanh", bias_variance=0.05)
    assert found.edge_of_chaos == Edge(1.76095464, 0.05, 0.570047882, 0.518186484)
    assert measured_gain("relu", bias_variance=0.05).edge_of_chaos is None


def test_the_documentation_holds_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gains.md").read_text(encoding="utf-8")
    section = page.partition("### Deep stacks")[2].partition("### A measured gain in a scheme")[0]
    expected = []
    for name, row in measured_gains().gains.items():
        edge = row.edge_of_chaos
        chi = "-" if row.chi_1 is None else f"{row.chi_1:.4f}"
        pair = "-" if edge is None else f"{edge.weight_variance:.4f}, {edge.bias_variance:.4f}"
        expected.append(f"| `{name}` | {row.slope:.4f} | {row.stability} | {chi} | {pair} |")
    assert [line for line in section.splitlines() if line.startswith("| `")] == expected


@pytest.mark.parametrize("c", [-1.0, -0.999, -0.5, 0.0, 0.3, 0.9, 0.99, 0.999, 0.9999, 1.0])
@pytest.mark.parametrize("q", [0.3, 7.0])
def test_the_product_of_rectifiers_is_the_arc_cosine_kernel(q: float, c: float) -> None:
    """Cho & Saul 2009, Kernel Methods for Deep Learning, equation 6, n = 1."""
    exact = q * (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / (2 * math.pi)
    f = gaussian(BY_NAME["relu"], (), q)
    assert f.product(c) == pytest.approx(exact, abs=1e-4 * f.second_moment)


@pytest.mark.parametrize(("name", "c"), [("tanh", 0.6), ("gelu", 0.9), ("mish", -0.7), ("sigmoid", 0.4)])
def test_the_product_is_the_integral_over_two_normal_numbers(name: str, c: float) -> None:
    row, q = BY_NAME[name], 2.0

    def integrand(y: float, x: float) -> float:
        u, v = math.sqrt(q) * x, math.sqrt(q) * (c * x + math.sqrt(1 - c * c) * y)
        first, second = row.function(np.array([u, v])).tolist()
        return float(first * second * math.exp(-(x * x + y * y) / 2) / (2 * math.pi))

    exact, _ = integrate.dblquad(integrand, -8, 8, -8, 8, epsabs=1e-4, epsrel=1e-4)
    f = gaussian(row, (), q)
    assert f.product(c) == pytest.approx(exact, abs=3e-4 * f.second_moment)


@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_slope_of_the_product_at_1_is_chi(row: Activation) -> None:
    f = gaussian(row, values_of(row), 1.5)
    assert f.product(1.0) == pytest.approx(f.second_moment, rel=1e-9)
    if f.squared_derivative is not None:
        assert f.product_slope(1.0) == pytest.approx(1.5 * f.squared_derivative, rel=1e-6)


@pytest.mark.parametrize(
    ("slope", "expected"), [(0.5, "stable"), (-0.5, "stable"), (1.0, "marginal"), (1.2, "unstable"), (-3.0, "unstable")]
)
def test_stability_is_that_of_the_slope(slope: float, expected: str) -> None:
    assert stability_of(slope) == expected
