"""A rule for all tensors does not draw norms, scales and magnitudes at random."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs
from weightwell_engine.modules import MODULES
from weightwell_engine.parsing import read_document
from weightwell_engine.parsing.scales import NORMS, scale_of
from weightwell_engine.spec import Spec

Fields = dict[str, Any]

NORMAL: Fields = {"scheme": "normal", "std": 0.02}


def read(tensors: Fields, *rules: Fields, **fields: Any) -> Spec:
    return read_document(json.dumps({"tensors": tensors, "rules": rules, **fields}).encode())


def refusals(tensors: Fields, *rules: Fields) -> dict[str, str]:
    """Return the error messages of a manifest, by tensor."""
    try:
        read(tensors, *rules)
    except (InvalidSpec, InvalidSpecs) as error:
        return {each.field.removeprefix("tensors.").removesuffix(".scheme"): each.detail for each in error.errors}
    return {}


def block(norm: str, module: str = "LayerNorm", leaf: str = "weight", shape: tuple[int, ...] = (8,)) -> Fields:
    """A Linear, and a tensor of a norm of this name."""
    name = f"{norm}.{leaf}" if norm else leaf
    return {
        "h.0.fc.weight": {"shape": [8, 8], "module": "Linear"},
        name: {"shape": [*shape], "module": module},
    }


# Norms ---------------------------------------------------------------------------------------------------------------

ANYTHING = [
    {"match": "*"},
    {"match": "**"},
    {"match": "*.*"},
    {"match": "*.weight"},
    {"match": "*weight"},
    {"match": "h.*"},
    {"match": "h.0.*.weight"},
    {"match": "?.?.*"},
    {"regex": ".*"},
    {"regex": r"(.*\.)?\w+\.weight"},
    {"regex": r"h\.\d+\.[a-z_0-9]+\.(weight|bias)"},
]

OWN = [
    {"match": "*", "module": "LayerNorm"},
    {"module": "LayerNorm"},
    {"match": "*.ln_?.weight"},
    {"match": "*ln*"},
    {"match": "h.0.ln_1.weight"},
    {"regex": r".*\.ln_\d\.(weight|bias)"},
]


@pytest.mark.parametrize("condition", ANYTHING)
def test_a_rule_for_anything_does_not_draw_a_norm_at_random(condition: Fields) -> None:
    assert [*refusals(block("h.0.ln_1"), {**condition, **NORMAL}, {"match": "*", "scheme": "ones"})] == [
        "h.0.ln_1.weight"
    ]


@pytest.mark.parametrize("condition", OWN)
def test_a_rule_of_its_own_draws_a_norm(condition: Fields) -> None:
    spec = read(block("h.0.ln_1"), {**condition, **NORMAL}, {"match": "*", "scheme": "ones"})
    assert {tensor.name: tensor.scheme for tensor in spec.tensors}["h.0.ln_1.weight"] == "normal"


@pytest.mark.parametrize("scheme", [{"scheme": "ones"}, {"scheme": "constant", "val": 0.5}, {"scheme": "zeros"}])
def test_a_rule_for_anything_may_fill_a_norm_with_a_constant(scheme: Fields) -> None:
    assert refusals(block("h.0.ln_1"), {"match": "*", **scheme}) == {}


def test_a_rule_for_anything_may_leave_a_norm_to_its_module() -> None:
    spec = read(block("h.0.ln_1"), {"match": "*", "scheme": "reset_parameters"})
    assert [tensor.scheme for tensor in spec.tensors] == ["kaiming_uniform", "ones"]


def test_a_norm_with_a_scheme_of_its_own_has_that() -> None:
    tensors = block("h.0.ln_1")
    tensors["h.0.ln_1.weight"] |= {"scheme": "normal", "mean": 1.0, "std": 0.02}
    assert refusals(tensors, {"match": "*", **NORMAL}) == {}


@pytest.mark.parametrize("module", sorted(NORMS))
@pytest.mark.parametrize("leaf", ["weight", "bias", "running_var"])
def test_every_tensor_of_every_norm_of_torch_is_guarded(module: str, leaf: str) -> None:
    if leaf in MODULES[module]:
        assert [*refusals(block("h.0.bn", module, leaf, (8, 2)), {"match": "*", **NORMAL})] == [f"h.0.bn.{leaf}"]


def test_the_norms_of_torch_are_those_whose_weight_is_one() -> None:
    shapes = {"weight": (8, 8, 8)}
    weights = {name: leaves["weight"]("weight", shapes) for name, leaves in MODULES.items() if "weight" in leaves}
    assert {name for name, fields in weights.items() if fields == {"scheme": "ones"}} == NORMS


@pytest.mark.parametrize(
    ("module", "shape", "guarded"),
    [
        ("LlamaRMSNorm", (8,), True),
        ("T5LayerNorm", (8,), True),
        ("ScaleNorm", (), True),
        ("NormedLinear", (8, 8), False),
        ("Linear", (8,), False),
        ("Embedding", (8, 8), False),
    ],
)
def test_vectors_of_modules_that_are_called_norms_are_guarded(
    module: str, shape: tuple[int, ...], guarded: bool
) -> None:
    found = refusals(block("h.0.x1", module, shape=shape), {"match": "*", **NORMAL})
    assert [*found] == (["h.0.x1.weight"] if guarded else [])


def test_a_tensor_that_does_not_say_its_module_is_like_any_other() -> None:
    assert refusals({"ln.weight": {"shape": [8]}}, {"match": "*", **NORMAL}) == {}


def test_a_leaf_that_only_norms_have_may_be_named_instead_of_the_norm() -> None:
    tensors = block("h.0.ln_1", "MyNorm", "gamma")
    assert refusals(tensors, {"match": "*.gamma", **NORMAL}, {"match": "*", "scheme": "ones"}) == {}
    assert [*refusals(tensors, {"match": "h.*", **NORMAL})] == ["h.0.ln_1.gamma"]


@pytest.mark.parametrize(("condition", "guarded"), [({"match": "*"}, True), ({"match": "weight"}, False)])
def test_a_norm_that_is_the_whole_model_is_guarded(condition: Fields, guarded: bool) -> None:
    found = refusals({"weight": {"shape": [8], "module": "LayerNorm"}}, {**condition, **NORMAL})
    assert bool(found) == guarded


# Magnitudes ----------------------------------------------------------------------------------------------------------

MAGNITUDES = [
    ("conv.weight_g", "conv.weight_v"),
    ("conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"),
]


@pytest.mark.parametrize(("magnitude", "direction"), MAGNITUDES)
@pytest.mark.parametrize("condition", [{"match": "*"}, {"match": "conv.*"}])
def test_a_rule_for_anything_does_not_draw_a_magnitude_at_random(
    magnitude: str, direction: str, condition: Fields
) -> None:
    tensors = {magnitude: {"shape": [8, 1]}, direction: {"shape": [8, 4]}}
    assert [*refusals(tensors, {**condition, **NORMAL})] == [magnitude]
    assert refusals(tensors, {"match": f"*{magnitude[-2:]}", "scheme": "uniform"}, {**condition, **NORMAL}) == {}


def test_without_its_direction_a_tensor_is_no_magnitude() -> None:
    assert refusals({"a.weight_g": {"shape": [8]}, "b.original0": {"shape": [8]}}, {"match": "*", **NORMAL}) == {}


# What is said --------------------------------------------------------------------------------------------------------


def test_the_refusal_names_the_rule_the_tensor_and_the_cure() -> None:
    assert refusals(block("h.0.ln_1"), {"match": "*", **NORMAL}) == {
        "h.0.ln_1.weight": "tensors.h.0.ln_1.weight: rules.0 would draw the weight of a LayerNorm at random (normal), "
        'but it is a rule for any tensor: put a rule before it, such as {"module": "LayerNorm", "scheme": '
        '"reset_parameters"}, or give the tensor a scheme'
    }


@pytest.mark.parametrize(
    "tensors",
    [
        block("h.0.ln_1"),
        block("h.0.bn", "BatchNorm2d", "running_var"),
        block("h.0.norm", "LlamaRMSNorm"),
        block("h.0.norm", "LlamaRMSNorm", "bias"),
        {name: {"shape": [8, 1]} for name in MAGNITUDES[0]},
        {name: {"shape": [8, 1]} for name in MAGNITUDES[1]},
    ],
)
def test_the_rule_that_is_proposed_cures_it(tensors: Fields) -> None:
    rule = {"match": "*", **NORMAL}
    [detail] = refusals(tensors, rule).values()
    cure = json.loads(detail.partition("such as ")[2].partition(", or give")[0])
    assert refusals(tensors, cure, rule) == {}


@given(st.text("ab._", min_size=1, max_size=8), st.text("ab._", min_size=1, max_size=8))
def test_a_pattern_that_is_the_whole_name_is_a_rule_of_its_own(path: str, leaf: str) -> None:
    scale = scale_of(f"{path}.{leaf}", ndim=1, module="LayerNorm", siblings=())
    assert scale is not None
    assert f"{path}.{leaf}" not in scale.others
