"""Specs: arguments of every type become fields, and a file is checked against them."""

from typing import Any

import numpy as np
import pytest
import torch

from weightwell import Manifest
from weightwell.dtypes import DTYPES
from weightwell.exceptions import InvalidFile
from weightwell.safetensors import Entry
from weightwell.spec import ManifestSpec, TensorSpec


@pytest.mark.parametrize(
    "shape",
    [
        *((3, 4), [3, 4], torch.Size([3, 4]), (np.int64(3), torch.tensor(4)), range(3, 5)),
        *(np.array([3, 4]), np.array([3, 4], "uint8"), torch.tensor([3, 4]), np.zeros((3, 4)).shape),
    ],
)
def test_a_shape_may_be_any_sequence_of_integers(shape: Any) -> None:
    assert TensorSpec.of(shape, "ones").shape == (3, 4)


@pytest.mark.parametrize("size", [8, np.int32(8), np.array(8), torch.tensor(8)])
def test_a_single_size_is_a_vector(size: Any) -> None:
    assert TensorSpec.of(size, "ones").shape == (8,)


@pytest.mark.parametrize(
    "shape",
    [
        *(3.0, (3, 4.0), "34", (True, 3), None, (3, (4, 5)), np.array([3.0, 4.0]), np.array(3.0)),
        *(np.array([[3, 4]]), np.array([True]), torch.tensor([3.0])),
    ],
)
def test_a_shape_of_anything_else_is_refused(shape: Any) -> None:
    with pytest.raises(TypeError, match="shape takes integers, got"):
        TensorSpec.of(shape, "ones")


@pytest.mark.parametrize("seed", [42, "42", np.uint64(42), np.array(42), torch.tensor(42)])
def test_a_seed_is_an_integer_of_any_library_or_its_digits_as_over_http(seed: Any) -> None:
    assert TensorSpec.of(8, "ones", seed=seed).request.fields["seed"] == "42"
    assert Manifest({}, seed=seed).document()["seed"] == 42


def test_a_seed_above_2_to_53_keeps_its_last_digit() -> None:
    assert TensorSpec.of(8, "ones", seed=str(2**64 - 1)).seed == 2**64 - 1


@pytest.mark.parametrize("seed", [1.0, True, None, "", "-1", "4 2", "0x2a", "1e3", "\u0664\u0662", np.array([1, 2])])
def test_a_seed_that_is_no_integer_is_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match="seed takes integers, got"):
        TensorSpec.of(8, "ones", seed=seed)


@pytest.mark.parametrize("std", [0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)])
def test_a_parameter_may_be_a_number_of_any_library(std: Any) -> None:
    assert TensorSpec.of(8, "normal", std=std).request.fields["std"] == "0.5"


def test_the_query_has_only_the_given_fields() -> None:
    assert dict(TensorSpec.of((), "ones").request.fields) == {
        "shape": "",
        "scheme": "ones",
        "seed": "0",
        "dtype": "float32",
    }


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"bias": Entry("F32", (2, 3), 0, 24)},
        {"weight": Entry("F16", (2, 3), 0, 24)},
        {"weight": Entry("F32", (3, 2), 0, 24)},
        {"weight": Entry("F32", (2, 3), 8, 32)},
        {"weight": Entry("F32", (2, 3), 0, 32)},
        {"weight": Entry("F32", (2, 3), 0, 24), "bias": Entry("F32", (), 24, 28)},
    ],
)
def test_a_file_of_anything_else_is_refused(entries: dict[str, Entry]) -> None:
    with pytest.raises(InvalidFile, match="expected the tensor weight"):
        TensorSpec.of((2, 3), "ones", name="weight").check(entries)


def test_the_size_of_a_slice_is_its_own() -> None:
    spec = TensorSpec.of((6, 3), "ones", slice="2:4", dtype="bfloat16")
    assert spec.check({"weight": Entry("BF16", (2, 3), 0, 12)}) == 12


def test_the_metadata_of_a_file_must_name_the_tensor() -> None:
    tensor = {"shape": [3], "scheme": "ones", "dtype": "float32", "seed": 0}
    spec = {"generator": "philox", "tensors": {"bias": tensor}}
    (found,) = TensorSpec.of(3, "ones").mismatches(spec)
    assert (found.field, found.asked, found.got) == ("name", "weight", "bias")


# Manifests -----------------------------------------------------------------------------------------------------------

TENSORS: dict[str, Any] = {
    "w": {"shape": (6, 3), "slice": "2:4", "scheme": "ones"},
    "b": {"shape": 3},
    "n": {"shape": (), "dtype": "int64"},
    "t": {"alias": "w"},
}
ENTRIES = {
    "n": Entry("I64", (), 0, 8),
    "w": Entry("F32", (2, 3), 8, 32),
    "b": Entry("BF16", (3,), 32, 38),
}


def manifest(**fields: Any) -> ManifestSpec:
    return ManifestSpec.of(Manifest(TENSORS, **fields).document())


def test_a_file_has_the_tensors_of_its_manifest_and_no_aliases() -> None:
    spec = manifest(preset="torch")
    assert spec.check(ENTRIES) == 38
    assert (spec.names, spec.aliases, spec.label) == (("w", "b", "n", "t"), {"t": "w"}, "3 tensors")


def test_a_dtype_is_known_unless_a_rule_may_have_another() -> None:
    known = {name: each.dtype for name, each in manifest().stored.items()}
    open_ = {name: each.dtype for name, each in manifest(rules=[{"match": "*", "scheme": "ones"}]).stored.items()}
    assert known == {"w": DTYPES["float32"], "b": DTYPES["float32"], "n": DTYPES["int64"]}
    assert open_ == known | {"b": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": None}, "requested 3 tensors; .* b$"),
        ({"x": Entry("F32", (), 38, 42)}, "requested 3 tensors; .* x$"),
        ({"w": Entry("F16", (2, 3), 8, 20)}, r"w: expected float32 of shape \[2, 3\], got"),
        ({"w": Entry("F32", (6, 3), 8, 80)}, r"w: expected float32 of shape \[2, 3\], got"),
        ({"b": Entry("U16", (3,), 32, 38)}, r"b: expected any dtype of shape \[3\], got"),
        ({"b": Entry("BF16", (3,), 32, 36)}, "b: expected any dtype"),
        ({"b": Entry("BF16", (3,), 30, 36)}, "begins at 30, and that of the one before ends at 32"),
        ({"b": Entry("BF16", (3,), 34, 40)}, "begins at 34, and that of the one before ends at 32"),
    ],
)
def test_a_file_of_other_tensors_is_refused(changes: dict[str, Entry | None], message: str) -> None:
    entries = {name: entry for name, entry in {**ENTRIES, **changes}.items() if entry is not None}
    with pytest.raises(InvalidFile, match=message):
        manifest(preset="torch").check(entries)


def drawn(**tensors: Any) -> dict[str, Any]:
    """What the metadata of a file would say of the manifest, but for these tensors."""
    common = {"scheme": "normal", "mean": 0.0, "std": 0.02, "dtype": "float32", "seed": 7}
    made = {
        "w": {"shape": [6, 3], "scheme": "ones", "dtype": "float32", "seed": 7, "slice": "2:4,0:3"},
        "b": {"shape": [3], **common},
        "n": {"shape": [], **common, "dtype": "int64"},
        "t": {"alias": "w"},
        **tensors,
    }
    return {"generator": "philox", "tensors": {name: each for name, each in made.items() if each is not None}}


RULES = [
    {"match": "b", "scheme": "normal", "std": 0.02, "seed": 8},
    {"match": "*", "scheme": "he_normal", "mode": "fan_out"},
]
DRAWN = drawn()["tensors"]


@pytest.mark.parametrize(
    ("fields", "tensors"),
    [
        ({"preset": "torch"}, {"b": {**DRAWN["b"], "scheme": "uniform", "dtype": "bfloat16"}}),
        ({"rules": RULES}, {}),
        ({"rules": RULES}, {"b": {**DRAWN["b"], "seed": 8}}),
        ({"rules": RULES, "preset": "torch"}, {"b": {**DRAWN["b"], "std": 1.0}}),
        ({"rules": [*RULES, {"module": "Linear", "scheme": "reset_parameters"}]}, {"b": {**DRAWN["b"], "std": 1.0}}),
    ],
)
def test_a_rule_may_give_fields_that_the_manifest_leaves_open(fields: Any, tensors: dict[str, Any]) -> None:
    assert list(manifest(seed=7, **fields).mismatches(drawn(**tensors))) == []


@pytest.mark.parametrize(
    ("tensors", "field", "got"),
    [
        ({"b": None}, "tensors.b", None),
        ({"x": DRAWN["b"]}, "tensors.x", DRAWN["b"]),
        ({"w": {**DRAWN["w"], "shape": [3, 6]}}, "tensors.w.shape", [3, 6]),
        ({"w": {**DRAWN["w"], "slice": "0:2,0:3"}}, "tensors.w.slice", "0:2,0:3"),
        ({"w": {**DRAWN["w"], "seed": 8}}, "tensors.w.seed", 8),
        ({"w": {**DRAWN["w"], "scheme": "zeros"}}, "tensors.w.scheme", "zeros"),
        ({"n": {**DRAWN["n"], "dtype": "float32"}}, "tensors.n.dtype", "float32"),
        ({"b": {**DRAWN["b"], "seed": 9}}, "tensors.b.seed", 9),
        ({"b": {**DRAWN["b"], "std": 0.03}}, "tensors.b", {"scheme": "normal", "mean": 0.0, "std": 0.03}),
        ({"b": {"alias": "w"}}, "tensors.b.shape", None),
        ({"t": {"alias": "b"}}, "tensors.t.alias", "b"),
        ({"t": DRAWN["w"]}, "tensors.t.alias", None),
        ({"t": 3}, "tensors.t", 3),
    ],
)
def test_the_error_for_another_manifest_names_the_first_different_field(
    tensors: dict[str, Any], field: str, got: object
) -> None:
    first = next(manifest(seed=7, rules=RULES).mismatches(drawn(**tensors)))
    assert (first.field, first.got) == (field, got)


def test_another_generator_is_refused() -> None:
    spec = {**drawn(), "generator": "torch"}
    (first,) = manifest(seed=7, rules=RULES).mismatches(spec)
    assert (first.field, first.asked, first.got) == ("generator", "philox", "torch")
    assert list(manifest(seed=7, rules=RULES, generator="torch").mismatches(spec)) == []


def test_a_tensor_that_is_left_to_its_module_may_have_a_dtype_of_its_own() -> None:
    counter = {"shape": [], "scheme": "reset_parameters", "module": "BatchNorm1d"}
    spec = ManifestSpec.of(Manifest({"n": counter}).document())
    made = {"n": {"shape": [], "scheme": "zeros", "dtype": "int64", "seed": 0}}
    assert list(spec.mismatches({"generator": "philox", "tensors": made})) == []
    assert spec.check({"n": Entry("I64", (), 0, 8)}) == 8


# Streams and parts ---------------------------------------------------------------------------------------------------

COMPOSED: dict[str, Any] = {
    "shape": (6, 3),
    "scheme": "normal",
    "stream": "v",
    "parts": [
        {"slice": "0:2", "scheme": "zeros"},
        {"slice": np.s_[:, 1:], "scheme": "he_normal", "mode": "FAN_OUT", "stream": "x"},
    ],
}
AS_DRAWN: dict[str, Any] = {
    "shape": [6, 3],
    "scheme": "normal",
    "mean": 0.0,
    "std": 1.0,
    "dtype": "float32",
    "seed": 0,
    "stream": "v",
    "parts": [
        {"slice": "0:2,0:3", "scheme": "zeros"},
        {
            "slice": "0:6,1:3",
            "scheme": "kaiming_normal",
            "a": 0.0,
            "groups": 1,
            "mode": "fan_out",
            "nonlinearity": "leaky_relu",
            "transposed": False,
            "stream": "x",
        },
    ],
}


def composed_mismatches(asked: dict[str, Any], got: dict[str, Any]) -> list[str]:
    spec = ManifestSpec.of(Manifest({"w": asked}).document())
    return [found.field for found in spec.mismatches({"generator": "philox", "tensors": {"w": got}})]


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({}, {}),
        ({"stream": "w"}, {"stream": None}),
        ({"stream": None, "parts": None}, {"stream": None, "parts": None}),
        ({"parts": []}, {"parts": []}),
        (
            {"parts": [{"slice": "1:2", "scheme": "zeros", "stream": "v[1:2,0:3]"}]},
            {"parts": [{"slice": "1:2,0:3", "scheme": "zeros"}]},
        ),
    ],
)
def test_parts_may_be_written_in_other_words(asked: dict[str, Any], got: dict[str, Any]) -> None:
    assert composed_mismatches({**COMPOSED, **asked}, {**AS_DRAWN, **got}) == []


FIRST, SECOND = AS_DRAWN["parts"]


@pytest.mark.parametrize(
    ("got", "field"),
    [
        ({"stream": None}, "stream"),
        ({"parts": None}, "parts"),
        ({"parts": [FIRST]}, "parts"),
        ({"parts": [SECOND, FIRST]}, "parts.0.slice"),
        ({"parts": [FIRST, {**SECOND, "mode": "fan_in"}]}, "parts.1.mode"),
        ({"parts": [FIRST, {**SECOND, "stream": "y"}]}, "parts.1.stream"),
        ({"parts": [{**FIRST, "scheme": "ones"}, SECOND]}, "parts.0.scheme"),
        ({"parts": [FIRST, "part"]}, "parts.1"),
    ],
)
def test_a_file_of_other_parts_is_refused(got: dict[str, Any], field: str) -> None:
    assert composed_mismatches(COMPOSED, {**AS_DRAWN, **got})[0] == f"tensors.w.{field}"


def test_a_file_with_parts_is_not_one_without() -> None:
    plain = {"shape": (6, 3), "scheme": "normal", "stream": "v"}
    assert composed_mismatches(plain, AS_DRAWN) == ["tensors.w.parts"]
    single = TensorSpec.of((6, 3), "normal", name="w", stream="v")
    got = {"generator": "philox", "tensors": {"w": AS_DRAWN}}
    assert [found.field for found in single.mismatches(got)] == ["tensors.w.parts"]
