import json
from math import inf, sqrt
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs
from weightwell_engine.laws import Orthogonal, OrthogonalStack
from weightwell_engine.parsing import read_document
from weightwell_engine.parsing.rules import MAX_RULES
from weightwell_engine.plan import make_plan
from weightwell_engine.presets import MAX_LAYERS, PRESETS
from weightwell_engine.schemes import ALIASES, SCHEMES
from weightwell_engine.spec import METADATA, Spec, TensorSpec

Fields = dict[str, Any]

NORMAL = {"scheme": "normal", "std": 0.02}
EVERYTHING = {"match": "*", **NORMAL}


# Values for the parameters of presets that have no default.
EXAMPLE: Fields = {"layers": 2, "width": 512, "base_width": 256, "names": "llama", "readout": "plain"}


def manifest(tensors: Fields, **fields: Any) -> Spec:
    return read_document(json.dumps({"tensors": tensors, **fields}).encode())


def only(tensors: Fields, **fields: Any) -> TensorSpec:
    [tensor] = manifest(tensors, **fields).tensors
    return tensor


def errors(tensors: Fields, **fields: Any) -> dict[str, str]:
    """Return the error messages of a manifest, by field."""
    with pytest.raises((InvalidSpec, InvalidSpecs)) as caught:
        manifest(tensors, **fields)
    return {error.field: error.detail for error in caught.value.errors}  # type: ignore[attr-defined]


# Rules ---------------------------------------------------------------------------------------------------------------


def test_a_tensor_without_a_scheme_takes_the_first_rule_that_matches() -> None:
    rules = [
        {"match": "*.bias", "scheme": "zeros"},
        {"regex": r"h\.\d+\..*", **NORMAL},
        {"match": "*", "scheme": "ones"},
    ]
    shapes = {name: {"shape": [2, 3]} for name in ("h.0.bias", "h.0.weight", "norm.weight")}
    assert [tensor.scheme for tensor in manifest(shapes, rules=rules).tensors] == ["zeros", "normal", "ones"]


def test_a_rule_gives_its_parameters_and_their_defaults() -> None:
    tensor = only({"w": {"shape": [2, 3]}}, rules=[{"match": "*", "scheme": "he_uniform", "a": sqrt(5)}])
    assert tensor.scheme == "kaiming_uniform"
    assert tensor.parameters["a"] == sqrt(5)
    assert tensor.parameters["mode"] == "fan_in"


@given(
    st.sampled_from(sorted(ALIASES)).filter(
        lambda alias: all(each.default is not ... for each in SCHEMES[ALIASES[alias]].parameters)
    ),
    st.sampled_from([{}, {"dtype": "float16"}, {"seed": "7"}]),
)
def test_rules_and_explicit_schemes_give_the_same_file(alias: str, common: Fields) -> None:
    shapes: Fields = {"b": {"shape": [4, 4]}, "a": {"shape": [6, 2], "slice": "0:3,:"}}
    by_rules = manifest(shapes, rules=[{"match": "*", "scheme": alias, **common}])
    spelled = manifest({name: {**each, "scheme": alias, **common} for name, each in shapes.items()})
    assert by_rules == spelled
    assert by_rules.canonical() == spelled.canonical()


def test_the_canonical_text_says_of_every_tensor_how_it_is_drawn_and_of_no_rule() -> None:
    asked = manifest(
        {"fc.weight": {"shape": [4, 3], "module": "Linear"}, "fc.bias": {"shape": [4], "module": "Linear"}},
        rules=[{"match": "*.bias", "scheme": "zeros"}],
        preset="torch",
    )
    tensors = json.loads(asked.canonical())["tensors"]
    assert tensors["fc.weight"] == {
        "shape": [4, 3],
        "scheme": "kaiming_uniform",
        "a": sqrt(5),
        "groups": 1,
        "mode": "fan_in",
        "nonlinearity": "leaky_relu",
        "transposed": False,
        "dtype": "float32",
        "seed": 0,
    }
    assert tensors["fc.bias"] == {"shape": [4], "scheme": "zeros", "dtype": "float32", "seed": 0}
    assert read_document(asked.canonical().encode()) == asked


def test_a_tensor_says_more_than_a_rule_and_a_rule_more_than_the_manifest() -> None:
    rules = [{"match": "a*", **NORMAL, "dtype": "float16", "seed": 2}, EVERYTHING]
    tensors = manifest(
        {"a1": {"shape": [1], "dtype": "float64", "seed": 3}, "a2": {"shape": [1]}, "b": {"shape": [1]}},
        rules=rules,
        dtype="bfloat16",
        seed=1,
    ).tensors
    assert [(tensor.dtype, tensor.seed) for tensor in tensors] == [("float64", 3), ("float16", 2), ("bfloat16", 1)]


def test_a_seed_of_zero_is_a_seed() -> None:
    rules = [{**EVERYTHING, "seed": 2}]
    assert only({"a": {"shape": [1], "seed": 0}}, rules=rules, seed=1).seed == 0
    assert only({"a": {"shape": [1]}}, rules=[{**EVERYTHING, "seed": 0}], seed=1).seed == 0


def test_a_tensor_with_a_scheme_takes_nothing_from_any_rule() -> None:
    tensor = only({"a": {"shape": [1], "scheme": "ones"}}, rules=[{**EVERYTHING, "dtype": "float16", "seed": 2}])
    assert (tensor.scheme, tensor.dtype, tensor.seed, tensor.rule) == ("ones", "float32", 0, None)


def test_a_rule_may_be_for_a_type_of_module() -> None:
    tensors = manifest(
        {"a.weight": {"shape": [1], "module": "Linear"}, "b.weight": {"shape": [1], "module": "Conv2d"}},
        rules=[{"module": "Conv2d", "match": "*.weight", "scheme": "ones"}, {"module": "Linear", "scheme": "zeros"}],
    ).tensors
    assert [tensor.scheme for tensor in tensors] == ["zeros", "ones"]


def test_the_spec_has_the_rule_of_each_tensor_and_the_unused_rules() -> None:
    rules = [{"match": "x*", **NORMAL}, {"match": "a*", **NORMAL}, {"match": "a*", "scheme": "ones"}]
    asked = manifest({"a": {"shape": [1]}, "x.weight": {"shape": [1], "scheme": "ones"}}, rules=rules)
    assert [tensor.rule for tensor in asked.tensors] == ["rules.1", None]
    assert asked.unused == (0, 2)


def test_what_is_not_matched_is_named_with_a_rule_that_would() -> None:
    found = errors({"a.weight": {"shape": [1]}, "b.bias": {"shape": [1]}}, rules=[{"match": "b*", "scheme": "ones"}])
    assert found == {
        "tensors.a.weight.scheme": "tensors.a.weight: scheme is missing, and no rule matches: give the "
        'tensor a scheme, or add a rule, such as {"match": "*.weight", "scheme": "zeros"}'
    }


@pytest.mark.parametrize("name", ["h.0.weight", "weight", 'a."b"', ".", "\U0001d6fc"])
def test_the_rule_that_is_proposed_matches_the_tensor(name: str) -> None:
    [detail] = errors({name: {"shape": [1]}}).values()
    proposed = json.loads(detail.partition("such as ")[2])
    assert only({name: {"shape": [1]}}, rules=[proposed]).rule == "rules.0"


def test_a_parameter_has_a_scheme_to_belong_to() -> None:
    found = errors({"a": {"shape": [1], "std": 0.1}}, rules=[EVERYTHING])
    assert "and the parameters of a scheme" in found["tensors.a.std"]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"scheme": "zeros"}, "match"),
        ({"match": "*", "regex": ".*", "scheme": "zeros"}, "regex"),
        ({"regex": "(", "scheme": "zeros"}, "regex"),
        ({"match": "*"}, "scheme"),
        ({"match": "*", "scheme": "rand"}, "scheme"),
        ({"match": "*", "scheme": "normal", "std": -1}, "std"),
        ({"match": "*", "scheme": "zeros", "std": 1}, "std"),
        ({"match": "*", "scheme": "zeros", "shape": [1]}, "shape"),
        ({"match": "", "scheme": "zeros"}, "match"),
        ({"match": "\ud800", "scheme": "zeros"}, "match"),
        ({"regex": "x" * 1025, "scheme": "zeros"}, "regex"),
        ({"module": 5, "scheme": "zeros"}, "module"),
        ({"match": "*", "scheme": "zeros", "seed": -1}, "seed"),
        ({"match": "*", "scheme": "zeros", "dtype": "int4"}, "dtype"),
        ("*", "rule"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_its_place_and_field(rule: object, field: str) -> None:
    assert list(errors({}, rules=[EVERYTHING, rule])) == [f"rules.1.{field}"]


def test_all_errors_of_rules_and_tensors_are_listed() -> None:
    found = errors({"a": {"shape": [-1]}, "b": {"alias": 5}}, rules=[{}, EVERYTHING, {"match": "*", "scheme": "x"}])
    assert set(found) == {"rules.0.scheme", "rules.2.scheme", "tensors.a.shape", "tensors.b.alias"}


def test_the_number_of_rules_is_limited() -> None:
    assert only({"w": {"shape": [1]}}, rules=[EVERYTHING] * MAX_RULES).rule == "rules.0"
    assert list(errors({}, rules=[EVERYTHING] * (MAX_RULES + 1))) == ["rules"]


@pytest.mark.parametrize("rules", [None, {}, "*", 5])
def test_rules_are_a_list(rules: object) -> None:
    assert list(errors({}, rules=rules)) == ["rules"]


@pytest.mark.parametrize("fields", [{"rules": []}, {"preset": "torch"}])
def test_a_manifest_without_tensors_lacks_them(fields: Fields) -> None:
    with pytest.raises(InvalidSpec, match="tensors is missing"):
        read_document(json.dumps(fields).encode())


# Presets -------------------------------------------------------------------------------------------------------------


def test_the_rules_of_a_preset_come_after_the_own_ones() -> None:
    preset = {"name": "gpt2", "layers": 2}
    rules = [{"match": "*wpe.weight", "scheme": "zeros"}]
    tensors = {"wte.weight": {"shape": [9, 4]}, "wpe.weight": {"shape": [9, 4]}}
    wte, wpe = manifest(tensors, rules=rules, preset=preset).tensors
    assert (wpe.scheme, wpe.rule) == ("zeros", "rules.0")
    assert (wte.scheme, wte.parameters["std"]) == ("normal", 0.02)
    assert wte.rule
    assert wte.rule.startswith("preset.")


def test_unused_rules_of_a_preset_are_not_listed() -> None:
    assert manifest({"w": {"shape": [1], "scheme": "ones"}}, preset={"name": "gpt2", "layers": 2}).unused == ()


def test_a_preset_without_required_parameters_may_be_its_name_alone() -> None:
    tensor = {"norm.weight": {"shape": [3], "module": "LayerNorm"}}
    assert manifest(tensor, preset="torch") == manifest(tensor, preset={"name": "torch"})


@pytest.mark.parametrize(
    ("preset", "field"),
    [
        ("gtp2", "preset"),
        ("", "preset"),
        (5, "preset"),
        ([], "preset"),
        ({}, "preset"),
        ({"layers": 2}, "preset"),
        ({"name": ["gpt2"]}, "preset"),
        ("gpt2", "preset.layers"),
        ({"name": "gpt2", "layers": 0}, "preset.layers"),
        ({"name": "gpt2", "layers": "2"}, "preset.layers"),
        ({"name": "gpt2", "layers": 2, "width": 3}, "preset.width"),
        ({"name": "gpt2", "layers": 2, "self": 3}, "preset.self"),
        ({"name": "gpt2", "layers": 2, "": 3}, "preset.''"),
    ],
)
def test_a_preset_that_cannot_be_is_refused_by_its_field(preset: object, field: str) -> None:
    assert list(errors({}, preset=preset)) == [field]


# The required parameters of each preset.
GIVEN: dict[str, Fields] = {
    name: {each.name: EXAMPLE[each.name] for each in preset.parameters if each.default is ...}
    for name, preset in PRESETS.items()
}


def preset_errors(name: str, **parameters: Any) -> dict[str, InvalidSpec]:
    """Return the errors of a preset with its required parameters and these parameters, by field."""
    text = json.dumps({"tensors": {}, "preset": {"name": name, **GIVEN[name], **parameters}})
    with pytest.raises(InvalidSpecs) as caught:
        read_document(text.replace("Infinity", "1e999").encode())
    return {error.field: error for error in caught.value.errors}


@pytest.mark.parametrize(("name", "parameter"), [(name, each) for name, given in GIVEN.items() for each in given])
def test_the_error_of_a_preset_names_the_missing_parameter(name: str, parameter: str) -> None:
    [doc] = [each.doc for each in PRESETS[name].parameters if each.name == parameter]
    rest = {key: value for key, value in GIVEN[name].items() if key != parameter}
    assert errors({}, preset={"name": name, **rest}) == {
        f"preset.{parameter}": f"preset: {parameter} is missing: {doc}"
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_parameter_that_a_preset_does_not_have_is_refused_with_those_that_it_has(name: str) -> None:
    known = ", ".join(parameter.name for parameter in PRESETS[name].parameters)
    fields = f"the fields are {known}" if known else "there are none"
    assert preset_errors(name, colour=3)["preset.colour"].detail == f"preset: colour is not a field here; {fields}"


@pytest.mark.parametrize(
    ("name", "parameter", "value", "expected"),
    [
        *(("gpt2", "layers", value, "greater than or equal to 1") for value in (0, -1)),
        ("gpt2", "layers", MAX_LAYERS + 1, "less than or equal to 1000"),
        *(("gpt2", "layers", value, "a valid integer") for value in (2.0, "12", True)),
        *(("gpt2", "std", value, "greater than 0") for value in (0, -0.1)),
        ("gpt2", "std", inf, "a finite number"),
        *(("gpt2", "std", value, "a valid number") for value in ("0.02", False, None)),
        ("megatron", "embedding_std", 0, "greater than 0"),
        ("gpt-neox", "width", 2**31, "less than or equal to 2147483647"),
        *(("torchtitan-llama3", "tied", value, "a valid boolean") for value in (1, "true")),
        ("vit-jax", "head_bias", inf, "a finite number"),
        ("vit-jax", "head_bias", [0], "a valid number"),
        *(("mup", "names", value, "'gpt2', 'llama', 'megatron', 'torchtitan' or 'gpt-neox'") for value in ("bert", 5)),
        ("mup", "readout", None, "'plain' or 'multiplied'"),
    ],
)
def test_a_value_that_a_preset_cannot_take_is_refused(name: str, parameter: str, value: Any, expected: str) -> None:
    found = preset_errors(name, **{parameter: value})
    assert {field: error.expected for field, error in found.items()} == {f"preset.{parameter}": expected}


def test_all_errors_of_a_preset_are_listed() -> None:
    found = errors({}, preset={"name": "mup", "names": "gpt2", "width": 0, "base": "none"})
    assert set(found) == {"preset.base", "preset.width", "preset.base_width", "preset.readout"}


def test_a_preset_takes_null_where_that_is_its_default() -> None:
    tensors = {"embedding.word_embeddings.weight": {"shape": [3, 2]}}
    said = {"name": "megatron", "layers": 2}
    assert manifest(tensors, preset={**said, "embedding_std": None}) == manifest(tensors, preset=said)


def test_an_unknown_preset_gets_the_list_and_a_suggestion() -> None:
    detail = errors({}, preset="GTP2")["preset"]
    assert all(name in detail for name in PRESETS)
    assert detail.endswith("did you mean gpt2?")


# Modules -------------------------------------------------------------------------------------------------------------

LINEAR: Fields = {
    "fc.weight": {"shape": [4, 9], "module": "Linear"},
    "fc.bias": {"shape": [4], "module": "Linear"},
}


def test_reset_parameters_uses_the_shapes_of_the_module_s_other_tensors() -> None:
    weight, bias = manifest(LINEAR, rules=[{"match": "*", "scheme": "reset_parameters"}]).tensors
    assert (weight.scheme, weight.parameters["a"]) == ("kaiming_uniform", sqrt(5))
    assert (bias.scheme, bias.parameters) == ("uniform", {"a": -1 / 3, "b": 1 / 3})


def test_a_tensor_may_ask_for_it_by_itself() -> None:
    own = {name: {**each, "scheme": "reset_parameters"} for name, each in LINEAR.items()}
    assert manifest(own) == manifest(LINEAR, preset="torch")
    assert manifest(own).tensors[0].rule is None


def test_a_slice_has_the_fans_of_the_whole_module() -> None:
    parts = {
        "fc.weight": {**LINEAR["fc.weight"], "slice": "0:2,0:3"},
        "fc.bias": {**LINEAR["fc.bias"], "slice": "0:2"},
    }
    assert manifest(parts, preset="torch").tensors[1].parameters == {"a": -1 / 3, "b": 1 / 3}


def test_an_alias_counts_as_a_tensor_of_its_module() -> None:
    tied = {
        "wte.weight": {"shape": [4, 9], "scheme": "ones"},
        "head.weight": {"alias": "wte.weight"},
        "head.bias": {"shape": [4], "module": "Linear", "scheme": "reset_parameters"},
    }
    assert manifest(tied).tensors[1].parameters == {"a": -1 / 3, "b": 1 / 3}


def test_tensors_without_a_prefix_belong_to_one_module() -> None:
    top = {name.removeprefix("fc."): each for name, each in LINEAR.items()}
    assert manifest(top, preset="torch").tensors[1].parameters == {"a": -1 / 3, "b": 1 / 3}


def test_a_counter_is_an_integer_for_every_default_dtype() -> None:
    counter = {"bn.num_batches_tracked": {"shape": [], "module": "BatchNorm2d"}}
    rules = [{"match": "*", "scheme": "reset_parameters", "dtype": "float16"}]
    assert only(counter, rules=rules, dtype="bfloat16").dtype == "int64"
    own = {name: {**each, "dtype": "float32"} for name, each in counter.items()}
    assert only(own, rules=rules).dtype == "float32"


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("fc.weight", {}, "module"),
        ("fc.weight", {"module": "Lnear"}, "module"),
        ("fc.scale", {"module": "Linear"}, "module"),
        ("fc.bias", {"module": "Linear"}, "scheme"),
    ],
)
def test_what_no_module_does_is_refused_with_the_name_of_the_tensor(name: str, fields: Fields, field: str) -> None:
    found = errors({name: {"shape": [3], **fields}, "other": {"shape": [1], "scheme": "ones"}}, preset="torch")
    assert list(found) == [f"tensors.{name}.{field}"]


# Axes ----------------------------------------------------------------------------------------------------------------


def test_a_rule_names_axes_of_tensors_of_any_rank_from_the_end() -> None:
    rules = [{"match": "*", "scheme": "lecun_normal", "in_axis": -2, "out_axis": -1}]
    tensors = {"dense.kernel": {"shape": [6, 8]}, "conv.kernel": {"shape": [3, 3, 6, 8]}}
    dense, conv = make_plan(manifest(tensors, rules=rules), "", portable=True, max_bytes=2**40).tensors
    variances = {each.name: each.law.mean_std(1)[1] ** 2 for each in (dense, conv)}
    assert variances == pytest.approx({"dense.kernel": 1 / 6, "conv.kernel": 1 / 54})


def test_a_rule_of_stacked_experts_says_which_axis_numbers_them() -> None:
    rules = [{"match": "*.experts.*", "scheme": "orthogonal", "batch_axis": 0}, {"match": "*", "scheme": "orthogonal"}]
    tensors = {"mlp.experts.w1": {"shape": [4, 6, 3]}, "mlp.conv": {"shape": [4, 6, 3]}}
    conv, experts = make_plan(manifest(tensors, rules=rules), "", portable=True, max_bytes=2**40).tensors
    assert (experts.name, experts.law) == ("mlp.experts.w1", OrthogonalStack(6, 3, 1.0, 1, 0, 4, (72,), (1,)))
    assert (conv.name, conv.law) == ("mlp.conv", Orthogonal(4, 18, 1.0))


def test_the_preset_of_torch_draws_convolutions_as_torch_does() -> None:
    tensors = {"weight": {"shape": [4, 3, 2], "module": "Conv1d"}}
    assert not {"layout", "in_axis", "out_axis", "batch_axis"} & set(only(tensors, preset="torch").parameters)


def test_axes_that_do_not_fit_are_refused_by_the_name_of_the_tensor() -> None:
    rules = [{"match": "*", "scheme": "he_normal", "in_axis": 0, "out_axis": [1, 2]}]
    tensors = {"query.kernel": {"shape": [6, 2, 4]}, "output.kernel": {"shape": [8, 6]}}
    with pytest.raises(InvalidSpec) as caught:
        make_plan(manifest(tensors, rules=rules), "", portable=True, max_bytes=2**40)
    assert caught.value.field == "tensors.output.kernel.out_axis"
    assert caught.value.detail == "tensors.output.kernel: out_axis must be axes of the shape, from -2 to 1, got 2"


# Aliases -------------------------------------------------------------------------------------------------------------


def test_an_alias_is_a_further_name_and_no_further_tensor() -> None:
    ones = {"shape": [3], "scheme": "ones"}
    asked = manifest({"head": {"alias": "wte"}, "wte": ones, "a": {"alias": "wte"}})
    assert [tensor.name for tensor in asked.tensors] == ["wte"]
    assert asked.aliases == (("a", "wte"), ("head", "wte"))


def test_the_order_of_aliases_means_nothing() -> None:
    ones = {"shape": [3], "scheme": "ones"}
    asked = manifest({"w": ones, "a": {"alias": "w"}, "b": {"alias": "w"}})
    assert manifest({"b": {"alias": "w"}, "a": {"alias": "w"}, "w": ones}).canonical() == asked.canonical()
    assert list(json.loads(asked.canonical())["tensors"]) == ["w", "a", "b"]
    assert read_document(asked.canonical().encode()) == asked


@pytest.mark.parametrize(
    ("tensors", "field", "reason"),
    [
        ({"a": {"alias": "a"}}, "tensors.a.alias", "which is another alias"),
        ({"a": {"alias": "b"}, "b": {"alias": "w"}}, "tensors.a.alias", "which is another alias"),
        ({"a": {"alias": "x"}}, "tensors.a.alias", "which is not in the manifest"),
        ({"a": {"alias": ""}}, "tensors.a.alias", "Unicode characters"),
        ({"a": {"alias": None}}, "tensors.a.alias", "Unicode characters"),
        ({"a": {"alias": "w", "dtype": "float16"}}, "tensors.a.dtype", "not a field here"),
        ({"a": {"alias": "w", "shape": [3]}}, "tensors.a.shape", "not a field here"),
        ({"__metadata__": {"alias": "w"}}, "tensors.__metadata__.name", "reserves"),
        *(({name: {"alias": "w"}}, f"tensors.{name}.name", "metadata") for name in METADATA),
    ],
)
def test_an_alias_of_nothing_that_is_drawn_is_refused(tensors: Fields, field: str, reason: str) -> None:
    found = errors({"w": {"shape": [3], "scheme": "ones"}, **tensors})
    assert list(found) == [field]
    assert reason in found[field]


def test_an_alias_takes_no_rule() -> None:
    asked = manifest({"w": {"shape": [3], "scheme": "ones"}, "a": {"alias": "w"}}, rules=[EVERYTHING])
    assert asked.unused == (0,)


# Many tensors --------------------------------------------------------------------------------------------------------


def test_a_thousand_tensors_are_parsed_and_planned_quickly() -> None:
    tensors = {f"layers.{i}.{name}": {"shape": [64, 64]} for i in range(100) for name in "abcdefghij"}
    start = process_time()
    asked = manifest(tensors, rules=[{"match": f"*.{name}", **NORMAL} for name in "abcdefghij"])
    make_plan(asked, "an algorithm", portable=True, max_bytes=2**40)
    assert process_time() - start < 0.5  # a twentieth of that on the slowest machine known


def test_parsing_stops_after_many_errors() -> None:
    with pytest.raises(InvalidSpecs, match=r"and 980 more$"):
        manifest({str(i): {"shape": [-1]} for i in range(5000)})
