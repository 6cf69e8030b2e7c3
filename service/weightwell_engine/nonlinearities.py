"""The gains that torch recommends: ``torch.nn.init.calculate_gain`` as a table.

torch's authors chose each value for a different reason. Only the values of piecewise linear functions follow from a
formula. ``quadrature`` computes the effect of a nonlinearity on the scale of a normal input. docs/gains.md compares the
two.
"""

import math
from dataclasses import dataclass

from weightwell_engine.exceptions import InvalidSpec, did_you_mean
from weightwell_engine.quadrature import BY_NAME

_HE = "He et al. 2015, arXiv:1502.01852, section 2.2"
_FIRST_TABLE = "pytorch/pytorch#1172, without a derivation"


@dataclass(frozen=True, slots=True)
class Nonlinearity:
    """One row of torch's table.

    ``formula`` is the gain in mathematical notation. ``gain`` is its value at the default of the parameter. ``param``
    is torch's name of the parameter that the gain depends on, and ``default`` is torch's default. Both are ``None`` if
    the nonlinearity has no parameter.
    """

    name: str
    formula: str
    gain: float
    reference: str
    param: str | None = None
    default: float | None = None


def _leaky_relu_gain(negative_slope: float, *, portable: bool = False) -> float:
    """Return sqrt(2 / (1 + negative_slope^2)), He et al. 2015, equation 15.

    torch squares with ``**``, which calls the platform's ``pow``. That result is within an ulp of the square, but it is
    not always the nearest float, and it differs between platforms. By IEEE 754, a product is always the nearest float.
    """
    square = negative_slope * negative_slope if portable else negative_slope**2
    return math.sqrt(2.0 / (1 + square))


# torch's documentation lists "Linear / Identity", but torch's code has no `identity`. Here it is an alias of `linear`.
_LINEAR = (
    "linear",
    "identity",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)

NONLINEARITIES: dict[str, Nonlinearity] = {
    row.name: row
    for row in (
        *(Nonlinearity(name, "1", 1.0, "Glorot & Bengio 2010, section 4.2.1") for name in _LINEAR),
        Nonlinearity("sigmoid", "1", 1.0, _FIRST_TABLE),
        Nonlinearity("tanh", "5/3", 5.0 / 3, _FIRST_TABLE),
        Nonlinearity("relu", "sqrt(2)", math.sqrt(2.0), _HE),
        Nonlinearity(
            "leaky_relu",
            "sqrt(2 / (1 + negative_slope**2))",
            _leaky_relu_gain(0.01),
            _HE,
            param="negative_slope",
            default=0.01,
        ),
        # Some published tables print 4/3. torch's value was found by experiment and is less than 1.
        Nonlinearity("selu", "3/4", 3.0 / 4, "pytorch/pytorch#50664, found empirically"),
    )
}


def nonlinearity(name: str) -> Nonlinearity:
    """Return the row of the table that ``name`` names, case-sensitively; raise ``InvalidSpec`` if there is none."""
    try:
        return NONLINEARITIES[name]
    except KeyError:
        raise InvalidSpec(
            "nonlinearity",
            got=name,
            expected=f"one of {', '.join(NONLINEARITIES)}",
            detail=f"Unsupported nonlinearity {name}",
            hint=_hint(name),
        ) from None


def _hint(name: str) -> str | None:
    """Return what to do about a nonlinearity that torch's table lacks."""
    if name in BY_NAME:
        measured = f"/gain with source=quadrature measures the gain of {name}, for which torch recommends none"
        return f"{measured}; gain_source=quadrature in a scheme uses it"
    return did_you_mean(name, (*NONLINEARITIES, *BY_NAME))


def calculate_gain(name: str, param: float | None = None, *, portable: bool = False) -> float:
    """Return torch's recommended gain for the nonlinearity ``name``, a positive number.

    ``param`` is the ``negative_slope`` of ``leaky_relu``, in (-1.3e154, 1.3e154). ``None`` means torch's default, 0.01.
    The result has the same bits as ``torch.nn.init.calculate_gain`` on the same machine. With ``portable``, it has the
    same bits on every machine, and differs from torch's by one ulp for one slope in some thousands. Use ``portable`` to
    draw weights.

    Raises ``InvalidSpec`` with torch's message for every argument that torch refuses. It also raises ``InvalidSpec`` in
    two cases that torch accepts: a ``param`` for a nonlinearity without a parameter (torch ignores it; see
    ``Nonlinearity.param``), and a ``param`` for which the gain is not a positive number, such as NaN.
    """
    row = nonlinearity(name)
    if param is None:
        param = row.default
    elif row.param is None:
        raise InvalidSpec("param", got=param, expected=f"absent, since {name} takes no parameter")
    return row.gain if param is None else _gain_at(param, portable)


def gains() -> dict[str, float]:
    """Return the gain of every nonlinearity at the default of its parameter."""
    return {name: row.gain for name, row in NONLINEARITIES.items()}


def _gain_at(negative_slope: float, portable: bool) -> float:
    """Return leaky_relu's gain; raise ``InvalidSpec`` if the slope is not a number or the gain is not positive."""
    if isinstance(negative_slope, bool) or not isinstance(negative_slope, (int, float)):
        raise InvalidSpec(
            "param",
            got=negative_slope,
            expected="a number",
            detail=f"negative_slope {negative_slope} not a valid number",
        )
    try:
        gain = _leaky_relu_gain(negative_slope, portable=portable)
    except OverflowError:
        gain = 0.0
    if gain > 0.0:
        return gain
    raise InvalidSpec("param", got=negative_slope, expected="a finite number of size less than 1.3e154")
