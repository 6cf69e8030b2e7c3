"""Measurement of signals: against torch by hand, and against theory."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.theory import NORMALIZATIONS, distances
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing import read_signal
from weightwell_engine.quadrature import ACTIVATIONS
from weightwell_engine.signal.answer import Signal, TensorSource
from weightwell_engine.signal.measurement import measure
from weightwell_engine.spec import Spec, TensorSpec


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small products are slower in several threads, if another process takes the cores
    yield Engine(Cpu(), threads=2)
    torch.set_num_threads(threads)


def measured(engine: Engine, **fields: Any) -> Signal:
    measuring = measure(read_signal(fields), engine)
    try:
        while True:
            next(measuring)
    except StopIteration as end:
        answer: Signal = end.value
        return answer


def drawn(engine: Engine, source: TensorSource, seed: int) -> torch.Tensor:
    """Draw a tensor as anyone does who reads the answer."""
    tensor = TensorSpec(source.name, source.shape, source.dtype, seed, source.scheme, source.parameters)
    file = engine.open(engine.plan(Spec("philox", (tensor,))))
    data = bytearray(file.read(len(file.plan.header), file.nbytes))
    return torch.frombuffer(data, dtype=getattr(torch, source.dtype)).reshape(source.shape)


# Against torch by hand -----------------------------------------------------------------------------------------------


def by_hand(engine: Engine, signal: Signal, seed: int, build: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield every place's output and its gradient, from modules of torch with the weights of the answer."""
    x = drawn(engine, signal.input.sources[0], seed).requires_grad_()
    outputs = [x]
    for layer in signal.layers:
        weight = drawn(engine, layer.weight, seed)
        bias = None if layer.bias is None else drawn(engine, layer.bias, seed)
        x = build(x, weight, bias)
        x.retain_grad()
        outputs.append(x)
    cotangent = TensorSpec("cotangent", tuple(x.shape), signal.dtype, seed, "normal", {"mean": 0.0, "std": 1.0})
    file = engine.open(engine.plan(Spec("philox", (cotangent,))))
    data = bytearray(file.read(len(file.plan.header), file.nbytes))
    torch.autograd.backward(x, torch.frombuffer(data, dtype=x.dtype).reshape(x.shape))
    for output in outputs:
        assert output.grad is not None
        yield output.detach().double(), output.grad.double()


def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.tanh(nn.functional.linear(x, weight, bias))


def normalized(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return nn.functional.gelu(nn.LayerNorm(x.shape[-1]).double()(nn.functional.linear(x, weight, bias)))


def pre_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x + nn.functional.linear(torch.relu(nn.RMSNorm(x.shape[-1]).double()(x)), weight, bias)


def post_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    after = x + nn.functional.linear(torch.relu(x), weight, bias)
    return nn.functional.group_norm(after, 4)


def convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    z = nn.functional.conv2d(x, weight, bias, padding=1)
    return nn.functional.silu(nn.BatchNorm2d(z.shape[1]).double()(z))


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (plain, {"activation": "tanh", "scheme": "xavier_normal", "bias": "normal", "bias_std": 0.1}),
    "layer": (normalized, {"activation": "gelu", "normalization": "layer"}),
    "pre-norm": (pre_norm, {"normalization": "rms", "residual": "pre-norm", "bias": "none"}),
    "post-norm": (post_norm, {"normalization": "group", "norm_groups": 4, "residual": "post-norm"}),
    "conv2d": (
        convolution,
        {"kind": "conv2d", "image_size": 5, "activation": "silu", "normalization": "batch", "input_width": 3},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_torch_with_the_weights_of_the_answer(engine: Engine, case: str) -> None:
    build, fields = CASES[case]
    signal = measured(engine, depth=3, width=16, batch=6, seeds=[7], dtype="float64", **fields)
    places = (signal.input, *signal.layers)
    for place, (output, gradient) in zip(places, by_hand(engine, signal, 7, build), strict=True):
        channels = output.mean((0, *range(2, output.ndim)))
        forward = place.forward
        assert forward.mean == pytest.approx(float(output.mean()), abs=1e-9)
        assert forward.std == pytest.approx(float(output.std(correction=0)), rel=1e-9)
        assert forward.rms == pytest.approx(float(output.square().mean().sqrt()), rel=1e-9)
        assert forward.largest == pytest.approx(float(output.abs().max()), rel=1e-12)
        assert forward.zeros == float((output == 0).double().mean())
        assert forward.channel_squared_mean == pytest.approx(float(channels.square().mean()), rel=1e-6)
        each = output.var((0, *range(2, output.ndim)), correction=0)
        assert forward.channel_variance == pytest.approx(float(each.mean()), rel=1e-6)
        assert place.backward.rms == pytest.approx(float(gradient.square().mean().sqrt()), rel=1e-9)
    last = signal.layers[-1].backward.rms
    assert last is not None
    assert signal.layers[0].backward.ratio == pytest.approx((signal.layers[0].backward.rms or 0.0) / last)


def test_saturated_units_have_small_derivatives(engine: Engine) -> None:
    signal = measured(engine, depth=2, width=64, activation="tanh", scheme="normal", std=1.0)
    x = drawn(engine, signal.input.sources[0], 0)
    z = x @ drawn(engine, signal.layers[0].weight, 0).T
    expected = float((1 - torch.tanh(z) ** 2 <= 0.01).double().mean())
    assert signal.layers[0].forward.saturated == pytest.approx(expected, abs=2 / z.numel())
    assert signal.input.forward.saturated is None


def test_the_two_inputs_have_the_correlation(engine: Engine) -> None:
    signal = measured(engine, depth=1, width=1024, correlation=0.3, input_std=2.0)
    assert signal.input.correlation == pytest.approx(0.3, abs=0.03)
    assert signal.input.forward.rms == pytest.approx(2.0, rel=0.03)
    assert measured(engine, depth=2, width=32, correlation=1).layers[-1].correlation == pytest.approx(1.0)


def test_seeds_are_averaged_and_their_spread_is_the_standard_deviation(engine: Engine) -> None:
    fields: dict[str, Any] = {"depth": 2, "width": 32, "activation": "tanh"}
    each = [measured(engine, seeds=[seed], **fields).layers[1].forward.rms or 0.0 for seed in (3, 5, 8)]
    together = measured(engine, seeds=[3, 5, 8], **fields)
    assert together.layers[1].forward.rms == pytest.approx(np.mean(each))
    assert together.layers[1].spread is not None
    assert together.layers[1].spread.forward.rms == pytest.approx(np.std(each, ddof=1))
    assert measured(engine, seeds=[3], **fields).layers[1].spread is None


def test_a_convolution_is_followed_by_linear_layers(engine: Engine) -> None:
    layers = [{"kind": "conv2d", "width": 6, "stride": 2, "padding": "circular"}, {"width": 20}, {"width": 4}]
    signal = measured(engine, layers=layers, input_width=3, image_size=7, batch=2)
    assert [each.weight.shape for each in signal.layers] == [(6, 3, 3, 3), (20, 6 * 16), (4, 20)]
    assert [each.size for each in signal.layers] == [4, 1, 1]


# Overflow ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "first"), [("float16", 4), ("bfloat16", 34), ("float32", 34), ("float64", None)])
def test_the_first_layer_that_is_not_finite_is_named(engine: Engine, dtype: str, first: int | None) -> None:
    signal = measured(engine, depth=40, width=256, scheme="normal", std=1.0, dtype=dtype)
    found = signal.first_not_finite.forward
    assert found == first or (found is not None and first is not None and abs(found - first) <= 3)
    if found is not None:
        assert signal.layers[found - 1].forward.largest is None
        assert signal.layers[found - 2].forward.largest is not None
        assert signal.first_not_finite.backward is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"scheme": "normal", "std": 0.0},
        {"input": "zeros"},
        {"input_std": 1e160, "dtype": "float64", "residual": "pre-norm"},
        {"scheme": "normal", "std": 1e100, "dtype": "float64"},
        {"scheme": "normal", "std": 1e-30},
        {"normalization": "group", "norm_groups": 1, "width": 1, "batch": 1},
        {"activation": "leaky_relu", "param": 1e6},
        {"activation": "softplus", "param": 1000.0, "bias": "normal", "bias_std": 1e20},
    ],
    ids=str,
)
def test_extreme_numbers_have_an_answer(engine: Engine, fields: dict[str, Any]) -> None:
    signal = measured(engine, **{"depth": 3, "width": 8, "batch": 2, **fields})
    assert len(signal.layers) == 3
    json.dumps(asdict(signal), allow_nan=False)


@pytest.mark.parametrize(("width", "threads"), [(8, 1), (2048, 2)])
def test_small_layers_are_computed_by_one_thread(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, width: int, threads: int
) -> None:
    """Several threads of torch wait for each other by spinning: on a busy machine, they take ten times as long."""
    found = []

    def linear(*given: torch.Tensor) -> torch.Tensor:
        found.append(torch.get_num_threads())
        return torch.matmul(given[0], given[1].T)

    monkeypatch.setattr(functional, "linear", linear)
    torch.set_num_threads(2)
    try:
        steps = measure(read_signal({"depth": 1, "width": width, "bias": "none", "batch": 16}), engine)
        between = [torch.get_num_threads() for _ in steps]
    finally:
        torch.set_num_threads(1)
    assert set(found) == {threads}
    assert set(between) == {2}


# Against theory ------------------------------------------------------------------------------------------------------

# torch's jumps have no chi_1; the others are compared with the standard error over seeds, and an allowance for width.
SEEDS, SIGMAS, ALLOWANCE = 4, 4.0, 0.04


def assert_close(name: str, mean: float | None, spread: float | None, theory: float | None, scale: float) -> None:
    assert mean is not None
    assert spread is not None
    assert theory is not None
    margin = SIGMAS * spread / math.sqrt(SEEDS) + ALLOWANCE * scale
    assert abs(mean - theory) <= margin, (name, mean, theory, margin)


@pytest.mark.parametrize(
    ("activation", "normalization", "residual"),
    [
        *product(ACTIVATIONS, ("none", "layer", "rms", "group"), ("none",)),
        *product(("tanh", "gelu"), ("none", "layer", "rms", "group"), ("pre-norm", "post-norm")),
    ],
)
def test_theory_predicts_what_is_measured(engine: Engine, activation: str, normalization: str, residual: str) -> None:
    signal = measured(
        engine,
        depth=2,
        width=192,
        batch=4,
        seeds=list(range(SEEDS)),
        scheme="xavier_normal",
        gain=1.3,
        activation=activation,
        normalization=normalization,
        norm_groups=2,
        residual=residual,
        bias="normal",
        bias_std=0.2,
    )
    for layer in signal.layers:
        theory, spread = layer.theory, layer.spread
        assert spread is not None
        assert theory.rms is not None
        assert_close("q", layer.q, spread.q, theory.q, theory.q or 0.0)
        assert_close("correlation", layer.correlation, spread.correlation, theory.correlation, 1.0)
        assert_close("rms", layer.forward.rms, spread.forward.rms, theory.rms, theory.rms)
        assert_close("mean", layer.forward.mean, spread.forward.mean, theory.mean, theory.rms)
        if activation != "hardshrink":
            backward = theory.backward_rms or 0.0
            assert_close("backward", layer.backward.rms, spread.backward.rms, backward, backward)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_theory_is_within_3_standard_errors_at_width_4096(engine: Engine, activation: str, normalization: str) -> None:
    """A part of what ``benchmarks.theory`` compares. The seeds are fixed, so the answer is the same each time."""
    [found] = distances(engine, [(activation, normalization)], seeds=4).values()
    assert len(found) == 9
    assert max(found.values()) <= 3.0, found


@pytest.mark.parametrize("residual", ["post-norm", "none"])
def test_theory_predicts_convolutions_around_the_image(engine: Engine, residual: str) -> None:
    fields: dict[str, Any] = {"kind": "conv2d", "padding": "circular", "depth": 3, "width": 64, "batch": 4}
    signal = measured(engine, seeds=list(range(SEEDS)), normalization="layer", residual=residual, **fields)
    for layer in signal.layers:
        assert layer.spread is not None
        assert_close("q", layer.q, layer.spread.q, layer.theory.q, layer.theory.q or 0.0)
        assert_close("correlation", layer.correlation, layer.spread.correlation, layer.theory.correlation, 1.0)
        assert_close("backward", layer.backward.rms, layer.spread.backward.rms, layer.theory.backward_rms, 1.0)


@pytest.mark.parametrize(
    ("scheme", "widths", "forward", "backward"),
    [
        ("kaiming_normal", (128, 512), 2.0, 2.0 * 512 / 128),  # He et al. 2015, equations 10 and 14
        ("kaiming_uniform", (512, 128), 2.0, 2.0 * 128 / 512),
        ("xavier_normal", (128, 512), 2 * 128 / 640, 2 * 512 / 640),  # Glorot & Bengio 2010, equation 12
        ("xavier_uniform", (512, 128), 2 * 512 / 640, 2 * 128 / 640),
    ],
)
def test_the_variance_laws_of_he_and_of_glorot(
    engine: Engine, scheme: str, widths: tuple[int, int], forward: float, backward: float
) -> None:
    """q of one linear layer is fan_in Var[w] E[x^2], and the squared gradient fan_out Var[w], within 4 errors."""
    layer = {"width": widths[1], "activation": "linear", "scheme": scheme}
    signal = measured(engine, layers=[layer], input_width=widths[0], batch=32, seeds=list(range(SEEDS)))
    assert signal.layers[0].spread is not None
    assert signal.input.spread is not None
    assert signal.layers[0].theory.q == pytest.approx(forward)
    q, error = signal.layers[0].q or 0.0, (signal.layers[0].spread.q or 0.0) / math.sqrt(SEEDS)
    assert abs(q - forward) <= 4 * error
    rms, error = signal.input.backward.rms or 0.0, (signal.input.spread.backward.rms or 0.0) / math.sqrt(SEEDS)
    assert abs(rms - math.sqrt(backward)) <= 4 * error + 0.002 * rms


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"scheme": "normal", "std": 1e5, "dtype": "float16"}, "std"),
        ({"bias": "normal", "bias_std": 1e5, "dtype": "float16"}, "bias_std"),
        ({"input": "normal", "input_std": 1e5, "dtype": "float16"}, "input_std"),
        ({"layers": [{"width": 4}, {"width": 3, "scheme": "dirac"}]}, "layer 2.shape"),
    ],
)
def test_tensors_that_cannot_be_drawn_are_refused(engine: Engine, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        measured(engine, **fields)
    assert caught.value.field == field


def test_a_measurement_stops_between_layers(engine: Engine) -> None:
    measuring = measure(read_signal({"depth": 4, "width": 8}), engine)
    steps = sum(1 for _ in measuring)
    assert steps == 1 + 2 * 4
    measuring = measure(read_signal({"depth": 4, "width": 8}), engine)
    for _ in range(3):
        next(measuring)
    measuring.close()
    with pytest.raises(StopIteration):
        next(measuring)
