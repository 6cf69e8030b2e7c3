"""Measurement of signals: the layers are drawn by the engine and computed by torch, one after the other.

The only module of this package that imports torch.
"""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn import functional

from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.generators import Generator as Numbers
from weightwell_engine.plan import Piece, PlannedTensor
from weightwell_engine.quadrature import activation, settle
from weightwell_engine.signal.answer import (
    Backward,
    FirstNotFinite,
    Forward,
    Input,
    LayerSignal,
    LayerTheory,
    Measured,
    Signal,
    TensorSource,
)
from weightwell_engine.signal.theory import predict, theory_of
from weightwell_engine.spec import Spec, TensorSpec
from weightwell_engine.stack import Layer, Stack
from weightwell_engine.virtual_file import VirtualFile

# A unit is saturated where the derivative of its activation function has at most this size.
_SATURATED = 0.01

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "linear": lambda z: z * 1,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "prelu": functional.leaky_relu,  # with one weight they are the same function
    "rrelu": functional.rrelu,
    "relu6": functional.relu6,
    "elu": functional.elu,
    "celu": functional.celu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": functional.logsigmoid,
    "hardtanh": functional.hardtanh,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "tanhshrink": functional.tanhshrink,
    "softshrink": functional.softshrink,
    "hardshrink": functional.hardshrink,
}

# The numbers that are measured at one place, in this order.
_FORWARD = ("mean", "std", "rms", "largest", "zeros", "saturated", "channel_squared_mean", "channel_variance")
_COLUMNS = ("q", "correlation", *_FORWARD, "backward_rms", "backward_ratio")

Array = NDArray[np.float64]


def measure(stack: Stack, engine: Engine) -> Generator[None, None, Signal]:
    """Measure a stack, and return the answer of ``/signal``.

    Yields after every layer: a caller that closes the generator there stops the measurement.

    Raises ``InvalidSpec`` for tensors that cannot be drawn, ``Busy`` if memory runs out, and ``DeviceUnavailable``.
    """
    check(stack, engine)
    numbers = engine.generator("philox")
    predicted = predict(stack)
    theory = theory_of(stack, predicted)
    yield
    found = np.empty((len(stack.seeds), len(stack.layers) + 1, len(_COLUMNS)))
    for place, seed in enumerate(stack.seeds):
        with engine.device.guarded():
            network = _Network(stack, engine, numbers, seed).measured()
            found[place] = yield from _in_one_thread(network) if _is_small(stack) else network
    measured, spreads = _summary(found)
    seed = stack.seeds[0]
    return Signal(
        dtype=stack.dtype,
        batch=stack.batch,
        seeds=tuple(stack.weight(0, seed).exact_seed for seed in stack.seeds),
        correlation=stack.correlation,
        generator=numbers.identity,
        device=str(engine.device),
        operations=stack.operations,
        input=_input(stack, measured[0], spreads[0]),
        layers=tuple(
            _layer_signal(stack, index, measured[index + 1], spreads[index + 1], predicted[index])
            for index in range(len(stack.layers))
        ),
        first_not_finite=_first_not_finite(found),
        theory=theory,
    )


def check(stack: Stack, engine: Engine) -> None:
    """Raise ``InvalidSpec`` for a stack whose tensors cannot be drawn, with the name of the request's field."""
    seen = set()
    with _fields_under("input_"):
        engine.plan(Spec("philox", (stack.inputs(0)[0],)))
    for index, layer in enumerate(stack.layers):
        if (key := (layer, stack.weight_shape(index))) in seen:
            continue
        seen.add(key)
        try:
            engine.plan(Spec("philox", (stack.weight(index, 0),)))
            if (bias := stack.bias(index, 0)) is not None:
                with _fields_under("bias_"):
                    engine.plan(Spec("philox", (bias,)))
        except InvalidSpec as error:
            raise error.within(f"layer {index + 1}") if len(set(stack.layers)) > 1 else error from None


@contextmanager
def _fields_under(prefix: str) -> Iterator[None]:
    try:
        yield
    except InvalidSpec as error:
        raise error.under(prefix) from None


# Threads -------------------------------------------------------------------------------------------------------------

# Layers of fewer operations are computed in one thread: some 0.1 s.
_SMALL = 5 * 10**8

T = TypeVar("T")


def _is_small(stack: Stack) -> bool:
    """Whether several threads would not make the layers of a stack faster."""
    return stack.operations < _SMALL * len(stack.layers) * len(stack.seeds)


def _in_one_thread(steps: Generator[None, None, T]) -> Generator[None, None, T]:
    """Compute the steps of a measurement with one thread of torch. On a busy machine, several take ten times as long.

    The limit holds only for the thread that computes a step, and only during the step.
    """
    try:
        while True:
            with _openmp().limit(limits=1):
                try:
                    next(steps)
                except StopIteration as end:
                    found: T = end.value
                    return found
            yield
    finally:
        steps.close()


@cache
def _openmp() -> Any:
    return ThreadpoolController().select(user_api="openmp")


# One network ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Passed:
    """A layer that the signal has passed: its input and its output, which has the graph of the gradient."""

    before: Tensor
    after: Tensor


class _Network:
    """The network of one seed."""

    def __init__(self, stack: Stack, engine: Engine, numbers: Numbers, seed: int):
        self._stack = stack
        self._dtype: torch.dtype = getattr(torch, stack.dtype)
        self._device = torch.device(engine.device.name)
        self._on_device = self._device.type != "cpu"
        tensors = [*stack.inputs(seed), stack.cotangent(seed)]
        for index in range(len(stack.layers)):
            tensors += [each for each in (stack.weight(index, seed), stack.bias(index, seed)) if each is not None]
        plan = engine.plan(Spec("philox", tuple(tensors)))
        self._tensors: dict[str, PlannedTensor] = {each.name: each for each in plan.tensors}
        self._file = VirtualFile(plan, numbers)

    def measured(self) -> Generator[None, None, Array]:
        """Measure every place of the network, (places, columns); yields after every layer."""
        try:
            rows: list[Tensor] = []
            passed = yield from self._forward(rows)
            gradients = yield from self._backward(passed)
            found = torch.column_stack([torch.stack(rows), torch.stack(gradients[::-1])]).cpu().numpy()
        finally:
            self._file.close()
        return np.column_stack([found, found[:, -1] / found[-1, -1]])

    def _forward(self, rows: list[Tensor]) -> Generator[None, None, list[_Passed]]:
        """Send both inputs forward, append the statistics of every place, and return the layers."""
        stack = self._stack
        x, other = self._inputs()
        rows.append(_row(x, x, other, None, None))
        passed: list[_Passed] = []
        for index, layer in enumerate(stack.layers):
            weight = self._drawn(f"layers.{index + 1}.weight", stack.weight_shape(index))
            bias = None if layer.bias is None else self._drawn(f"layers.{index + 1}.bias", (layer.width,))
            if layer.kind == "linear" and x.ndim > 2:
                x, other = x.flatten(1), other.flatten(1)
            with torch.no_grad():
                companion = _apply(layer, other, weight, bias)
            with torch.enable_grad():
                before = x.detach().requires_grad_()
                applied = _apply(layer, before, weight, bias)
            passed.append(_Passed(before, applied.output))
            rows.append(
                _row(applied.output, applied.signal, companion.signal, applied.activated, applied.activation_input)
            )
            x, other = applied.output.detach(), companion.output
            yield
        return passed

    def _backward(self, passed: list[_Passed]) -> Generator[None, None, list[Tensor]]:
        """Send a gradient backward; return its rms at the output of every layer, the last first, and at the input."""
        gradient = self._drawn("cotangent", self._stack.cotangent(0).shape)
        found = [_rms(gradient)]
        while passed:
            layer = passed.pop()  # its memory is free after this
            gradient = gradient.reshape(layer.after.shape)
            (gradient,) = torch.autograd.grad(layer.after, layer.before, gradient)
            found.append(_rms(gradient))
            yield
        return found

    def _inputs(self) -> tuple[Tensor, Tensor]:
        """Return two inputs with the requested correlation."""
        stack = self._stack
        shape = stack.inputs(0)[0].shape
        first, second = (self._drawn(name, shape).double() for name in ("input", "input.other"))
        mean, _ = self._tensors["input"].law.mean_std(1)
        c = stack.correlation
        other = mean + c * (first - mean) + math.sqrt(1.0 - c * c) * (second - mean)
        return first.to(self._dtype), other.to(self._dtype)

    def _drawn(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Draw a tensor of the network."""
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        planned, memory = self._tensors[name], tensor.view(-1).view(torch.uint8)
        piece = Piece(planned, 0, planned.size)
        if self._on_device:
            self._file.fill_on_device(piece, memory)
        else:
            self._file.fill(piece, memory.numpy().data)
        return tensor


@dataclass(frozen=True, slots=True)
class _Applied:
    """A layer that was applied: the input of its activation function, its value, the signal of theory, the output."""

    activation_input: Tensor
    activated: Tensor
    signal: Tensor
    output: Tensor


def _apply(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> _Applied:
    """Apply a layer to ``x`` (batch, in), or (batch, in, height, width)."""
    if layer.residual == "none":
        signal = _multiply(layer, x, weight, bias)
        u = _normalize(layer, signal)
        activated = _activate(layer, u)
        return _Applied(u, activated, signal, activated)
    u = _normalize(layer, x) if layer.residual == "pre-norm" else x
    activated = _activate(layer, u)
    signal = x + _multiply(layer, activated, weight, bias)
    output = _normalize(layer, signal) if layer.residual == "post-norm" else signal
    return _Applied(u, activated, signal, output)


def _multiply(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if layer.kind == "linear":
        return functional.linear(x, weight, bias)
    pad = layer.kernel_size // 2
    if layer.padding == "circular" and pad:
        return functional.conv2d(functional.pad(x, (pad,) * 4, mode="circular"), weight, bias, layer.stride)
    return functional.conv2d(x, weight, bias, layer.stride, pad)


def _normalize(layer: Layer, x: Tensor) -> Tensor:
    match layer.normalization:
        case "layer":
            return functional.layer_norm(x, x.shape[1:])
        case "rms":
            return functional.rms_norm(x, x.shape[1:])
        case "batch":
            return functional.batch_norm(x, None, None, training=True)
        case "group":
            return torch.group_norm(x, layer.norm_groups)  # that of functional refuses groups of one number
        case "instance":
            return functional.instance_norm(x)
    return x


def _activate(layer: Layer, x: Tensor) -> Tensor:
    row = activation(layer.activation)
    values = settle(row, {} if layer.param is None else {"param": layer.param}).values()
    return _FUNCTIONS[row.name](x, *values)


# Statistics ----------------------------------------------------------------------------------------------------------


def _row(
    output: Tensor, signal: Tensor, other: Tensor, activated: Tensor | None, activation_input: Tensor | None
) -> Tensor:
    """Return the columns of one place but for the gradient, (10,), in float64."""
    saturated = torch.full((), math.nan, dtype=torch.float64, device=output.device)
    if activated is not None and activation_input is not None:
        (slopes,) = torch.autograd.grad(activated, activation_input, torch.ones_like(activated), retain_graph=True)
        saturated = (slopes.abs() <= _SATURATED).double().mean()
    with torch.no_grad():
        y, a, b = output.double(), signal.double(), other.double()
        q = a.square().mean()
        correlation = (a * b).mean() / (q * b.square().mean()).sqrt()
        mean, square = y.mean(), y.square().mean()
        channels = y.mean((0, *range(2, y.ndim))).square().mean()
        return torch.stack(
            [
                q,
                correlation,
                mean,
                (square - mean.square()).clamp(min=0.0).sqrt(),
                square.sqrt(),
                y.abs().max(),
                (y == 0.0).double().mean(),
                saturated,
                channels,
                (square - channels).clamp(min=0.0),
            ]
        )


def _rms(x: Tensor) -> Tensor:
    return x.double().square().mean().sqrt()


def _summary(found: Array) -> tuple[list[Measured], list[Measured | None]]:
    """Return the averages over the seeds, and the standard deviations, of an array (seeds, places, columns)."""
    with np.errstate(all="ignore"):
        means = found.mean(axis=0)
        spreads = found.std(axis=0, ddof=1) if len(found) > 1 else None
    measured = [_measured(row) for row in means]
    if spreads is None:
        return measured, [None] * len(measured)
    return measured, [_measured(row) for row in spreads]


def _measured(row: Array) -> Measured:
    values = dict(zip(_COLUMNS, (float(each) if math.isfinite(each) else None for each in row), strict=True))
    return Measured(
        q=values["q"],
        correlation=values["correlation"],
        forward=Forward(**{name: values[name] for name in _FORWARD}),
        backward=Backward(rms=values["backward_rms"], ratio=values["backward_ratio"]),
    )


def _first_not_finite(found: Array) -> FirstNotFinite:
    """Return the first layers with a number that is not finite, of an array (seeds, places, columns)."""
    largest, gradient = _COLUMNS.index("largest"), _COLUMNS.index("backward_rms")
    lost = [np.flatnonzero(~np.isfinite(found[:, :, column]).all(axis=0)) for column in (largest, gradient)]
    forward, backward = lost
    return FirstNotFinite(
        forward=int(forward[0]) if forward.size else None, backward=int(backward[-1]) if backward.size else None
    )


# The answer ----------------------------------------------------------------------------------------------------------


def _source(tensor: TensorSpec) -> TensorSource:
    return TensorSource(
        name=tensor.name,
        shape=tensor.shape,
        scheme=tensor.scheme,
        parameters=dict(tensor.parameters),
        dtype=tensor.dtype,
    )


def _input(stack: Stack, measured: Measured, spread: Measured | None) -> Input:
    first, second = stack.inputs(0)
    return Input(
        width=stack.input_width,
        image_size=stack.image_size,
        sources=(_source(first), _source(second)),
        spread=spread,
        **_fields(measured),
    )


def _layer_signal(
    stack: Stack, index: int, measured: Measured, spread: Measured | None, theory: LayerTheory
) -> LayerSignal:
    layer, bias = stack.layers[index], stack.bias(index, 0)
    return LayerSignal(
        layer=index + 1,
        kind=layer.kind,
        width=layer.width,
        size=stack.sizes[index + 1][1],
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        activation=layer.activation,
        param=layer.param,
        normalization=layer.normalization,
        residual=layer.residual,
        weight=_source(stack.weight(index, 0)),
        bias=None if bias is None else _source(bias),
        spread=spread,
        theory=theory,
        **_fields(measured),
    )


def _fields(measured: Measured) -> dict[str, Any]:
    return {name: getattr(measured, name) for name in Measured.__slots__}
