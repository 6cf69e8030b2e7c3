"""Questions for signals: what is read, and what is refused."""

import json
from typing import Any

import pytest

from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs, MalformedDocument
from weightwell_engine.parsing import EQUAL_LAYERS, read_signal, read_signal_document
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.stack import Stack


def test_a_query_and_a_body_are_the_same_question() -> None:
    fields = {"depth": 3, "width": 8, "scheme": "he_normal", "a": 0.25, "bias": "normal", "bias_std": 0.1,
              "seeds": [0, 2**64 - 1], "normalization": "layer"}  # fmt: skip
    query = {name: ",".join(map(str, each)) if isinstance(each, list) else str(each) for name, each in fields.items()}
    stack = read_signal(fields)
    assert read_signal(query, strings=True) == stack == read_signal_document(json.dumps(fields).encode())
    assert stack.seeds == (0, 2**64 - 1)
    assert stack.layers[0].weight.parameters == {"a": 0.25, "mode": "fan_in", "nonlinearity": "leaky_relu"}
    assert stack.layers[0].bias is not None
    assert stack.layers[0].bias.parameters == {"mean": 0.0, "std": 0.1}


def test_no_field_is_required() -> None:
    stack = read_signal({}, strings=True)
    assert (len(stack.layers), stack.input_width, stack.batch, stack.seeds) == (50, 256, 16, (0,))
    assert stack.layers[0].weight.scheme == "kaiming_normal"


def test_every_scheme_but_values_draws_layers() -> None:
    assert EQUAL_LAYERS.keys() == SCHEMES.keys() - {"values"}


def test_layers_are_repeated_and_have_the_inputs_of_the_layer_before() -> None:
    stack = read_signal({"layers": [{"width": 6, "repeat": 2}, {"width": 4}], "input_width": 3})
    assert [stack.weight_shape(place) for place in range(3)] == [(6, 3), (6, 6), (4, 6)]
    assert [stack.weight(place, 5).name for place in range(3)] == [f"layers.{n}.weight" for n in (1, 2, 3)]


def shapes(stack: Stack) -> list[tuple[int, ...]]:
    return [stack.weight_shape(place) for place in range(len(stack.layers))]


def test_an_image_is_flattened_before_a_linear_layer() -> None:
    stack = read_signal({"layers": [{"kind": "conv2d", "width": 5, "stride": 2}, {"width": 4}], "image_size": 7})
    assert shapes(stack) == [(5, 5, 3, 3), (4, 5 * 4 * 4)]


def test_more_of_everything_costs_more() -> None:
    small = read_signal({"depth": 2, "width": 64})
    for more in ({"depth": 3}, {"width": 65}, {"batch": 17}, {"seeds": [0, 1]}, {"scheme": "orthogonal", "width": 64}):
        assert read_signal({"depth": 2, "width": 64, **more}).operations > small.operations
    assert read_signal({"depth": 2, "width": 64, "dtype": "float64"}).nbytes > small.nbytes


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"depth": 0}, "depth"),
    ({"depth": 4097}, "depth"),
    ({"depth": 1.5}, "depth"),
    ({"width": -1}, "width"),
    ({"activation": "tahn"}, "activation"),
    ({"activation": 3}, "activation"),
    ({"activation": "gelu", "param": 0.1}, "param"),
    ({"activation": "celu", "param": 0.0}, "param"),
    ({"scheme": "kaiming"}, "scheme"),
    ({"scheme": "values"}, "scheme"),
    ({"scheme": "normal", "std": -1.0}, "std"),
    ({"scheme": "normal", "gain": 1.0}, "gain"),
    ({"scheme": "kaiming_normal", "layout": "jax"}, "layout"),
    ({"shape": [3, 4]}, "shape"),
    ({"bias": "orthogonal"}, "bias"),
    ({"bias_std": 0.1}, "bias_std"),
    ({"bias": "normal", "bias_std": -0.1}, "bias_std"),
    ({"bias": "normal", "bias_a": -0.1}, "bias_a"),
    ({"bias": "uniform", "bias_a": 2.0}, "bias_a"),
    ({"bias": "constant"}, "bias_val"),
    ({"input": "none"}, "input"),
    ({"input": "uniform", "input_std": 1.0}, "input_std"),
    ({"normalization": "layernorm"}, "normalization"),
    ({"normalization": "instance"}, "normalization"),
    ({"normalization": "instance", "kind": "conv2d", "image_size": 1}, "normalization"),
    ({"normalization": "group", "norm_groups": 3}, "norm_groups"),
    ({"normalization": "batch", "batch": 1}, "batch"),
    ({"residual": "pre"}, "residual"),
    ({"residual": "pre-norm", "input_width": 3}, "residual"),
    ({"residual": "pre-norm", "kind": "conv2d", "stride": 2}, "residual"),
    ({"kind": "conv2d", "kernel_size": 4}, "kernel_size"),
    ({"kind": "conv2d", "kernel_size": 63}, "kernel_size"),
    ({"kind": "conv3d"}, "kind"),
    ({"correlation": 1.01}, "correlation"),
    ({"batch": 0}, "batch"),
    ({"seeds": []}, "seeds"),
    ({"seeds": [1, 1]}, "seeds"),
    ({"seeds": [-1]}, "seeds"),
    ({"seeds": [2**64]}, "seeds"),
    ({"seeds": list(range(65))}, "seeds"),
    ({"seeds": "a"}, "seeds"),
    ({"dtype": "int64"}, "dtype"),
    ({"dtype": "float8_e5m2"}, "dtype"),
    ({"layers": []}, "layers"),
    ({"layers": {"width": 3}}, "layers"),
    ({"layers": [3]}, "layers.0.layer"),
    ({"layers": [{"width": 3, "depth": 2}]}, "layers.0.depth"),
    ({"layers": [{"width": 3}, {"activation": "tahn"}]}, "layers.1.activation"),
    ({"layers": [{"repeat": 4096}, {"width": 2}]}, "layers"),
    ({"layers": [{"width": 3}], "depth": 2}, "depth"),
    ({"layers": [{"width": 3}, {"kind": "conv2d", "width": 3}]}, "layer 2.kind"),
    ({"layers": [{"width": 3}, {"width": 4, "residual": "post-norm"}]}, "layer 2.residual"),
]


@pytest.mark.parametrize(
    ("fields", "field"), WRONG, ids=[f"{number}-{field}" for number, (_, field) in enumerate(WRONG)]
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises((InvalidSpec, InvalidSpecs)) as caught:
        read_signal(fields)
    assert [error.field for error in caught.value.errors] == [field]  # type: ignore[attr-defined]


def test_the_errors_of_all_layers_are_listed() -> None:
    with pytest.raises(InvalidSpecs) as caught:
        read_signal({"layers": [{"width": 0}, {"width": 3}, {"activation": "x", "stride": 1}]})
    assert [error.field for error in caught.value.errors] == ["layers.0.width", "layers.2.activation"]


def test_a_list_of_layers_has_no_form_in_a_query() -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_signal({"layers": "[]"}, strings=True)
    assert caught.value.field == "layers"


@pytest.mark.parametrize("text", [b"", b"[]", b"3", b'{"depth": NaN}', b'{"depth": 1, "depth": 2}'])
def test_a_body_that_is_no_json_object_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedDocument):
        read_signal_document(text)
