"""Gains as JSON answers: torch's recommended gain of a nonlinearity, and the computed gain."""

from dataclasses import dataclass, field, fields
from typing import Literal

from weightwell_engine.nonlinearities import NONLINEARITIES, Nonlinearity, calculate_gain, nonlinearity
from weightwell_engine.quadrature import ActivationGain, activation_gain, activation_gains


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


@dataclass(frozen=True, slots=True)
class MeasuredGain(ActivationGain):
    """The gain 1 / sqrt(E[f(z)^2]) for z ~ N(0, 1), by quadrature."""

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
    gains: dict[str, ActivationGain]


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


def measured_gain(name: str, param: float | None = None) -> MeasuredGain:
    """Return the measured gain of an activation function; raise ``InvalidSpec`` for a name or a parameter it lacks."""
    gain = activation_gain(name, param=param)
    return MeasuredGain(**{each.name: getattr(gain, each.name) for each in fields(gain)})


def measured_gains() -> MeasuredGains:
    """Return the table of measured gains."""
    return MeasuredGains("quadrature", activation_gains())


def gains(
    name: str | None, param: float | None, source: Literal["torch", "quadrature"]
) -> RecommendedGain | MeasuredGain | RecommendedGains | MeasuredGains:
    """Return the gain of one nonlinearity, or the table of all if ``name`` is None; raises as the functions above."""
    if name is None:
        return measured_gains() if source == "quadrature" else recommended_gains()
    return measured_gain(name, param) if source == "quadrature" else recommended_gain(name, param)
