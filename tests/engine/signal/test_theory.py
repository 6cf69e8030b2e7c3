"""Theory of stacks: verdicts, fixed points, depth scales, and where theory does not apply."""

import math
from itertools import pairwise
from typing import Any

import pytest

from weightwell_engine.parsing import read_signal
from weightwell_engine.signal.answer import LayerTheory, StackTheory
from weightwell_engine.signal.theory import predict, theory_of


def predicted(**fields: Any) -> tuple[tuple[LayerTheory, ...], StackTheory]:
    stack = read_signal(fields)
    layers = predict(stack)
    return layers, theory_of(stack, layers)


def test_tanh_with_the_gain_of_torch_is_chaotic() -> None:
    layers, theory = predicted(depth=60, activation="tanh", scheme="xavier_normal", gain=5 / 3)
    assert theory.at_fixed_point
    assert theory.q is not None
    assert theory.chi_1 is not None
    assert (round(theory.q, 5), round(theory.chi_1, 5), theory.verdict) == (1.17848, 1.20983, "chaotic")
    assert [(round(each.q, 5), each.stability) for each in theory.fixed_points or ()] == [
        (0.0, "unstable"),
        (1.17848, "stable"),
    ]
    assert layers[-1].q == pytest.approx(theory.q, rel=1e-9)
    assert theory.correlation_fixed_point == 0.0


def test_tanh_at_the_edge_is_critical() -> None:
    weights: dict[str, Any] = {"scheme": "normal", "std": math.sqrt(1.76095464) / 16}
    _, theory = predicted(activation="tanh", bias="normal", bias_std=math.sqrt(0.05), **weights)
    assert theory.verdict == "critical"
    assert theory.edge_of_chaos is not None
    assert theory.edge_of_chaos.weight_variance == pytest.approx(theory.weight_variance, rel=1e-6)
    assert theory.q == pytest.approx(0.57005, abs=1e-5)


@pytest.mark.parametrize("scheme", ["kaiming_normal", "kaiming_uniform", "orthogonal"])
@pytest.mark.parametrize("input_std", [1e-3, 1.0, 1e3])
def test_kaiming_with_a_rectifier_is_critical_for_every_q(scheme: str, input_std: float) -> None:
    parameters = {"gain": math.sqrt(2)} if scheme == "orthogonal" else {}
    layers, theory = predicted(scheme=scheme, depth=20, input_std=input_std, **parameters)
    assert (theory.verdict, theory.every_q_is_fixed, theory.fixed_points) == ("critical", True, ())
    assert all(each.q == pytest.approx(2 * input_std**2, rel=1e-9) for each in layers)
    assert all(each.backward_rms == pytest.approx(1.0, rel=1e-9) for each in layers)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_a_small_signal_goes_on_to_fall(activation: str) -> None:
    layers, _ = predicted(activation=activation, scheme="normal", std=0.5 / 16, depth=100)
    variances = [layer.q or 0.0 for layer in layers]
    assert variances[-1] < 1e-50
    # A rectifier passes half of the variance on, gelu a quarter near 0, and tanh all of it.
    factor = {"relu": 0.125, "tanh": 0.25, "gelu": 0.0625}[activation]
    assert [after / before for before, after in pairwise(variances[40:])] == pytest.approx([factor] * 59, rel=1e-9)


def test_small_weights_are_ordered() -> None:
    _, theory = predicted(activation="tanh", scheme="normal", std=0.8 / 16, bias="normal", bias_std=0.1)
    assert theory.verdict == "ordered"
    assert theory.correlation_fixed_point == 1.0
    assert theory.chi_1 is not None
    assert theory.xi_c == pytest.approx(-1 / math.log(theory.chi_1))


@pytest.mark.parametrize(("weight_variance", "bias_variance"), [(0.64, 0.01), (1.4, 0.05), (3.0, 0.05)])
def test_depth_scales_are_the_rates_at_which_layers_approach_the_fixed_points(
    weight_variance: float, bias_variance: float
) -> None:
    std = {"scheme": "normal", "std": math.sqrt(weight_variance) / 16}
    bias = {"bias": "normal", "bias_std": math.sqrt(bias_variance)}
    layers, theory = predicted(depth=400, activation="tanh", input_std=0.6, correlation=0.9, **std, **bias)
    limit = theory.correlation_fixed_point
    assert limit is not None
    assert theory.xi_c is not None
    away = [abs((each.correlation or 0.0) - limit) for each in layers]
    at = next(place for place, each in enumerate(away) if each < 1e-5)
    assert -1 / math.log(away[at + 1] / away[at]) == pytest.approx(theory.xi_c, rel=0.02)


def test_points_of_the_maps_are_there_to_plot() -> None:
    _, theory = predicted(activation="tanh", scheme="xavier_normal", gain=5 / 3)
    assert theory.variance_map is not None
    assert theory.correlation_map is not None
    assert len(theory.variance_map.q) == len(theory.variance_map.next) == 41
    assert (theory.correlation_map.c[0], theory.correlation_map.c[-1]) == (-1.0, 1.0)
    assert theory.correlation_map.next[-1] == pytest.approx(1.0)
    assert theory.correlation_map.next[0] == pytest.approx(-1.0)
    assert list(theory.variance_map.next) == sorted(theory.variance_map.next)


def test_a_measured_gain_of_gelu_grows_without_bound() -> None:
    """The rms of the pre-activations of 100 layers of width 1024 is some 5e3, as measured in the issue."""
    layers, theory = predicted(depth=100, scheme="kaiming_normal", nonlinearity="gelu", gain_source="quadrature",
                               activation="gelu", width=1024)  # fmt: skip
    assert theory.at_fixed_point is False
    assert theory.reason is not None
    assert "grows without bound" in theory.reason
    assert 1e3 < math.sqrt(layers[-1].q or 0.0) < 1e4


def test_weights_of_std_1_overflow_in_theory_too() -> None:
    layers, _ = predicted(depth=100, scheme="normal", std=1.0)
    assert layers[0].q == 256.0
    assert layers[-1].q is None
    assert "overflows in layer 72" in (layers[-1].reason or "")


def test_a_normalized_layer_forgets_the_variance_before() -> None:
    layers, theory = predicted(normalization="layer", input_std=50.0)
    assert layers[5].q == pytest.approx(1.0, rel=1e-4)
    assert theory.xi_q is not None
    assert theory.xi_q < 0.1
    assert theory.verdict == "critical"


def test_the_residual_stream_grows_by_the_same_amount_in_every_layer() -> None:
    layers, theory = predicted(normalization="layer", residual="pre-norm", depth=30)
    assert [each.q for each in layers] == pytest.approx([2.0 + place for place in range(30)], rel=1e-4)
    assert theory.verdict is None
    assert "polynomially" in (theory.reason or "")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"normalization": "batch"}, "batch normalization"),
        ({"kind": "conv2d", "normalization": "instance", "padding": "circular"}, "instance normalization"),
        ({"kind": "conv2d"}, "zeros around an image"),
        ({"scheme": "eye"}, "the weights of eye are not random"),
        ({"scheme": "normal", "mean": 0.1}, "the weights have a mean"),
        ({"bias": "constant", "bias_val": 1.0}, "the biases have a mean"),
        ({"residual": "post-norm", "input": "uniform"}, "before a residual connection"),
    ],
)
def test_where_theory_does_not_apply_it_says_why(fields: dict[str, Any], reason: str) -> None:
    layers, theory = predicted(depth=3, **fields)
    every: list[LayerTheory | StackTheory] = [*layers, theory]
    for each in every:
        assert each.reason is not None
        assert reason in each.reason
        assert each.q is None
        assert each.chi_1 is None


def test_layers_that_differ_have_predictions_and_no_common_map() -> None:
    layers, theory = predicted(layers=[{"width": 64, "repeat": 3}, {"width": 10, "activation": "tanh"}])
    assert all(each.reason is None and each.q is not None for each in layers)
    assert theory.variance_map is None
    assert "the layers differ" in (theory.reason or "")


def test_a_first_layer_of_another_shape_does_not_matter() -> None:
    _, theory = predicted(layers=[{"width": 64, "repeat": 5, "scheme": "xavier_normal"}], input_width=10)
    assert theory.weight_variance == pytest.approx(1.0)
    assert theory.variance_map is not None


def test_theory_ends_at_the_layer_to_which_it_does_not_apply() -> None:
    layers, _ = predicted(layers=[{"width": 8}, {"width": 8, "normalization": "batch"}, {"width": 8}])
    assert layers[0].reason is None
    assert layers[0].backward_rms is None
    assert layers[1].reason == layers[2].reason
    assert (layers[1].reason or "").startswith("layer 2: batch")
