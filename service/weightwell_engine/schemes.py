"""The scheme registry: every initialization scheme, as a pure function that returns a law.

A scheme is a function. Its first argument, if any, is the ``shape``, the ``fans`` or the ``axes`` of the tensor. Its
keyword arguments are its parameters, with torch's names and defaults if torch has them. Their annotations have the
allowed intervals and the meaning. A registered scheme is automatically in the HTTP models, the OpenAPI document, the
catalogue and the parametrized tests.

Laws must be the same on every machine, so this module uses only ``+ - * /`` and ``sqrt``, and computed gains that are
rounded to twelve digits. The order of operations is torch's, so torch draws the same numbers.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, isfinite, prod, sqrt
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Interval

from weightwell_engine.axes import Axes, Layout, Shape
from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.fans import Fans
from weightwell_engine.laws import (
    ClampedNormal,
    Constant,
    Lattice,
    Law,
    Normal,
    Orthogonal,
    OrthogonalStack,
    PowersOfTwo,
    Sparse,
    TruncatedNormal,
    Uniform,
    UniformIntegers,
    Values,
)
from weightwell_engine.nonlinearities import calculate_gain, nonlinearity
from weightwell_engine.quadrature import activation, activation_gain
from weightwell_engine.spec import Parameter

Unit = Literal["element", "column", "matrix"]

GLOROT = "Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks"
HE = "He et al. 2015, Delving Deep into Rectifiers, arXiv:1502.01852"
SAXE = "Saxe et al. 2013, Exact solutions to the nonlinear dynamics of learning, arXiv:1312.6120"
MARTENS = "Martens 2010, Deep learning via Hessian-free optimization"
LECUN = "LeCun et al. 1998, Efficient BackProp"
XIAO = "Xiao et al. 2018, Dynamical Isometry and a Mean Field Theory of CNNs, arXiv:1806.05393"
STEWART = "Stewart 1980, The efficient generation of random orthogonal matrices"

_PORTABLE = "portable"

# Standard deviation of N(0, 1) conditioned on [-2, 2]: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
TRUNCATED_AT_2_STD = 0.87962566103423978


@dataclass(frozen=True, slots=True)
class Doc:
    """The meaning of a parameter, as a part of its annotation; ``omitted`` as in ``SchemeParameter``."""

    text: str
    omitted: bool = False


@dataclass(frozen=True, slots=True)
class SchemeParameter:
    """One parameter: its annotation with intervals, its meaning, and its default (``...`` for none).

    A canonical spec has every default, except those of ``omitted`` parameters. These parameters are newer than existing
    files, whose ETags must not change.
    """

    name: str
    annotation: Any
    doc: str
    default: Any
    omitted: bool = False

    @classmethod
    def of(cls, argument: inspect.Parameter) -> "SchemeParameter":
        """Return the parameter of a function's argument, whose annotation has a ``Doc``."""
        doc = next(extra for extra in get_args(argument.annotation) if isinstance(extra, Doc))
        default = ... if argument.default is argument.empty else argument.default
        return cls(argument.name, argument.annotation, doc.text, default, doc.omitted)


@dataclass(frozen=True, slots=True)
class Scheme:
    """One row of the registry.

    ``ndim`` is the closed interval of allowed dimensions, without batch axes. ``refusal`` is torch's message for other
    dimensions. ``needs`` is "shape", "fans", "axes" or None: the input of the law in addition to the parameters.
    ``unit`` is the smallest part that can be drawn. A slice or a byte range costs all units that it touches.
    ``has_gain``: the law uses ``calculate_gain``, whose last bit depends on the platform.
    """

    name: str
    aliases: tuple[str, ...]
    summary: str
    formula: str
    references: tuple[str, ...]
    ndim: tuple[int, int | None]
    refusal: str | None
    unit: Unit
    needs: str | None
    parameters: tuple[SchemeParameter, ...]
    function: Callable[..., Law]
    has_gain: bool

    def law(self, shape: Shape, parameters: Mapping[str, Parameter], *, portable: bool) -> Law:
        """Return the law of a tensor; raise ``InvalidSpec`` if the scheme is not defined for it.

        The law of a tensor without elements is a constant. A ``portable`` law has the same bits on every machine.
        Without ``portable``, it has torch's bits on this machine.
        """
        options, own = self._divided(parameters)
        axes = self.axes(shape, parameters)
        self._check_ndim(shape, batch=len(options.get("batch_axis", ())))
        if prod(shape) == 0 and self.needs == "fans":
            return Constant(0.0)
        if self.has_gain:
            own["portable"] = portable
        match self.needs:
            case "fans":
                return self.function(Fans.of(shape, **options), **own)
            case "axes":
                return self.function(axes, **own)
            case "shape":
                return self.function(shape, **own)
        return self.function(**own)

    def axes(self, shape: Shape, parameters: Mapping[str, Parameter]) -> Axes | None:
        """Return the roles of a tensor's axes, or None if the scheme does not use them; raises as ``Axes.of``."""
        if self.needs not in OPTIONS:
            return None
        return Axes.of(shape, **{name: each for name, each in self._divided(parameters)[0].items() if name in AXES})

    def fans(self, shape: Shape, parameters: Mapping[str, Parameter]) -> Fans:
        """Return the fans of the law. If the scheme does not use fans, return those of the shape.

        Groups do not apply to a tensor without elements. Raises as ``Fans.of``.
        """
        options = self._divided(parameters)[0]
        return Fans.of(shape, **{name: each for name, each in options.items() if name in AXES or 0 not in shape})

    def _divided(self, parameters: Mapping[str, Parameter]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options about axes and fans, and the scheme's own parameters."""
        options: dict[str, Any] = {}
        own: dict[str, Any] = {}
        known = OPTIONS.get(self.needs, {})
        for name, value in parameters.items():
            (options if name in known else own)[name] = value
        return options, own

    def _check_ndim(self, shape: Shape, *, batch: int) -> None:
        low, high = self.ndim
        if low <= len(shape) - batch <= (high or len(shape)):
            return
        expected = (
            f"{low} dimensions"
            if low == high
            else f"{low} to {high} dimensions"
            if high
            else f"{low} or more dimensions"
        )
        if batch:
            raise InvalidSpec("shape", got=list(shape), expected=f"{expected}, not counting batch_axis")
        raise InvalidSpec("shape", got=list(shape), expected=expected, detail=self.refusal)


SCHEMES: dict[str, Scheme] = {}
ALIASES: dict[str, str] = {}


def scheme(
    *aliases: str,
    formula: str,
    references: tuple[str, ...] = (),
    ndim: tuple[int, int | None] = (0, None),
    refusal: str | None = None,
    unit: Unit = "element",
) -> Callable[[Callable[..., Law]], Callable[..., Law]]:
    """Register the decorated function as a scheme under its own name and the given aliases."""

    def register(function: Callable[..., Law]) -> Callable[..., Law]:
        arguments = inspect.signature(function).parameters.values()
        needs = next((a.name for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD), None)
        own = [a for a in arguments if a.kind is a.KEYWORD_ONLY and a.name != _PORTABLE]
        name = function.__name__
        SCHEMES[name] = Scheme(
            name=name,
            aliases=aliases,
            summary=inspect.getdoc(function) or "",
            formula=formula,
            references=references,
            ndim=ndim,
            refusal=refusal,
            unit=unit,
            needs=needs,
            parameters=(*map(SchemeParameter.of, own), *OPTIONS.get(needs, {}).values()),
            function=function,
            has_gain=_PORTABLE in inspect.signature(function).parameters,
        )
        ALIASES.update(dict.fromkeys((name, *aliases), name))
        return function

    return register


Numbers = tuple[float, ...]
"""Annotation of a parameter that is a list of numbers."""

AxisList = Shape | None
"""Annotation of a parameter that is one axis or a list of axes."""


def _named(*parameters: SchemeParameter) -> dict[str, SchemeParameter]:
    return {parameter.name: parameter for parameter in parameters}


# Options about axes, of every scheme with fans or axes; Axes.of uses them.
_AXIS_OPTIONS = _named(
    SchemeParameter(
        "layout",
        Layout,
        "order of the axes that in_axis, out_axis and batch_axis do not name: torch is [out, in, *kernel]; "
        "jax, for Keras and Flax as well, is [*kernel, in, out]",
        "torch",
        omitted=True,
    ),
    SchemeParameter("in_axis", AxisList, "the axes of the inputs, such as 0 or -2; the layout's by default", None),
    SchemeParameter("out_axis", AxisList, "the axes of the outputs, such as -1; the layout's by default", None),
    SchemeParameter(
        "batch_axis",
        AxisList,
        "axes that index independent weights, such as 0 for stacked experts",
        (),
        omitted=True,
    ),
)

_Fan = Annotated[int | None, Interval(ge=1, le=2**63 - 1)]

# The options of schemes in addition to their parameters, by the input of their laws.
OPTIONS: dict[str | None, dict[str, SchemeParameter]] = {
    "axes": _AXIS_OPTIONS,
    # Fans.of uses them.
    "fans": _named(
        SchemeParameter("fan_in", _Fan, "replaces the fan-in computed from the shape", None),
        SchemeParameter("fan_out", _Fan, "replaces the fan-out computed from the shape", None),
        SchemeParameter("groups", Annotated[int, Ge(1)], "groups of a grouped convolution", 1),
        SchemeParameter(
            "transposed",
            bool,
            "whether the weight belongs to a transposed convolution, which exchanges in and out",
            False,
        ),
        *_AXIS_OPTIONS.values(),
    ),
}
# The options that Axes.of uses.
AXES = {*_AXIS_OPTIONS, "transposed"}

Gain = Annotated[float, Ge(0), Doc("factor on the standard deviation; see /gain")]
Factor = Annotated[float, Doc("factor on the matrix")]
Mean = Annotated[float, Doc("mean")]
Std = Annotated[float, Ge(0), Doc("standard deviation")]
Slope = Annotated[float, Doc("negative slope of the rectifier after this layer, only used with leaky_relu")]
FanMode = Annotated[
    Literal["fan_in", "fan_out"],
    Doc("the fan that scales the variance: fan_in keeps it in the forward pass, fan_out in the backward pass"),
]
AnyMode = Annotated[
    Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"],
    Doc("the fan, or the mean of both fans, that divides the scale"),
]
Nonlinearity = Annotated[str, Doc("nonlinearity after this layer, as torch.nn.init.calculate_gain names it")]
AnyNonlinearity = Annotated[
    str | None,
    Doc("nonlinearity after this layer, whose gain is another factor on the standard deviation", omitted=True),
]
GainSource = Annotated[
    Literal["torch", "quadrature"],
    Doc("where the gain of the nonlinearity comes from, as in /gain: torch's table, or computed", omitted=True),
]


# Constants -----------------------------------------------------------------------------------------------------------


@scheme(formula="val")
def constant(*, val: Annotated[float, Doc("the value")]) -> Law:
    """Fill with one value."""
    return Constant(val)


@scheme(formula="1")
def ones() -> Law:
    """Fill with ones."""
    return Constant(1.0)


@scheme(formula="0")
def zeros() -> Law:
    """Fill with zeros."""
    return Constant(0.0)


# Functions of the index ----------------------------------------------------------------------------------------------


@scheme(formula="1 where row = column, else 0", ndim=(2, 2), refusal="Only tensors with 2 dimensions are supported")
def eye(shape: Shape) -> Law:
    """Fill a matrix with the identity, which passes on as many inputs as there are outputs."""
    rows, cols = shape
    return Lattice(1.0, 0, (rows * cols, cols + 1), (1, min(rows, cols)))


@scheme(formula="gain where the last two indices are equal, else 0", ndim=(2, None))
def identity(shape: Shape, *, gain: Factor = 1.0) -> Law:
    """Fill with a stack of scaled identity matrices in the last two dimensions, one for each leading index."""
    *stack, rows, cols = shape
    return Lattice(gain, 0, (rows * cols, cols + 1), (prod(stack), min(rows, cols)))


@scheme(
    formula="1 at the centre of the kernel from input channel i to output channel i of each group, else 0",
    ndim=(3, 5),
    refusal="Only tensors with 3, 4, or 5 dimensions are supported",
)
def dirac(shape: Shape, *, groups: Annotated[int, Ge(1), Doc("groups of the convolution")] = 1) -> Law:
    """Fill a convolution with the Dirac delta, so that it passes its input on."""
    if shape[0] % groups:
        detail = "dim 0 must be divisible by groups"
        raise InvalidSpec("groups", got=groups, expected=f"a divisor of dim 0, which is {shape[0]}", detail=detail)
    outputs, taps = shape[0] // groups, prod(shape[2:])
    strides = (outputs * shape[1] * taps, (shape[1] + 1) * taps)
    return Lattice(
        1.0, _centre(tuple(size // 2 for size in shape[2:]), shape[2:]), strides, (groups, min(outputs, shape[1]))
    )


def _centre(index: Shape, kernel: Shape) -> int:
    """Flat index of a position in a kernel."""
    flat = 0
    for position, size in zip(index, kernel, strict=True):
        flat = flat * size + position
    return flat


@scheme(formula="values[i], i the index of the element in an array of dims, broadcast to the shape")
def values(
    shape: Shape,
    *,
    values: Annotated[Numbers, Doc("the numbers, in row-major order of an array of dims")],
    dims: Annotated[
        Shape | None, Doc("the sizes of the array, broadcast to the shape as numpy does; the shape")
    ] = None,
) -> Law:
    """Fill with given numbers, such as a small table that a model computes; they are repeated along missing axes."""
    sizes = shape if dims is None else dims
    padded = (1,) * (len(shape) - len(sizes)) + sizes
    if len(sizes) > len(shape) or any(size not in (1, whole) for size, whole in zip(padded, shape, strict=True)):
        expected = f"sizes that broadcast to the shape {list(shape)}: from the last on, each is that of the shape or 1"
        raise InvalidSpec("dims", got=list(sizes), expected=expected)
    if prod(sizes) != len(values):
        expected = f"{prod(sizes)} numbers, as many as {'the shape' if dims is None else 'dims'} says"
        raise InvalidSpec("values", got=f"{len(values)} numbers", expected=expected)
    strides = tuple(0 if size == 1 else prod(padded[axis + 1 :]) for axis, size in enumerate(padded))
    return Values(values, shape, strides)


# The schemes above draw nothing: their numbers follow from the index alone.
FIXED = frozenset(SCHEMES)


# Laws with given numbers ---------------------------------------------------------------------------------------------


@scheme(formula="U(a, b)")
def uniform(
    *,
    a: Annotated[float, Doc("lower bound")] = 0.0,
    b: Annotated[float, Doc("upper bound")] = 1.0,
) -> Law:
    """Draw from a uniform distribution."""
    if a > b:
        detail = f"uniform_ expects to return a [from, to) range, but found from={a:g} > to={b:g}"
        raise InvalidSpec("a", got=a, expected=f"at most b, which is {b!r}", detail=detail)
    return Uniform(a, b)


_Whole = Interval(ge=-(2**53), le=2**53)  # what every JSON reader keeps exactly
_Exponent = Interval(ge=-1022, le=1024)  # those of float64's normal numbers


@scheme(formula="an integer k, low <= k < high, each as likely as the others")
def randint(
    *,
    low: Annotated[int, _Whole, Doc("the lowest integer")] = 0,
    high: Annotated[int, _Whole, Doc("one above the highest integer")],
) -> Law:
    """Draw uniform integers, as torch.randint does: low can be drawn, high cannot. For packed weights and indices."""
    _check_order(low, high)
    return UniformIntegers(low, high)


@scheme(formula="2^k, k an integer, low <= k < high, each as likely as the others")
def power_of_two(
    *,
    low: Annotated[int, _Exponent, Doc("the lowest exponent")],
    high: Annotated[int, _Exponent, Doc("one above the highest exponent")],
) -> Law:
    """Draw powers of two, such as the scales of blocks in quantized weights; they are always positive and finite."""
    _check_order(low, high)
    return PowersOfTwo(low, high)


def _check_order(low: int, high: int) -> None:
    if low >= high:
        detail = f"low must be below high, which is not drawn, but found low={low} and high={high}"
        raise InvalidSpec("high", got=high, expected=f"above low, which is {low}", detail=detail)


@scheme(formula="N(mean, std^2)")
def normal(*, mean: Mean = 0.0, std: Std = 1.0) -> Law:
    """Draw from a normal distribution."""
    return Normal(mean, std)


@scheme(formula="N(mean, std^2) conditioned on [a, b]")
def trunc_normal(
    *,
    mean: Mean = 0.0,
    std: Std = 1.0,
    a: Annotated[float, Doc("lower bound, absolute")] = -2.0,
    b: Annotated[float, Doc("upper bound, absolute")] = 2.0,
) -> Law:
    """Draw from a normal distribution truncated at absolute bounds."""
    return _truncated("a", mean, std, a, b)


@scheme(formula="N(mean, std^2) conditioned on [mean + lower * std, mean + upper * std]")
def truncated_normal(
    *,
    mean: Mean = 0.0,
    std: Std = 1.0,
    lower: Annotated[float, Doc("lower bound, in standard deviations from the mean")] = -2.0,
    upper: Annotated[float, Doc("upper bound, in standard deviations from the mean")] = 2.0,
) -> Law:
    """Draw from a normal distribution truncated at bounds in standard deviations, as JAX and Haiku name it."""
    low, high = mean + lower * std, mean + upper * std
    for field, given, bound in (("lower", lower, low), ("upper", upper, high)):
        if not isfinite(bound):
            raise InvalidSpec(field, got=given, expected=f"such that mean + {field} * std is a finite number")
    return _truncated("lower", mean, std, low, high)


def _truncated(field: str, mean: float, std: float, low: float, high: float) -> Law:
    if low > high:
        raise InvalidSpec(field, got=low, expected=f"at most the upper bound, which is {high!r}")
    if std == 0:
        return Constant(min(max(mean, low), high))
    return TruncatedNormal(mean, std, low, high)


@scheme(formula="min(max(x, a), b), x from N(mean, std^2)")
def clamped_normal(
    *,
    mean: Mean = 0.0,
    std: Std = 1.0,
    a: Annotated[float, Doc("lower bound, absolute")] = -2.0,
    b: Annotated[float, Doc("upper bound, absolute")] = 2.0,
) -> Law:
    """Draw from a normal distribution, and move values beyond the bounds to them, as normal_ and clamp_ of torch do."""
    if a > b:
        raise InvalidSpec("a", got=a, expected=f"at most b, which is {b!r}")
    return Constant(min(max(mean, a), b)) if std == 0 else ClampedNormal(mean, std, a, b)


# Laws scaled by the fans ---------------------------------------------------------------------------------------------


@scheme("glorot_uniform", formula="U(-a, a), a = gain * sqrt(6 / (fan_in + fan_out))", references=(GLOROT,))
def xavier_uniform(
    fans: Fans,
    *,
    gain: Gain = 1.0,
    nonlinearity: AnyNonlinearity = None,
    gain_source: GainSource = "torch",
    portable: bool = True,
) -> Law:
    """Keep the variance of activations and of gradients about equal, with uniform draws."""
    gain *= _gain_factor(nonlinearity, gain_source, portable)
    return _uniform(gain * sqrt(2.0 / (fans.fan_in + fans.fan_out)))


@scheme("glorot_normal", formula="N(0, std^2), std = gain * sqrt(2 / (fan_in + fan_out))", references=(GLOROT,))
def xavier_normal(
    fans: Fans,
    *,
    gain: Gain = 1.0,
    nonlinearity: AnyNonlinearity = None,
    gain_source: GainSource = "torch",
    portable: bool = True,
) -> Law:
    """Keep the variance of activations and of gradients about equal, with normal draws."""
    gain *= _gain_factor(nonlinearity, gain_source, portable)
    return Normal(0.0, gain * sqrt(2.0 / (fans.fan_in + fans.fan_out)))


@scheme("he_uniform", formula="U(-bound, bound), bound = gain(nonlinearity, a) * sqrt(3 / fan)", references=(HE,))
def kaiming_uniform(
    fans: Fans,
    *,
    a: Slope = 0.0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    gain_source: GainSource = "torch",
    portable: bool = True,
) -> Law:
    """Keep the variance through rectifiers, forward or backward, with uniform draws."""
    return _uniform(_gain(nonlinearity, a, gain_source, portable) / sqrt(fans.mode(mode)))


@scheme("he_normal", formula="N(0, std^2), std = gain(nonlinearity, a) / sqrt(fan)", references=(HE,))
def kaiming_normal(
    fans: Fans,
    *,
    a: Slope = 0.0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    gain_source: GainSource = "torch",
    portable: bool = True,
) -> Law:
    """Keep the variance through rectifiers, forward or backward, with normal draws."""
    return Normal(0.0, _gain(nonlinearity, a, gain_source, portable) / sqrt(fans.mode(mode)))


@scheme(
    formula="variance scale / fan: normal, uniform, or normal truncated at 2 standard deviations",
    references=(HE, GLOROT),
)
def variance_scaling(
    fans: Fans,
    *,
    scale: Annotated[float, Gt(0), Doc("factor on the variance")] = 1.0,
    mode: AnyMode = "fan_in",
    distribution: Annotated[
        Literal["truncated_normal", "normal", "uniform"], Doc("shape of the law")
    ] = "truncated_normal",
) -> Law:
    """Draw with variance scale / fan, as in Keras and JAX. Most other schemes are special cases."""
    std = sqrt(scale / fans.mode(mode))
    if distribution == "uniform":
        return _uniform(std)
    if distribution == "normal":
        return Normal(0.0, std)
    wide = std / TRUNCATED_AT_2_STD
    return _truncated("scale", 0.0, wide, -2.0 * wide, 2.0 * wide)


@scheme(formula="U(-a, a), a = sqrt(3 / fan_in)", references=(LECUN,))
def lecun_uniform(fans: Fans) -> Law:
    """Give a weighted sum of standardized inputs unit variance, with uniform draws."""
    return variance_scaling(fans, distribution="uniform")


@scheme(formula="N(0, std^2) truncated at 2 std, of variance 1 / fan_in", references=(LECUN,))
def lecun_normal(fans: Fans) -> Law:
    """Give a weighted sum of standardized inputs unit variance, with truncated normal draws."""
    return variance_scaling(fans)


def _gain(name: str, a: float | None, source: str, portable: bool) -> float:
    """Return the gain of a nonlinearity. ``a`` is the slope of leaky_relu, None for torch's default; others ignore it.

    A computed gain has twelve digits, which are the same on every machine at torch's defaults. That of leaky_relu
    follows from a formula, which is torch's.
    """
    if source == "quadrature" and (row := activation(name).name) not in ("linear", "relu", "leaky_relu"):
        return activation_gain(row).gain
    try:
        return calculate_gain(name, a if nonlinearity(name).param else None, portable=portable)
    except InvalidSpec as error:
        raise InvalidSpec("a", got=a, expected=error.expected) if error.field == "param" else error from None


def _gain_factor(name: str | None, source: str, portable: bool) -> float:
    """Return the gain of a nonlinearity that need not be given."""
    if name is not None:
        return _gain(name, None, source, portable)
    if source != "torch":
        raise InvalidSpec("gain_source", got=source, expected="given together with a nonlinearity")
    return 1.0


def _uniform(std: float) -> Law:
    bound = sqrt(3.0) * std
    return Uniform(-bound, bound)


# Laws of a whole matrix ----------------------------------------------------------------------------------------------


@scheme(
    formula="gain * Q, Q uniform (Haar) among matrices with orthonormal rows or columns",
    references=(SAXE, STEWART),
    ndim=(2, None),
    refusal="Only tensors with 2 or more dimensions are supported",
    unit="matrix",
)
def orthogonal(axes: Axes, *, gain: Factor = 1.0) -> Law:
    """Fill with a random (semi-)orthogonal matrix of outputs x all other axes; one for each index of the batch."""
    return _matrices(axes, gain, axes.size(axes.inputs) * axes.size(axes.kernel))


@scheme(formula="gain * Q at the centre of the kernel, zero elsewhere", references=(XIAO,), ndim=(3, 5), unit="matrix")
def delta_orthogonal(axes: Axes, *, gain: Factor = 1.0) -> Law:
    """Fill a convolution with a random orthogonal map of its channels; needs in <= out channels."""
    rows, cols, kernel = axes.size(axes.outputs), axes.size(axes.inputs), axes.sizes(axes.kernel)
    if cols > rows:
        expected = f"at most as many input channels as output channels; the shape has {cols} and {rows}"
        raise InvalidSpec("shape", got=list(axes.shape), expected=expected)
    centre = _centre(tuple((size - 1) // 2 for size in kernel), kernel)
    return _matrices(axes, gain, cols, prod(kernel), centre)


def _matrices(axes: Axes, gain: float, cols: int, taps: int = 1, centre: int = 0) -> Law:
    """Return the law of orthogonal matrices, with one row for each output."""
    law = Orthogonal(axes.size(axes.outputs), cols, gain, taps, centre)
    count, (sizes, strides) = axes.size(axes.batch), axes.strides()
    if count == 1 and len(sizes) == 1:
        return law
    return OrthogonalStack(law.rows, law.cols, gain, taps, centre, count, sizes, strides)


@scheme(
    formula="N(0, std^2), with ceil(sparsity * rows) random elements of every column zero",
    references=(MARTENS,),
    ndim=(2, 2),
    refusal="Only tensors with 2 dimensions are supported",
    unit="column",
)
def sparse(
    shape: Shape,
    *,
    sparsity: Annotated[float, Interval(ge=0, le=1), Doc("fraction of the elements of every column that are zero")],
    std: Std = 0.01,
) -> Law:
    """Fill a matrix with normal draws, and set some elements of every column to zero."""
    rows, cols = shape
    return Sparse(rows, cols, ceil(sparsity * rows), std)
