"""Theory of signals: mean-field theory of a stack, layer by layer and as a map that is applied again and again.

Residual connections: Yang & Schoenholz 2017, arXiv:1712.08969. Convolutions: Xiao et al. 2018, arXiv:1806.05393.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import numpy as np

from weightwell_engine.laws import Constant, Lattice, Law, Values
from weightwell_engine.mean_field import (
    GRID,
    TINY,
    Gaussian,
    edge_for,
    gaussian,
    roots,
    stability_of,
)
from weightwell_engine.quadrature import Activation, activation, settle
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.signal.answer import (
    CorrelationMap,
    FixedPoint,
    LayerTheory,
    Phase,
    StackTheory,
    VarianceMap,
)
from weightwell_engine.stack import Draw, Layer, Residual, Stack

# torch's defaults of the number that normalizations add to a variance. RMSNorm adds the machine epsilon of the dtype.
EPSILON = 1e-5
MACHINE_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}

# chi_1 this near to 1 is called critical: depth scales above a thousand layers.
_CRITICAL = 1e-3

# The interval of variances that theory follows from layer to layer; squares of activations overflow above it.
_LEAST, _LARGEST = 1e-200, 1e150

_POINTS = 41

_NOTHING = LayerTheory(
    q=None, correlation=None, mean=None, std=None, rms=None, backward_rms=None, chi_1=None, reason=None
)


@dataclass(frozen=True, slots=True)
class Step:
    """What theory needs to know of one layer: variances, the activation function f, and the form of the layer.

    ``epsilon`` is None without normalization. ``backward_variance``: fan_out times the variance of a weight.
    """

    weight_variance: float
    bias_variance: float
    backward_variance: float
    row: Activation
    values: tuple[float, ...]
    epsilon: float | None
    residual: Residual

    def f(self, q: float, least: float = TINY) -> Gaussian:
        """Return the activation function at an input of variance ``q``; ``least`` stands for those below it."""
        return gaussian(self.row, self.values, q, least)

    def normalized(self, q: float) -> float:
        """Return the variance of a signal of variance ``q`` after the normalization, if there is one."""
        return q if self.epsilon is None else q / (q + self.epsilon)

    def normalized_slope(self, q: float) -> float:
        """Return the derivative of ``normalized`` by q."""
        return 1.0 if self.epsilon is None else self.epsilon / (q + self.epsilon) ** 2

    def gain(self, q: float) -> float:
        """Return the factor of the normalization on a squared gradient."""
        return 1.0 if self.epsilon is None else 1.0 / (q + self.epsilon)


# The stack, layer by layer -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Signal:
    """The output of a layer: second moments of one input, and of two; whether it is normal with mean 0."""

    second: float
    product: float
    normal: bool


def predict(stack: Stack) -> tuple[LayerTheory, ...]:
    """Return the prediction for every layer. From the first layer to which theory does not apply, it has a reason."""
    signal, reason = _input(stack), None
    found: list[LayerTheory] = []
    for index in range(len(stack.layers)):
        if reason is None:
            step = step_of(stack, index)
            reason = step if isinstance(step, str) else _refusal(step, signal)
            if reason is None and isinstance(step, Step):
                signal, predicted = _layer(step, signal)
                if predicted.q is None:
                    reason = f"the predicted variance overflows in layer {index + 1}"
        where = f"layer {index + 1}: " if len(set(stack.layers)) > 1 else ""
        if reason is None:
            found.append(predicted)
            continue
        reason = reason if reason.startswith(("layer ", "the predicted")) else where + reason
        found.append(_replaced(_NOTHING, reason=reason))
    return _backward(found)


def _input(stack: Stack) -> _Signal:
    mean, std = _law(stack.input, (1,)).mean_std(1)
    normal = stack.input.scheme == "normal" and mean == 0.0
    return _Signal(mean * mean + std * std, mean * mean + stack.correlation * std * std, normal)


def _layer(step: Step, before: _Signal) -> tuple[_Signal, LayerTheory]:
    """Return the output of a layer, and its prediction without the gradient; nothing if a variance overflows."""
    if not before.second < _LARGEST:
        return before, _NOTHING
    if step.residual == "none":
        q = step.weight_variance * before.second + step.bias_variance
        product = step.weight_variance * before.product + step.bias_variance
        if not q < _LARGEST:
            return before, _NOTHING
        c = _cosine(product, q)
        v = step.normalized(q)
        f = step.f(v, _LEAST)
        chi = _scaled(f.squared_derivative, step.backward_variance * step.gain(q))
        after = _Signal(f.second_moment, f.product(c), normal=step.row.name == "linear")
        mean, rms = f.mean, math.sqrt(f.second_moment)
    else:
        x, c = before.second, _cosine(before.product, before.second)
        inside = step.normalized(x) if step.residual == "pre-norm" else x
        f = step.f(inside, _LEAST)
        q = x + step.weight_variance * f.second_moment + step.bias_variance
        product = before.product + step.weight_variance * f.product(c) + step.bias_variance
        if not q < _LARGEST:
            return before, _NOTHING
        c = _cosine(product, q)
        factor = step.gain(x) if step.residual == "pre-norm" else 1.0
        chi = _scaled(f.squared_derivative, step.backward_variance * factor)
        chi = None if chi is None else 1.0 + chi
        if step.residual == "post-norm":
            chi = _scaled(chi, step.gain(q))
            second = step.normalized(q)
        else:
            second = q
        after = _Signal(second, c * second, normal=True)
        mean, rms = 0.0, math.sqrt(second)
    std = math.sqrt(max(rms * rms - mean * mean, 0.0))
    return after, LayerTheory(
        q=q, correlation=c, mean=mean, std=std, rms=rms, backward_rms=None, chi_1=chi, reason=None
    )


def _backward(layers: list[LayerTheory]) -> tuple[LayerTheory, ...]:
    """Fill in the gradients, from the last layer to the first."""
    found: list[LayerTheory] = []
    square: float | None = 1.0
    for layer in reversed(layers):
        rms = None if square is None else math.sqrt(square)
        found.append(_replaced(layer, backward_rms=rms if layer.reason is None else None))
        square = None if square is None or layer.chi_1 is None else square * layer.chi_1
        if square is not None and not square < _LARGEST:
            square = None
    return tuple(reversed(found))


def _replaced(layer: LayerTheory, **changed: float | str | None) -> LayerTheory:
    fields = {name: getattr(layer, name) for name in LayerTheory.__slots__}
    return LayerTheory(**{**fields, **changed})


def _cosine(product: float, q: float) -> float:
    return min(max(product / q, -1.0), 1.0) if q > 0.0 else 1.0


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


# Where theory applies ------------------------------------------------------------------------------------------------


def step_of(stack: Stack, index: int) -> Step | str:
    """Return what theory needs to know of a layer, or the reason why theory does not apply to it."""
    height, after = stack.sizes[index][1], stack.sizes[index + 1][1]
    return _step(stack.layers[index], stack.weight_shape(index), stack.dtype, height, after)


@lru_cache(maxsize=1024)
def _step(layer: Layer, shape: tuple[int, ...], dtype: str, height: int, after: int) -> Step | str:
    if layer.normalization in ("batch", "instance"):
        return (
            f"{layer.normalization} normalization makes the units depend on statistics that theory does not have here"
        )
    if layer.kind == "conv2d" and layer.padding == "zeros" and layer.kernel_size > 1:
        return "zeros around an image change the variance at its border; padding=circular has a theory"
    weight = _law(layer.weight, shape)
    if isinstance(weight, Constant | Lattice | Values):
        return f"the weights of {layer.weight.scheme} are not random"
    if weight.mean_std(prod(shape))[0] != 0.0:
        return "the weights have a mean other than 0"
    bias = Constant(0.0) if layer.bias is None else _law(layer.bias, (layer.width,))
    mean, bias_std = bias.mean_std(layer.width)
    if mean != 0.0:
        return "the biases have a mean other than 0"
    variance = weight.mean_std(prod(shape))[1] ** 2
    row = activation(layer.activation)
    epsilon = {"none": None, "rms": MACHINE_EPSILON[dtype]}.get(layer.normalization, EPSILON)
    taps = prod(shape) // (layer.width * (shape[1] if layer.kind == "conv2d" else 1))
    fan_out = layer.width * taps * (after / height) ** 2 if layer.kind == "conv2d" else layer.width
    return Step(
        weight_variance=prod(shape[1:]) * variance,
        bias_variance=bias_std**2,
        backward_variance=fan_out * variance,
        row=row,
        values=tuple(settle(row, {} if layer.param is None else {"param": layer.param}).values()),
        epsilon=epsilon,
        residual=layer.residual,
    )


def _law(draw: Draw, shape: tuple[int, ...]) -> Law:
    return SCHEMES[draw.scheme].law(shape, draw.parameters, portable=True)


def _refusal(step: Step, before: _Signal) -> str | None:
    """Return the reason why theory does not apply to a layer after a signal, or None."""
    if step.residual != "none" and not before.normal:
        return (
            "the signal before a residual connection is not normal with mean 0: begin with an input or a linear layer"
        )
    return None


# The map of one layer ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Map:
    """The maps of variance and correlation of a layer that is repeated."""

    step: Step

    def inside(self, q: float) -> float:
        """Return the variance of the input of the activation function."""
        return self.step.normalized(q)

    def variance(self, q: float) -> float:
        """Return q', the variance after one more layer."""
        step = self.step
        added = step.weight_variance * step.f(self.inside(q)).second_moment + step.bias_variance
        return self._carried(q) + added

    def slope(self, q: float) -> float:
        """Return the derivative of q' by q."""
        step = self.step
        inner = step.weight_variance * step.f(self.inside(q)).second_moment_slope * step.normalized_slope(q)
        carried = {"none": 0.0, "pre-norm": 1.0, "post-norm": step.normalized_slope(q)}[step.residual]
        return carried + inner

    def chi_1(self, q: float) -> float | None:
        """Return the factor on the squared gradient."""
        step = self.step
        inner = _scaled(step.f(self.inside(q)).squared_derivative, step.weight_variance)
        if inner is None or step.residual == "none":
            return _scaled(inner, step.gain(q))
        return 1.0 + inner * step.gain(q) if step.residual == "pre-norm" else (1.0 + inner) * step.gain(q)

    def correlation(self, q: float, c: float) -> float:
        """Return c', the correlation after one more layer, at the variance ``q``."""
        step = self.step
        product = step.weight_variance * step.f(self.inside(q)).product(c) + step.bias_variance
        return _cosine(c * self._carried(q) + product, self.variance(q))

    def correlation_slope(self, q: float, c: float) -> float:
        """Return the derivative of c' by c."""
        step = self.step
        inner = step.weight_variance * step.f(self.inside(q)).product_slope(c)
        after = self.variance(q)
        return (self._carried(q) + inner) / after if after > 0.0 else 0.0

    def _carried(self, q: float) -> float:
        """Return the variance that a residual connection carries past the layer."""
        return {"none": 0.0, "pre-norm": q, "post-norm": self.inside(q)}[self.step.residual]


def theory_of(stack: Stack, layers: tuple[LayerTheory, ...]) -> StackTheory:
    """Return the theory of a stack, given the predictions for its layers."""
    steps = {_alike(step_of(stack, index)) for index in range(1 if len(stack.layers) > 1 else 0, len(stack.layers))}
    step = next(iter(steps))
    reasons = [layer.reason for layer in layers if layer.reason]
    if len(steps) > 1:
        return _no_theory("the layers differ, so there is no map that is applied again and again")
    if isinstance(step, str):
        return _no_theory(step)
    known = [layer.q for layer in layers if layer.q is not None]
    if reasons and not (known and reasons[0].startswith("the predicted")):
        return _no_theory(reasons[0])
    return _theory(step, layers[0].q or 0.0, known[-1])


def _alike(step: Step | str) -> Step | str:
    """Return a step without what the map does not depend on."""
    return step if isinstance(step, str) else replace(step, backward_variance=0.0)


def _no_theory(reason: str) -> StackTheory:
    return StackTheory(
        weight_variance=None,
        bias_variance=None,
        q=None,
        at_fixed_point=None,
        every_q_is_fixed=None,
        variance_map=None,
        fixed_points=None,
        chi_1=None,
        correlation_map=None,
        correlation_fixed_point=None,
        xi_q=None,
        xi_c=None,
        verdict=None,
        edge_of_chaos=None,
        reason=reason,
    )


@lru_cache(maxsize=256)
def _theory(step: Step, first: float, last: float) -> StackTheory:
    """Return the theory of a layer that is repeated, from the q of the first layer and of the last."""
    layer = Map(step)
    growth = [(layer.variance(q) - q) / q for q in GRID.tolist()]
    everywhere = max(map(abs, growth)) <= _FIXED
    fixed = [] if everywhere else _fixed_points(layer, growth)
    q, at_fixed = (first, True) if everywhere else _limit(layer, [each.q for each in fixed], first, last)
    chi = layer.chi_1(q)
    variances = np.logspace(-2, 2, _POINTS) * (q if q > TINY else first or 1.0)
    correlations = np.linspace(-1.0, 1.0, _POINTS)
    limit, slope = _correlation_limit(layer, q)
    plain = step.residual == "none" and step.epsilon is None
    return StackTheory(
        weight_variance=step.weight_variance,
        bias_variance=step.bias_variance,
        q=q,
        at_fixed_point=at_fixed,
        every_q_is_fixed=everywhere,
        variance_map=VarianceMap(
            q=tuple(variances.tolist()), next=tuple(layer.variance(each) for each in variances.tolist())
        ),
        fixed_points=tuple(fixed),
        chi_1=chi,
        correlation_map=CorrelationMap(
            c=tuple(correlations.tolist()),
            next=tuple(layer.correlation(q, each) for each in correlations.tolist()),
        ),
        correlation_fixed_point=limit,
        xi_q=_depth(layer.slope(q)) if at_fixed else None,
        xi_c=_depth(slope) if at_fixed else None,
        verdict=None if step.residual == "pre-norm" and step.epsilon is not None else _verdict(chi),
        edge_of_chaos=edge_for(step.row, step.values, step.bias_variance) if plain else None,
        reason=_caution(step, chi, at_fixed, q < last),
    )


# Relative changes of q below this are rounding.
_FIXED = 1e-9


def _fixed_points(layer: Map, growth: list[float]) -> list[FixedPoint]:
    """Return the fixed points of the variance map: 0, and where it crosses the identity."""

    def excess(q: float) -> float:
        return (layer.variance(q) - q) / q

    starts = layer.step.epsilon is None and layer.variance(TINY) <= 2.0 * TINY * max(layer.slope(TINY), 1.0)
    found = [*([0.0] if starts else []), *roots(excess, growth)]
    points = []
    for q in found:
        slope = layer.slope(q or TINY)
        points.append(FixedPoint(q=q, slope=slope, stability=stability_of(slope), chi_1=layer.chi_1(q or TINY)))
    return points


def _limit(layer: Map, fixed: list[float], first: float, last: float) -> tuple[float, bool]:
    """Return the fixed point that q approaches from ``first`` on, or ``last``; and whether it is a fixed point."""
    now = first or TINY
    change = layer.variance(now) - now
    if abs(change) <= _FIXED * now:
        return now, True
    beyond = [q for q in fixed if (q > now if change > 0.0 else q < now)]
    if not beyond:
        return last or TINY, False
    return min(beyond) if change > 0.0 else max(beyond), True


def _correlation_limit(layer: Map, q: float) -> tuple[float | None, float]:
    """Return the correlation that two inputs approach, and the slope of the correlation map there."""
    at_1 = layer.correlation_slope(q, 1.0)
    if at_1 <= 1.0 + _FIXED:
        return 1.0, at_1
    low, high = 0.0, 1.0 - 1e-6
    if layer.correlation(q, low) <= low:
        return _descended(layer, q)
    for _ in range(50):
        middle = (low + high) / 2.0
        if layer.correlation(q, middle) > middle:
            low = middle
        else:
            high = middle
    return low, layer.correlation_slope(q, low)


def _descended(layer: Map, q: float) -> tuple[float | None, float]:
    """Return the fixed point at or below 0: 0 for an odd function without biases."""
    c = 0.0
    for _ in range(200):
        after = layer.correlation(q, c)
        if abs(after - c) < 1e-9:
            return (0.0 if abs(after) < 1e-9 else after), layer.correlation_slope(q, after)
        c = after
    return None, math.nan


def _depth(slope: float) -> float | None:
    """Return the depth scale of a fixed point: -1 / ln(slope), None if the distance to it does not shrink."""
    size = abs(slope)
    if size == 0.0:
        return 0.0
    return -1.0 / math.log(size) if size < 1.0 - _FIXED else None


def _verdict(chi: float | None) -> Phase | None:
    if chi is None:
        return None
    if abs(chi - 1.0) <= _CRITICAL:
        return "critical"
    return "ordered" if chi < 1.0 else "chaotic"


def _caution(step: Step, chi: float | None, at_fixed: bool, shrinks: bool) -> str | None:
    if chi is None:
        return f"{step.row.name} has jumps, so chi_1 is infinite and gradients have no theory"
    if at_fixed:
        return None
    if step.residual == "pre-norm" and step.epsilon is not None:
        return "q grows by the same amount in every layer, so chi_1 tends to 1: signals change polynomially with depth"
    how = "shrinks" if shrinks else "grows without bound"
    return f"q {how} and approaches no fixed point; chi_1 and the correlation map are those at the q of the last layer"
