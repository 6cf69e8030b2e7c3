"""Manifests: reading, editing, and the errors that are found before a request is sent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell import Manifest
from weightwell.slices import bounds_of

TENSORS: dict[str, Any] = {"w": {"shape": [512, 784]}, "b": {"shape": [512], "scheme": "zeros"}, "tied": {"alias": "w"}}


def test_a_manifest_is_sent_as_it_was_written() -> None:
    manifest = Manifest(TENSORS, rules=[{"match": "w", "scheme": "normal"}], preset="gpt2", seed=3, generator="philox")
    assert manifest.document() == {
        "seed": 3,
        "dtype": "float32",
        "generator": "philox",
        "preset": "gpt2",
        "rules": [{"match": "w", "scheme": "normal"}],
        "tensors": TENSORS,
    }


def test_what_is_left_open_is_not_sent() -> None:
    assert Manifest({}).document() == {"seed": 0, "dtype": "float32", "tensors": {}}


def test_values_of_any_library_become_json() -> None:
    given = {"shape": (np.int64(6), 4), "slice": np.s_[2:], "dtype": torch.bfloat16, "std": torch.tensor(0.5)}
    manifest = Manifest({"w": given}, rules=[{"match": "*", "std": np.float32(0.25), "dtype": np.float16}])
    manifest.tensors["b"] = {"shape": 8, "seed": np.uint64(2**64 - 1)}
    assert json.loads(json.dumps(manifest.document()["tensors"])) == {
        "w": {"shape": [6, 4], "slice": "2:6,0:4", "dtype": "bfloat16", "std": 0.5},
        "b": {"shape": [8], "seed": 2**64 - 1},
    }
    manifest.preset = {"name": "gpt2", "layers": np.int64(12)}
    assert manifest.document()["rules"] == [{"match": "*", "std": 0.25, "dtype": "float16"}]
    assert json.dumps(manifest.document()["preset"]) == '{"name": "gpt2", "layers": 12}'


def test_the_slices_of_parts_are_written_out() -> None:
    parts = [{"slice": np.s_[2:], "scheme": "constant", "val": np.float32(2)}, {"slice": ":,1:2", "scheme": "ones"}]
    [sent] = Manifest({"w": {"shape": (4, 3), "scheme": "zeros", "parts": parts}}).document()["tensors"].values()
    assert sent["parts"] == [
        {"slice": "2:4,0:3", "scheme": "constant", "val": 2.0},
        {"slice": "0:4,1:2", "scheme": "ones"},
    ]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"slice": "0:1", "scheme": "zeros"}, "parts come in a list"),
        ("0:1", "parts come in a list"),
        (["0:1"], "tensors.w: parts.0 must be like"),
        ([{"scheme": "zeros"}], "tensors.w: parts.0 must be like"),
        ([{"slice": ":", "scheme": "zeros"}, {"slice": "0:1,:,:", "scheme": "zeros"}], "parts.1: slice must have"),
    ],
)
def test_parts_that_cannot_be_sent_are_refused(parts: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Manifest({"w": {"shape": (4, 3), "scheme": "zeros", "parts": parts}})


def test_a_seed_may_be_given_in_decimal_digits() -> None:
    text = '{"seed": "18446744073709551615", "tensors": {"w": {"shape": [3], "seed": "7"}}}'
    manifest = Manifest.from_json(text)
    assert (manifest.seed, manifest.tensors["w"]["seed"]) == (2**64 - 1, 7)


def test_editing_a_manifest_does_not_change_its_arguments() -> None:
    manifest = Manifest(TENSORS)
    manifest.tensors["w"]["scheme"] = "ones"
    manifest.tensors["w"]["shape"][0] = 1
    assert TENSORS["w"] == {"shape": [512, 784]}


def test_json_brings_a_manifest_back(tmp_path: Path) -> None:
    manifest = Manifest(TENSORS, rules=[{"match": "*", "scheme": "ones"}], preset={"name": "gpt2", "layers": 12})
    (tmp_path / "model.json").write_text(manifest.to_json(), encoding="utf-8")
    assert Manifest.from_file(tmp_path / "model.json") == Manifest.from_json(str(manifest)) == manifest


def test_json_has_a_line_for_each_tensor_and_each_rule() -> None:
    rules = [{"match": "*", "scheme": "ones"}] * 2
    text = Manifest(TENSORS, rules=rules, preset={"name": "gpt2", "layers": 12}).to_json()
    assert '    {"match": "*", "scheme": "ones"},\n' in text
    assert '    "w": {"shape": [512, 784]},\n' in text
    assert '  "preset": {"name": "gpt2", "layers": 12},\n' in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "tensors.w: a tensor needs a shape"),
        ({"shape": [3, 4.0]}, "tensors.w: shape takes integers"),
        ({"shape": [3], "seed": "one"}, "tensors.w: seed takes integers"),
        ({"shape": [3], "dtype": "int4"}, "tensors.w: dtype must be one of"),
        ({"shape": [3], "slice": "::2"}, "tensors.w: each part of a slice"),
        ({"shape": [3], "std": torch.ones(2)}, "tensors.w: expected one number: .* 2 elements"),
        ({"alias": "v"}, "tensors.w: alias must be the name of another tensor that is no alias, got 'v'"),
        ({"alias": "w"}, "tensors.w: alias must be the name of another"),
        ({"alias": "x"}, "tensors.w: alias must be the name of another"),
        ({"alias": "y", "scheme": "ones"}, "tensors.w: an alias must have no other fields"),
        (7, "tensors.w: a tensor must be a mapping of fields"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_tensors_name(fields: Any, message: str) -> None:
    others: dict[str, Any] = {"y": {"shape": [3]}, "x": {"alias": "y"}}
    with pytest.raises((TypeError, ValueError), match=message):
        Manifest({"w": fields, **others})
    manifest = Manifest(others)
    manifest.tensors["w"] = fields
    with pytest.raises((TypeError, ValueError), match=message):
        manifest.document()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": True}, "seed takes integers"),
        ({"dtype": "half"}, "dtype must be one of"),
        ({"rules": ["*.bias"]}, r"rules\[0\] must be like"),
        ({"preset": 5}, "int"),
    ],
)
def test_what_cannot_hold_for_all_tensors_is_refused(fields: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Manifest({}, **fields)


@pytest.mark.parametrize("tensors", [None, [{"shape": [3]}]])
def test_tensors_without_names_are_refused(tensors: Any) -> None:
    with pytest.raises(TypeError, match="tensors must be a mapping of names to fields"):
        Manifest(tensors)


@pytest.mark.parametrize("name", [None, 3, ("a", "b")])
def test_a_name_that_is_no_string_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="the name of a tensor must be a string"):
        Manifest({name: {"shape": [3]}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", 'an object with "tensors"'),
        ('{"shape": [3], "scheme": "ones"}', 'an object with "tensors"'),
        ('{"tensors": {}, "sede": 1, "dtyp": 2}', "got dtyp, sede"),
    ],
)
def test_json_that_is_no_manifest_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest.from_json(text)


# Shards --------------------------------------------------------------------------------------------------------------

LENGTHS = st.integers(0, 12)


@given(st.tuples(LENGTHS, LENGTHS), st.integers(1, 8), st.integers(0, 1))
def test_shards_are_the_chunks_of_torch(shape: tuple[int, int], world_size: int, dim: int) -> None:
    whole = torch.arange(shape[0] * shape[1]).reshape(shape)
    chunks = whole.chunk(world_size, dim)
    for rank in range(world_size):
        fields = Manifest({"w": {"shape": shape}}).shard(rank, world_size, dim=dim).tensors["w"]
        rows, columns = (slice(*bounds) for bounds in bounds_of(fields["slice"], shape))
        expected = chunks[rank] if rank < len(chunks) else whole.narrow(dim, 0, 0)
        assert torch.equal(whole[rows, columns], expected)


@given(st.tuples(LENGTHS, LENGTHS), st.integers(1, 5), st.integers(1, 5))
def test_shards_of_shards_cover_the_whole_once(shape: tuple[int, int], rows: int, columns: int) -> None:
    count = torch.zeros(shape)
    for row in range(rows):
        for column in range(columns):
            part = Manifest({"w": {"shape": shape}}).shard(row, rows).shard(column, columns, dim=1)
            count[tuple(slice(*bounds) for bounds in bounds_of(part.tensors["w"]["slice"], shape))] += 1
    assert bool((count == 1).all())


def test_each_tensor_may_be_split_along_its_own_dimension() -> None:
    shapes = {"up": [8, 4], "down": [4, 8], "norm": [4]}
    manifest = Manifest({name: {"shape": shape} for name, shape in shapes.items()} | {"tied": {"alias": "up"}})
    part = manifest.shard(1, 2, dim=lambda name: {"up": 0, "down": 1}.get(name))
    assert part.tensors == {
        "up": {"shape": [8, 4], "slice": "4:8,0:4"},
        "down": {"shape": [4, 8], "slice": "0:4,4:8"},
        "norm": {"shape": [4]},
        "tied": {"alias": "up"},
    }


@pytest.mark.parametrize("dim", [0, -1])
def test_a_tensor_without_the_dimension_stays_whole(dim: int) -> None:
    assert Manifest({"scale": {"shape": []}}).shard(1, 2, dim=dim).tensors == {"scale": {"shape": []}}


def test_what_was_edited_is_sharded_as_it_is_sent() -> None:
    manifest = Manifest({})
    manifest.tensors["b"] = {"shape": 8, "scheme": "ones"}
    assert manifest.shard(1, 2, dim=-1).tensors == {"b": {"shape": [8], "scheme": "ones", "slice": "4:8"}}


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_of_the_world_is_refused(rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="rank must be in"):
        Manifest({}).shard(rank, world_size)


def test_the_repr_of_a_manifest_is_one_line() -> None:
    tensors = {f"layers.{index}": {"shape": [3]} for index in range(5000)}
    manifest = Manifest(tensors, rules=[{"match": "*", "scheme": "ones"}], preset="torch", seed=42)
    assert repr(manifest) == "Manifest(5000 tensors, 1 rules, seed=42, dtype='float32', preset='torch')"
