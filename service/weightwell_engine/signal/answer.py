"""The answer of ``/signal``: what was measured and what theory predicts, side by side.

JSON has no infinity and no NaN. A number that is not finite is None, and ``first_not_finite`` names the layer.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from weightwell_engine.mean_field import Edge, Stability
from weightwell_engine.spec import Parameter
from weightwell_engine.stack import Kind, Normalization, Padding, Residual

Phase = Literal["ordered", "critical", "chaotic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSource:
    """How a tensor was drawn: with one of the ``seeds``, the fields of ``/init`` that draw the same numbers."""

    name: str
    shape: tuple[int, ...]
    scheme: str
    parameters: dict[str, Parameter]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Statistics of the output of a layer, over the units and the examples; averages over the seeds."""

    mean: float | None
    std: float | None
    rms: float | None
    largest: Annotated[float | None, Field(description="the largest absolute value")]
    zeros: Annotated[float | None, Field(description="the fraction of values that are zero, in [0, 1]")]
    saturated: Annotated[
        float | None,
        Field(description="the fraction of units at which the derivative of the activation has at most size 0.01"),
    ]
    channel_squared_mean: Annotated[
        float | None, Field(description="average over the channels of the squared mean of a channel (arXiv:2101.08692)")
    ]
    channel_variance: Annotated[
        float | None, Field(description="average over the channels of the variance of a channel (arXiv:2101.08692)")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """The gradient with respect to the output of a layer, for a gradient of N(0, 1) at the output of the last."""

    rms: float | None
    ratio: Annotated[float | None, Field(description="rms divided by the rms at the last layer")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Numbers that were measured at one place of the network."""

    q: Annotated[
        float | None,
        Field(description="second moment of the signal that theory follows: of W x + b, or of the residual stream"),
    ]
    correlation: Annotated[
        float | None,
        Field(description="cosine of that signal for two inputs, in [-1, 1]"),
    ]
    forward: Forward
    backward: Backward


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTheory:
    """What mean-field theory predicts for one layer; every number is null where it does not apply: see ``reason``."""

    q: float | None
    correlation: float | None
    mean: Annotated[float | None, Field(description="mean of the output of the layer")]
    std: Annotated[float | None, Field(description="standard deviation of the output of the layer")]
    rms: Annotated[float | None, Field(description="root mean square of the output of the layer")]
    backward_rms: Annotated[float | None, Field(description="rms of the gradient with respect to the output")]
    chi_1: Annotated[
        float | None, Field(description="factor on the squared gradient from the output of the layer to its input")
    ]
    reason: Annotated[str | None, Field(description="why theory does not apply; null where it does")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Measured):
    """The input of the first layer, which is layer 0.

    ``sources``: of the two independent inputs. ``spread``: standard deviations over the seeds; null for one seed.
    """

    layer: Literal[0] = 0
    width: int
    image_size: int
    sources: tuple[TensorSource, TensorSource]
    spread: Measured | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSignal(Measured):
    """The signal after one layer. ``layer``: its number, from 1. ``size``: height and width of the output of conv2d.

    ``spread``: standard deviations over the seeds; null for one seed.
    """

    layer: int
    kind: Kind
    width: int
    size: int
    kernel_size: int
    stride: int
    padding: Padding
    activation: str
    param: float | None
    normalization: Normalization
    residual: Residual
    weight: TensorSource
    bias: TensorSource | None
    spread: Measured | None
    theory: LayerTheory


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstNotFinite:
    """The first layer, in the order of computation, with a value that is not finite for a seed; null if there is none.

    Backward, the gradient is computed from the last layer to the first, and 0 is the input.
    """

    forward: int | None
    backward: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceMap:
    """Points of the map q -> q' of one layer, to plot."""

    q: tuple[float, ...]
    next: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationMap:
    """Points of the map c -> c' of one layer, at the ``q`` of the theory, to plot."""

    c: tuple[float, ...]
    next: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """A fixed point of the variance map. ``slope``: of the map there; stable below 1, unstable above."""

    q: float
    slope: float
    stability: Stability
    chi_1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackTheory:
    """Mean-field theory of the layers after the first, if all of these are alike (arXiv:1611.01232).

    Every number is null where theory does not apply: see ``reason``.
    """

    weight_variance: Annotated[float | None, Field(description="fan_in times the variance of a weight")]
    bias_variance: float | None
    q: Annotated[
        float | None,
        Field(
            description="where chi_1, xi and the correlation map are: the fixed point that the stack approaches; "
            "or the q of the last layer, if it approaches none"
        ),
    ]
    at_fixed_point: Annotated[bool | None, Field(description="whether q is a fixed point of the variance map")]
    every_q_is_fixed: Annotated[bool | None, Field(description="whether the variance map is the identity")]
    variance_map: VarianceMap | None
    fixed_points: tuple[FixedPoint, ...] | None
    chi_1: Annotated[float | None, Field(description="slope of the correlation map at c = 1; factor on the gradient")]
    correlation_map: CorrelationMap | None
    correlation_fixed_point: Annotated[float | None, Field(description="the correlation that two inputs approach")]
    xi_q: Annotated[float | None, Field(description="depth scale of q, in layers; null where it is infinite")]
    xi_c: Annotated[float | None, Field(description="depth scale of the correlation; null where it is infinite")]
    verdict: Annotated[
        Phase | None, Field(description="chi_1 below 1: ordered; 1 within 0.001: critical; above: chaotic")
    ]
    edge_of_chaos: Annotated[
        Edge | None, Field(description="the critical weight variance at this bias variance, if there is one")
    ]
    reason: Annotated[str | None, Field(description="why theory does not apply, or which part of it does not")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A signal and its gradient through a stack of layers, measured and predicted.

    ``generator``: the identity of the generator of all numbers. ``device``: where the signal was computed.
    ``operations``: the estimated cost, which the server limits.
    """

    dtype: str
    batch: int
    seeds: tuple[int | str, ...]
    correlation: float
    generator: str
    device: str
    operations: int
    input: Input
    layers: tuple[LayerSignal, ...]
    first_not_finite: FirstNotFinite
    theory: StackTheory
