"""Gains as JSON answers: torch's recommended gain of a nonlinearity, and the computed gain."""

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal

from weightwell_engine.mean_field import Edge, Stability, edge_at, edge_for, gaussian, stability_of
from weightwell_engine.nonlinearities import NONLINEARITIES, Nonlinearity, calculate_gain, nonlinearity
from weightwell_engine.quadrature import ActivationGain, activation, activation_gain, activation_gains


@dataclass(frozen=True, slots=True)
class RecommendedGain:
    """The gain that torch recommends: ``torch.nn.init.calculate_gain``, bit for bit."""

    source: Literal["torch"]
    nonlinearity: str
    param: float | None
    gain: float
    formula: str
    reference: str


@dataclass(frozen=True, slots=True)
class IgnoredParam:
    """The parameter that was given and has no effect."""

    param: float


@dataclass(frozen=True, slots=True)
class RecommendedGainIgnoring(RecommendedGain):
    """The recommended gain of a nonlinearity without a parameter, for which one was given; torch ignores it too."""

    ignored: IgnoredParam


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow(ActivationGain):
    """The gain 1 / sqrt(E[f(z)^2]) for z ~ N(0, 1), and what it does to a deep stack of layers.

    With ``std = gain / sqrt(fan_in)`` and no biases, pre-activations of variance 1 keep this variance from layer to
    layer: it is a fixed point of the variance map. ``slope``: of the map there, the factor on a deviation in every
    layer. ``stability``: stable below 1, unstable above. ``chi_1``: the factor on a squared gradient in every layer;
    None for a function with jumps. ``edge_of_chaos``: a pair of variances with chi_1 = 1; None if there is none.
    """

    slope: float
    stability: Stability
    chi_1: float | None
    edge_of_chaos: Edge | None


@dataclass(frozen=True, slots=True)
class MeasuredGain(MeasuredRow):
    """The measured gain of one activation function."""

    source: Literal["quadrature"] = field(default="quadrature", kw_only=True)


@dataclass(frozen=True, slots=True)
class RecommendedGains:
    """The table of recommended gains, by nonlinearity."""

    source: Literal["torch"]
    gains: dict[str, Nonlinearity]


@dataclass(frozen=True, slots=True)
class MeasuredGains:
    """The table of measured gains, by activation function."""

    source: Literal["quadrature"]
    gains: dict[str, MeasuredRow]


def recommended_gain(name: str, param: float | None = None) -> RecommendedGain:
    """Return the recommended gain of a nonlinearity; raise ``InvalidSpec`` for a name or a parameter torch refuses."""
    row = nonlinearity(name)
    value = None if row.param is None else row.default if param is None else param
    gain = calculate_gain(row.name, value)
    if row.param is None and param is not None:
        ignored = IgnoredParam(param)
        return RecommendedGainIgnoring("torch", row.name, value, gain, row.formula, row.reference, ignored)
    return RecommendedGain("torch", row.name, value, gain, row.formula, row.reference)


def recommended_gains() -> RecommendedGains:
    """Return the table of recommended gains."""
    return RecommendedGains("torch", NONLINEARITIES)


def measured_gain(name: str, param: float | None = None, bias_variance: float | None = None) -> MeasuredGain:
    """Return the measured gain of an activation function.

    The edge of chaos is the pair with this bias variance, or else the pair with pre-activations of variance 1. Raises
    ``InvalidSpec`` for a name, or for a parameter that the function lacks.
    """
    return MeasuredGain(**_row(activation_gain(name, param=param), bias_variance))


@cache
def measured_gains() -> MeasuredGains:
    """Return the table of measured gains."""
    rows = {name: MeasuredRow(**_row(gain, None)) for name, gain in activation_gains().items()}
    return MeasuredGains("quadrature", rows)


def _row(gain: ActivationGain, bias_variance: float | None) -> dict[str, Any]:
    """Return the fields of a measured gain. Those of theory have nine significant digits."""
    row, values = activation(gain.nonlinearity), tuple(gain.parameters.values())
    f = gaussian(row, values, 1.0)
    slope = _nine(f.second_moment_slope / f.second_moment)
    edge = edge_at(row, values, 1.0) if bias_variance is None else edge_for(row, values, bias_variance)
    return {
        **{each.name: getattr(gain, each.name) for each in fields(gain)},
        "slope": slope,
        "stability": stability_of(slope),
        "chi_1": None if f.squared_derivative is None else _nine(f.squared_derivative / f.second_moment),
        "edge_of_chaos": edge
        and Edge(
            _nine(edge.weight_variance),
            _nine(edge.bias_variance),
            None if edge.q is None else _nine(edge.q),
            _nine(edge.slope),
        ),
    }


def _nine(value: float) -> float:
    """Round to nine significant digits, which the platform's exp does not change."""
    return float(f"{value:.9g}")


def gains(
    name: str | None,
    param: float | None,
    source: Literal["torch", "quadrature"],
    bias_variance: float | None = None,
) -> RecommendedGain | MeasuredGain | RecommendedGains | MeasuredGains:
    """Return the gain of one nonlinearity, or the table of all if ``name`` is None; raises as the functions above."""
    if name is None:
        return measured_gains() if source == "quadrature" else recommended_gains()
    return measured_gain(name, param, bias_variance) if source == "quadrature" else recommended_gain(name, param)
