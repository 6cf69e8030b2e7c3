"""Questions for signals: a stack of equal layers, or a list of layers."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, create_model

from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs
from weightwell_engine.parsing.fields import DEFAULT_DTYPE, Seeds
from weightwell_engine.parsing.models import SINGLES, Model, models_of, of_scheme, scheme_of, validate
from weightwell_engine.parsing.reading import parse_object
from weightwell_engine.quadrature import activation, settle
from weightwell_engine.schemes import AXES, SCHEMES
from weightwell_engine.stack import Draw, Kind, Layer, Normalization, Padding, Residual, Stack

MAX_WIDTH = 2**20
MAX_LAYERS = 4096
MAX_IMAGE = 2**12
MAX_KERNEL = 63

# Schemes of which every element has the same law, whatever the shape: those of biases and inputs.
Elementwise = Literal[
    "zeros", "ones", "constant", "uniform", "normal", "trunc_normal", "truncated_normal", "clamped_normal"
]

# Their parameters, which are the same for all of them.
_PARAMETERS = tuple(
    dict.fromkeys(parameter.name for scheme in get_args(Elementwise) for parameter in SCHEMES[scheme].parameters)
)


def _parameters_of(tensor: str) -> dict[str, Any]:
    """Return the fields of the parameters of the scheme of a tensor, such as ``bias_std``, to make a model with."""
    return {
        f"{tensor}_{name}": (
            Annotated[float | None, Field(description=f"parameter {name} of the scheme of the {tensor}")],
            None,
        )
        for name in _PARAMETERS
    }


class LayerFields(Model):
    """The fields of a layer other than the scheme of its weight and its parameters."""

    width: Annotated[int, Field(ge=1, le=MAX_WIDTH, description="number of outputs, or of output channels")] = 256
    kind: Annotated[Kind, Field(description="linear, or a convolution of images")] = "linear"
    activation: Annotated[
        str, Field(description="activation function, by its name in /gain with source=quadrature", examples=["relu"])
    ] = "relu"
    param: Annotated[
        float | None, Field(description="parameter of the activation function; torch's default if absent")
    ] = None
    normalization: Annotated[Normalization, Field(description="normalization in front of the activation function")] = (
        "none"
    )
    norm_groups: Annotated[
        int, Field(ge=1, le=MAX_WIDTH, description="groups of normalization=group, a divisor of the width")
    ] = 8
    residual: Annotated[
        Residual,
        Field(
            description="none: f(norm(W x + b)); pre-norm: x + W f(norm(x)) + b; post-norm: norm(x + W f(x) + b), "
            "where f is the activation function"
        ),
    ] = "none"
    kernel_size: Annotated[
        int, Field(ge=1, le=MAX_KERNEL, description="height and width of the kernel of conv2d, an odd number")
    ] = 3
    stride: Annotated[int, Field(ge=1, le=MAX_KERNEL, description="stride of conv2d")] = 1
    padding: Annotated[
        Padding, Field(description="padding of conv2d by kernel_size // 2; theory applies to circular")
    ] = "zeros"
    bias: Annotated[Literal[Elementwise, "none"], Field(description="scheme of the bias, or none")] = "zeros"


class StackFields(Model):
    """The fields of a stack other than those of its layers."""

    input_width: Annotated[
        int | None,
        Field(ge=1, le=MAX_WIDTH, description="number of inputs, or of input channels; the first width if absent"),
    ] = None
    image_size: Annotated[
        int, Field(ge=1, le=MAX_IMAGE, description="height and width of the input, if the first layer is conv2d")
    ] = 8
    input: Annotated[Elementwise, Field(description="scheme of the input")] = "normal"
    correlation: Annotated[float, Field(ge=-1, le=1, description="correlation of the two inputs")] = 0.5
    batch: Annotated[int, Field(ge=1, le=2**16, description="number of examples")] = 16
    seeds: Annotated[Seeds, Field(description="seeds; each draws a network of its own")] = (0,)
    dtype: Annotated[
        Literal["float32", "float64", "float16", "bfloat16"],
        Field(description="element type of the weights and of the computation"),
    ] = DEFAULT_DTYPE  # type: ignore[assignment]


class EqualLayers(LayerFields, StackFields):
    """A stack of equal layers."""

    depth: Annotated[int, Field(ge=1, le=MAX_LAYERS, description="number of layers")] = 50


class LayerEntry(LayerFields):
    """One layer of a list, or several equal layers."""

    repeat: Annotated[int, Field(ge=1, le=MAX_LAYERS, description="number of such layers in a row")] = 1


class ListedLayers(StackFields):
    """A stack of the layers of a list."""

    layers: Annotated[
        list[Any], Field(min_length=1, max_length=MAX_LAYERS, description="the layers, from the input to the output")
    ]


# Axes have their usual roles in a layer. Given values are for one shape.
_OMITTED = {*AXES, "groups"}
_NAMES = [name for name in SCHEMES if name != "values"]

_BIAS, _INPUT = _parameters_of("bias"), _parameters_of("input")

EQUAL_LAYERS = models_of(EqualLayers, _NAMES, omitted=_OMITTED, more=_BIAS | _INPUT)
LAYER_ENTRIES = models_of(LayerEntry, _NAMES, omitted=_OMITTED, more=_BIAS)
LayerList = create_model("LayerList", __base__=ListedLayers, __doc__=ListedLayers.__doc__, **_INPUT)

DEFAULT_SCHEME = "kaiming_normal"


def read_signal(fields: Mapping[str, object], *, strings: bool = False) -> Stack:
    """Return the stack in some fields, which are text if ``strings``; raise ``InvalidSpec`` or ``InvalidSpecs``.

    The fields are those of ``LayerList``, if there are ``layers``, or else those of ``EqualLayers`` with a scheme.
    """
    if "layers" in fields and not strings:
        model = validate(LayerList, fields)
        return _stack(model, _listed(model.layers))
    named = {"scheme": DEFAULT_SCHEME, **fields}
    equal = validate(of_scheme(named, EQUAL_LAYERS), named, strings=strings)
    return _stack(equal, (_layer(equal),) * equal.depth)


def read_signal_document(text: bytes) -> Stack:
    """Return the stack in a JSON document; raise as ``read_signal``, ``MalformedDocument`` and ``TooLarge``."""
    return read_signal(parse_object(text))


def _listed(entries: list[Any]) -> tuple[Layer, ...]:
    """Return the layers of a list; raise ``InvalidSpecs`` with the errors of all."""
    found: list[Layer] = []
    errors: list[InvalidSpec] = []
    for place, entry in enumerate(entries):
        try:
            model = _entry(entry)
            found += (_layer(model),) * model.repeat
        except (InvalidSpec, InvalidSpecs) as error:
            errors += [each.within(f"layers.{place}") for each in error.errors]
        if len(found) > MAX_LAYERS:
            raise InvalidSpec("layers", got=f"more than {MAX_LAYERS} layers", expected=f"at most {MAX_LAYERS} layers")
    if errors:
        raise InvalidSpecs(errors)
    return tuple(found)


def _entry(fields: object) -> LayerEntry:
    if not isinstance(fields, dict):
        raise InvalidSpec("layer", got=fields, expected='an object such as {"width": 256, "scheme": "he_normal"}')
    named = {"scheme": DEFAULT_SCHEME, **fields}
    return validate(of_scheme(named, LAYER_ENTRIES), named)


def _layer(model: LayerFields) -> Layer:
    row = activation(model.activation, field="activation")
    settle(row, {} if model.param is None else {"param": model.param})
    conv = model.kind == "conv2d"
    if conv and model.kernel_size % 2 == 0:
        raise InvalidSpec("kernel_size", got=model.kernel_size, expected="an odd number")
    if model.normalization == "group" and model.width % model.norm_groups:
        expected = f"a divisor of the width, which is {model.width}"
        raise InvalidSpec("norm_groups", got=model.norm_groups, expected=expected)
    if model.normalization == "instance" and not conv:
        expected = "none, layer, rms, batch or group in a linear layer, where a channel of an example is one number"
        raise InvalidSpec("normalization", got="instance", expected=expected)
    return Layer(
        kind=model.kind,
        width=model.width,
        weight=Draw.of(*scheme_of(model)),
        bias=None if model.bias == "none" else _draw("bias", model),
        activation=row.name,
        param=model.param,
        normalization=model.normalization,
        norm_groups=model.norm_groups,
        residual=model.residual,
        kernel_size=model.kernel_size if conv else 1,
        stride=model.stride if conv else 1,
        padding=model.padding if conv else "zeros",
    )


def _draw(prefix: str, model: Model) -> Draw:
    """Return the scheme in a field and its parameters in the fields ``PREFIX_NAME``; raise ``InvalidSpec`` for both."""
    scheme: str = getattr(model, prefix)
    start = f"{prefix}_"
    given = {name: getattr(model, start + name) for name in _PARAMETERS}
    parameters = {name: value for name, value in given.items() if value is not None}
    known = {each.name: each.default for each in SCHEMES[scheme].parameters}
    for name, value in parameters.items():
        if name not in known:
            raise InvalidSpec(start + name, got=value, expected=f"absent, since {prefix} is {scheme}")
    try:
        settled = scheme_of(validate(SINGLES[scheme], {"shape": [1], "scheme": scheme, **parameters}))
        SCHEMES[scheme].law((1,), settled[1], portable=True)
    except (InvalidSpec, InvalidSpecs) as error:
        errors = [each.under(start) for each in error.errors]
        raise errors[0] if len(errors) == 1 else InvalidSpecs(errors) from None
    return Draw.of(*settled)


def _stack(model: StackFields, layers: tuple[Layer, ...]) -> Stack:
    first = layers[0]
    stack = Stack(
        layers=layers,
        input=_draw("input", model),
        input_width=first.width if model.input_width is None else model.input_width,
        image_size=model.image_size if first.kind == "conv2d" else 1,
        correlation=model.correlation,
        batch=model.batch,
        seeds=model.seeds,
        dtype=model.dtype,
    )
    for index, layer in enumerate(layers):
        try:
            _check_layer(stack, index, layer)
        except InvalidSpec as error:
            raise error.within(f"layer {index + 1}") if isinstance(model, LayerList) else error from None
    return stack


def _check_layer(stack: Stack, index: int, layer: Layer) -> None:
    """Raise ``InvalidSpec`` for a layer that does not fit the signal before it."""
    (channels, height), (_, after) = stack.sizes[index : index + 2]
    if layer.kind == "conv2d":
        if index and stack.layers[index - 1].kind == "linear":
            raise InvalidSpec("kind", got="conv2d", expected="linear after a linear layer, whose output is no image")
        if layer.kernel_size // 2 > height:
            expected = f"at most {2 * height + 1} for an image of {height} x {height}"
            raise InvalidSpec("kernel_size", got=layer.kernel_size, expected=expected)
    if layer.residual != "none" and (layer.width, after) != (channels, height):
        said = f"{channels} channels of {height} x {height}" if height > 1 else f"{channels} outputs"
        expected = f"none for a layer that does not keep the shape of its input, which has {said}"
        raise InvalidSpec("residual", got=layer.residual, expected=expected)
    size = after if layer.residual == "none" else height
    if layer.normalization == "batch" and stack.batch * size * size < 2:
        raise InvalidSpec("batch", got=stack.batch, expected="2 or more with normalization=batch")
    if layer.normalization == "instance" and size < 2:
        expected = "another one for images of one pixel"
        raise InvalidSpec("normalization", got="instance", expected=expected)
