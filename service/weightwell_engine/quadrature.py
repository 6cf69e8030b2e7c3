"""Gains of activation functions, computed by quadrature for an input z ~ N(0, 1).

The literature uses the word "gain" for two numbers. Each has its own name here:

* ``gain`` = 1 / sqrt(E[f(z)^2]) preserves the second moment. A layer with independent zero-mean weights passes on the
  second moment of its input, for any mean of the input (He et al. 2015, arXiv:1502.01852, equation 8).
* ``std_ratio`` = std(z) / std(f(z)) preserves the standard deviation. A layer with centred weights passes on the
  standard deviation (Brock et al. 2021, arXiv:2101.08692, the constant gamma).

torch's recommended gains are other numbers: see ``nonlinearities`` and docs/gains.md.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from weightwell_engine.exceptions import InvalidSpec, did_you_mean

Array = npt.NDArray[np.float64]

# The last bits depend on the platform's exp and tanh. With twelve digits, the gains at every default are at least a
# hundred ulps from a rounding boundary.
SIGNIFICANT_DIGITS = 12

_REACH = 12  # the probability of |z| > 12 is 4e-33
_OCTAVES = (
    12  # 2^-12 is less than 1e-3, the smallest scale on which a function bends: celu's alpha, or softplus's 1/beta
)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)

_SOFTPLUS_THRESHOLD = 20.0
_RRELU_SLOPE = (1 / 8 + 1 / 3) / 2  # in evaluation mode; in training mode the slope is random
# selu's fixed point has mean 0 and variance 1: Klambauer et al. 2017, arXiv:1706.02515, equation 14.
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an activation function: torch's name, torch's default, and the allowed interval [low, high].

    The quadrature is accurate over the whole interval. The intervals contain every value in common use.
    """

    name: str
    default: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise activation function of ``torch.nn.functional`` with at most one free ``parameter``.

    All other parameters have torch's defaults. ``function`` takes an array (n,) and, if there is a ``parameter``, its
    value; it returns an array (n,). ``derivative`` takes the same; it is None for a function with jumps. ``kinks``
    takes only the value and returns the points other than 0 where the function is not smooth. ``formula`` is the
    function in mathematical notation.
    """

    name: str
    formula: str
    function: Callable[..., Array]
    derivative: Callable[..., Array] | None
    parameter: Parameter | None = None
    kinks: Callable[..., tuple[float, ...]] = lambda *_: ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ActivationGain:
    """The moments of f(z) for z ~ N(0, 1) and the two gains, to twelve significant digits.

    ``mean`` is E[f(z)] and ``second_moment`` is E[f(z)^2]. ``gain`` is 1 / sqrt(second_moment) and ``std_ratio`` is
    1 / std(f(z)). ``parameters`` maps torch's name of the parameter to its value. It is empty if there is no parameter.
    """

    nonlinearity: str
    parameters: dict[str, float]
    gain: float
    std_ratio: float
    mean: float
    second_moment: float


def _leaky_relu(z: Array, slope: float) -> Array:
    return np.maximum(z, 0.0) + slope * np.minimum(z, 0.0)


def _elu(z: Array, alpha: float, rate: float = 1.0) -> Array:
    return np.maximum(z, 0.0) + alpha * np.expm1(rate * np.minimum(z, 0.0))


def _sigmoid(z: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-z))


def _hardsigmoid(z: Array) -> Array:
    return np.clip(z + 3.0, 0.0, 6.0) / 6.0


def _softplus(z: Array, beta: float) -> Array:
    return np.where(beta * z > _SOFTPLUS_THRESHOLD, z, np.logaddexp(0.0, beta * z) / beta)


def _gelu(z: Array) -> Array:
    # numpy has no erf. erfc keeps the digits that 1 + erf would lose in the lower tail.
    return np.array([0.5 * x * math.erfc(-x * math.sqrt(0.5)) for x in z.tolist()])


def _gelu_tanh(z: Array) -> Array:
    # Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2.
    return 0.5 * z * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))


# Derivatives, which are 0 or 1 at a kink.


def _step(z: Array, slope: float = 0.0) -> Array:
    return np.where(z > 0.0, 1.0, slope)


def _within(z: Array, low: float, high: float, slope: float = 1.0) -> Array:
    return np.where((z > low) & (z < high), slope, 0.0)


def _elu_slope(z: Array, alpha: float, rate: float = 1.0) -> Array:
    return np.where(z > 0.0, 1.0, alpha * rate * np.exp(rate * np.minimum(z, 0.0)))


def _sigmoid_slope(z: Array) -> Array:
    return _sigmoid(z) * _sigmoid(-z)


def _gelu_slope(z: Array) -> Array:
    density = np.exp(-(z**2) / 2.0) / math.sqrt(2.0 * math.pi)
    return np.array([0.5 * math.erfc(-x * math.sqrt(0.5)) for x in z.tolist()]) + z * density


def _gelu_tanh_slope(z: Array) -> Array:
    t = np.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3))
    inner = math.sqrt(2.0 / math.pi) * (1.0 + 3 * 0.044715 * z**2)
    return 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t**2) * inner


def _mish_slope(z: Array) -> Array:
    t = np.tanh(np.logaddexp(0.0, z))
    return t + z * (1.0 - t**2) * _sigmoid(z)


def _softplus_slope(z: Array, beta: float) -> Array:
    return np.where(beta * z > _SOFTPLUS_THRESHOLD, 1.0, _sigmoid(beta * z))


def _hardswish_slope(z: Array) -> Array:
    return np.where(np.abs(z) < 3.0, (2.0 * z + 3.0) / 6.0, _step(z))


def _factor(name: str, default: float) -> Parameter:
    """Return a parameter that only multiplies the negative side. It may have either sign and any reasonable size."""
    return Parameter(name, default, -1e6, 1e6)


_LAMBD = Parameter("lambd", 0.5, 0.0, 8.0)

ACTIVATIONS: dict[str, Activation] = {
    row.name: row
    for row in (
        Activation("linear", "z", lambda z: z, np.ones_like, aliases=("identity",)),
        Activation("relu", "max(z, 0)", lambda z: np.maximum(z, 0.0), _step),
        Activation(
            "leaky_relu",
            "max(z, 0) + negative_slope * min(z, 0)",
            _leaky_relu,
            _step,
            _factor("negative_slope", 0.01),
        ),
        Activation("prelu", "max(z, 0) + weight * min(z, 0)", _leaky_relu, _step, _factor("weight", 0.25)),
        Activation(
            "rrelu",
            "max(z, 0) + 11/48 * min(z, 0)",
            lambda z: _leaky_relu(z, _RRELU_SLOPE),
            lambda z: _step(z, _RRELU_SLOPE),
        ),
        Activation(
            "relu6",
            "min(max(z, 0), 6)",
            lambda z: np.clip(z, 0.0, 6.0),
            lambda z: _within(z, 0.0, 6.0),
            kinks=lambda: (6.0,),
        ),
        Activation("elu", "max(z, 0) + alpha * (exp(min(z, 0)) - 1)", _elu, _elu_slope, _factor("alpha", 1.0)),
        Activation(
            "celu",
            "max(z, 0) + alpha * (exp(min(z, 0) / alpha) - 1)",
            lambda z, alpha: _elu(z, alpha, 1.0 / alpha),
            lambda z, alpha: _elu_slope(z, alpha, 1.0 / alpha),
            Parameter("alpha", 1.0, 1e-3, 1e3),
        ),
        Activation(
            "selu",
            f"{_SELU_SCALE} * (max(z, 0) + {_SELU_ALPHA} * (exp(min(z, 0)) - 1))",
            lambda z: _SELU_SCALE * _elu(z, _SELU_ALPHA),
            lambda z: _SELU_SCALE * _elu_slope(z, _SELU_ALPHA),
        ),
        Activation("gelu", "z * Phi(z)", _gelu, _gelu_slope),
        Activation(
            "gelu_tanh", "z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 * z**3)))", _gelu_tanh, _gelu_tanh_slope
        ),
        Activation(
            "silu",
            "z / (1 + exp(-z))",
            lambda z: z * _sigmoid(z),
            lambda z: _sigmoid(z) + z * _sigmoid_slope(z),
            aliases=("swish",),
        ),
        Activation("mish", "z * tanh(log(1 + exp(z)))", lambda z: z * np.tanh(np.logaddexp(0.0, z)), _mish_slope),
        Activation(
            "softplus",
            "log(1 + exp(beta * z)) / beta if beta * z <= 20 else z",
            _softplus,
            _softplus_slope,
            Parameter("beta", 1.0, 1e-2, 1e3),
            kinks=lambda beta: (_SOFTPLUS_THRESHOLD / beta,),
        ),
        Activation(
            "softsign", "z / (1 + abs(z))", lambda z: z / (1.0 + np.abs(z)), lambda z: 1.0 / (1.0 + np.abs(z)) ** 2
        ),
        Activation("tanh", "tanh(z)", np.tanh, lambda z: 1.0 - np.tanh(z) ** 2),
        Activation("sigmoid", "1 / (1 + exp(-z))", _sigmoid, _sigmoid_slope),
        Activation("logsigmoid", "-log(1 + exp(-z))", lambda z: -np.logaddexp(0.0, -z), lambda z: _sigmoid(-z)),
        Activation(
            "hardtanh",
            "min(max(z, -1), 1)",
            lambda z: np.clip(z, -1.0, 1.0),
            lambda z: _within(z, -1.0, 1.0),
            kinks=lambda: (-1.0, 1.0),
        ),
        Activation(
            "hardsigmoid",
            "min(max(z + 3, 0), 6) / 6",
            _hardsigmoid,
            lambda z: _within(z, -3.0, 3.0, 1 / 6),
            kinks=lambda: (-3.0, 3.0),
        ),
        Activation(
            "hardswish",
            "z * min(max(z + 3, 0), 6) / 6",
            lambda z: z * _hardsigmoid(z),
            _hardswish_slope,
            kinks=lambda: (-3.0, 3.0),
        ),
        Activation("tanhshrink", "z - tanh(z)", lambda z: z - np.tanh(z), lambda z: np.tanh(z) ** 2),
        Activation(
            "softshrink",
            "z - min(max(z, -lambd), lambd)",
            lambda z, lambd: z - np.clip(z, -lambd, lambd),
            lambda z, lambd: 1.0 - _within(z, -lambd, lambd),
            _LAMBD,
            kinks=lambda lambd: (-lambd, lambd),
        ),
        Activation(
            "hardshrink",
            "z if abs(z) > lambd else 0",
            lambda z, lambd: np.where(np.abs(z) > lambd, z, 0.0),
            None,
            _LAMBD,
            kinks=lambda lambd: (-lambd, lambd),
        ),
    )
}

BY_NAME = {name: row for row in ACTIVATIONS.values() for name in (row.name, *row.aliases)}


def activation(name: str, *, field: str = "nonlinearity") -> Activation:
    """Return the row of the table that ``name`` or an alias names, case-sensitively; raise ``InvalidSpec`` if none."""
    try:
        return BY_NAME[name]
    except KeyError:
        hint = did_you_mean(name, BY_NAME)
        raise InvalidSpec(field, got=name, expected=f"one of {', '.join(BY_NAME)}", hint=hint) from None


def activation_gain(nonlinearity: str, /, **parameters: float | None) -> ActivationGain:
    """Compute the gains of an activation function.

    Pass the function's parameter by torch's name or as ``param``. ``None`` means torch's default.

    Raises ``InvalidSpec`` for an unknown activation function, for a parameter that the function does not have, and for
    a value that is not a number in the parameter's interval.
    """
    row = activation(nonlinearity)
    settled = settle(row, {name: value for name, value in parameters.items() if value is not None})
    mean, second_moment, variance = _moments(row, *settled.values())
    gain, std_ratio = 1.0 / math.sqrt(second_moment), 1.0 / math.sqrt(variance)
    return ActivationGain(
        row.name,
        settled,
        gain=_rounded(gain, gain),
        std_ratio=_rounded(std_ratio, std_ratio),
        mean=_rounded(mean, math.sqrt(second_moment)),
        second_moment=_rounded(second_moment, second_moment),
    )


def activation_gains() -> dict[str, ActivationGain]:
    """Compute the gains of every activation function at torch's defaults."""
    return {name: activation_gain(name) for name in ACTIVATIONS}


def settle(row: Activation, given: Mapping[str, float]) -> dict[str, float]:
    """Return the parameter of ``row`` under torch's name, as given or by default; raise ``InvalidSpec``."""
    for field, value in given.items():
        _check(row, field, value)
    if len(given) > 1:
        raise InvalidSpec("param", got=given["param"], expected="absent where the parameter is given by its name")
    if row.parameter is None:
        return {}
    return {row.parameter.name: float(next(iter(given.values()), row.parameter.default))}


def _check(row: Activation, field: str, value: float) -> None:
    """Raise ``InvalidSpec`` unless ``field`` names the parameter of ``row`` and ``value`` is in its interval."""
    parameter = row.parameter
    if parameter is None:
        raise InvalidSpec(field, got=value, expected=f"absent, since {row.name} takes no parameter")
    if field not in (parameter.name, "param"):
        raise InvalidSpec(field, got=value, expected=f"absent, since {row.name} takes {parameter.name}")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and parameter.low <= value <= parameter.high):
        raise InvalidSpec(field, got=value, expected=f"a number in [{parameter.low:g}, {parameter.high:g}]")


@lru_cache(maxsize=1024)
def _moments(row: Activation, *values: float) -> tuple[float, float, float]:
    """Return E[f(z)], E[f(z)^2] and Var[f(z)], where f is the function of ``row`` at the ``values`` of its parameters.

    The variance is computed in a second pass: the difference E[f^2] - E[f]^2 would cancel leading digits.
    """
    nodes, weights = normal_rule(row.kinks(*values))
    f = row.function(nodes, *values)

    def expectation(samples: Array) -> float:
        """Sum exactly, so that odd functions have a mean of exactly 0 and the order of the nodes does not matter."""
        return math.fsum((weights * samples).tolist())

    mean = expectation(f)
    return mean, expectation(f**2), expectation((f - mean) ** 2)


@lru_cache(maxsize=64)
def normal_rule(kinks: tuple[float, ...], octaves: int = _OCTAVES) -> tuple[Array, Array]:
    """Return nodes (n,) and weights (n,) such that sum(weights * f(nodes)) = E[f(z)] for z ~ N(0, 1).

    The weights include the normal density. Gauss-Hermite quadrature would converge
    slowly, since most functions of the table are not smooth. Here, Gauss-Legendre panels end at every kink, so the
    function is analytic on each panel. The panels shrink geometrically towards 0, down to 2^-octaves, since a parameter
    can make a function bend there on a scale down to 1e-3.
    """
    scales = [0.0, *(2.0**-octave for octave in range(octaves, 0, -1)), *range(1, _REACH + 1)]
    within = [kink for kink in kinks if abs(kink) < _REACH]
    edges = np.unique([*scales, *(-scale for scale in scales), *within])
    centres, halves = (edges[1:] + edges[:-1]) / 2.0, (edges[1:] - edges[:-1]) / 2.0
    nodes = np.ravel(centres[:, None] + halves[:, None] * _NODES)
    density = np.exp(-(nodes**2) / 2.0) / math.sqrt(2.0 * math.pi)
    weights = np.ravel(halves[:, None] * _WEIGHTS) * density
    nodes.setflags(write=False)
    weights.setflags(write=False)
    return nodes, weights


def _rounded(value: float, scale: float) -> float:
    """Round to the decimal place of the last significant digit of ``scale`` > 0. The result is never -0.0."""
    return round(value, SIGNIFICANT_DIGITS - 1 - Decimal(scale).adjusted()) + 0.0
