"""A tensor with parts is its own elements, and over them those of tensors that have the shapes of the parts."""

import json
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs, UnsupportedSpec
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.philox.cpu import drawing
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.formats import UNSIGNED
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import Piece, Plan, PlannedTensor
from weightwell_engine.regions import Region, Runs, indices
from weightwell_engine.spec import Spec, TensorSpec, text_of

ENGINE = Engine(Cpu(), threads=2)


def read(**fields: Any) -> Spec:
    return read_document(json.dumps(fields).encode())


def planned(**tensors: Any) -> Plan:
    return ENGINE.plan(read(tensors=tensors))


def data(spec: Spec) -> dict[str, bytes]:
    """Return the bytes of every tensor of a spec's file."""
    plan = ENGINE.plan(spec)
    file = ENGINE.open(plan)
    body = bytes(file.read(len(plan.header), plan.nbytes))
    file.close()
    return {each.name: body[each.offset : each.offset + each.nbytes] for each in plan.tensors}


def drawn(**fields: Any) -> bytes:
    """Return the bytes of the tensor ``weight`` of a manifest."""
    return data(read(tensors={"weight": fields}))["weight"]


def expected(spec: TensorSpec) -> NDArray[Any]:
    """Return the bits of a tensor as the reference draws it, whatever its slice."""
    [tensor] = ENGINE.plan(Spec("philox", (spec,))).tensors
    whole = reference.Prepared(tensor.law, tensor.dtype, tensor.seed, tensor.stream_name)
    parts = [
        reference.Part(each.law, part.bounds, each.stream_name)
        for each, part in zip(tensor.parts, spec.parts, strict=True)
    ]
    return reference.tensor(whole, spec.shape, parts)


# Any part of any tensor ----------------------------------------------------------------------------------------------

SCHEMES: list[dict[str, Any]] = [
    {"scheme": "normal", "std": 0.02},
    {"scheme": "uniform"},
    {"scheme": "zeros"},
    {"scheme": "constant", "val": -1.5},
    {"scheme": "trunc_normal"},
    {"scheme": "xavier_normal"},
    {"scheme": "orthogonal", "gain": 2.0},
    {"scheme": "sparse", "sparsity": 0.4},
    {"scheme": "eye"},
]
# Those that a tensor of any number of dimensions can have.
ANY_SHAPE = [each for each in SCHEMES if each["scheme"] in {"normal", "uniform", "zeros", "constant", "trunc_normal"}]


def slices(draw: st.DrawFn, shape: list[int]) -> str:
    edges = [sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in shape]
    return ",".join(f"{start}:{stop}" for start, stop in edges)


@st.composite
def composed(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the fields of a tensor with parts, some over each other, and perhaps a slice."""
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    schemes = st.sampled_from(SCHEMES if len(shape) == 2 else ANY_SHAPE)
    parts = [
        {"slice": slices(draw, shape), **draw(schemes), **draw(st.sampled_from([{}, {}, {"stream": "another"}]))}
        for _ in range(draw(st.integers(1, 4)))
    ]
    fields = {"shape": shape, "dtype": draw(st.sampled_from([*FLOATS])), "seed": draw(st.integers(0, 3))}
    fields |= draw(schemes) | draw(st.sampled_from([{}, {"stream": "another"}, {"slice": slices(draw, shape)}]))
    return {**fields, "parts": parts}


@settings(deadline=None, max_examples=150)
@given(fields=composed(), cuts=st.lists(st.integers(0, 2**16), max_size=3), block=st.integers(1, 40))
def test_any_range_of_bytes_of_any_slice_is_what_the_reference_draws(
    fields: dict[str, Any], cuts: list[int], block: int
) -> None:
    spec = read(tensors={"weight": fields})
    [tensor] = spec.tensors
    bounds = tensor.slice or tuple((0, size) for size in tensor.shape)
    whole = expected(tensor)[tuple(slice(*pair) for pair in bounds)].tobytes()
    plan = ENGINE.plan(spec)
    file = ENGINE.open(plan)
    edges = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_BLOCK", block)
        for start, stop in pairwise(edges):
            got = bytes(file.read(len(plan.header) + start, len(plan.header) + stop))
            assert got == whole[start:stop]
    file.close()


def test_a_part_is_the_tensor_that_has_its_name() -> None:
    part = {"scheme": "orthogonal", "gain": 2.0}
    fields = {"shape": [96, 64], "scheme": "normal", "parts": [{"slice": "32:,8:40", **part}]}
    got = np.frombuffer(drawn(**fields), np.float32).reshape(96, 64)
    plain = np.frombuffer(drawn(shape=[96, 64], scheme="normal"), np.float32).reshape(96, 64)
    name = "weight[32:96,8:40]"
    alone = data(read(shape=[64, 32], name=name, **part))[name]
    assert got[32:, 8:40].tobytes() == alone
    got = got.copy()
    got[32:, 8:40] = plain[32:, 8:40]
    assert got.tobytes() == plain.tobytes()


def test_a_part_of_a_tensor_with_a_stream_has_the_name_of_the_stream() -> None:
    parts = [{"slice": "0:2", "scheme": "uniform"}]
    fields = {"shape": [4, 4], "scheme": "normal", "parts": parts}
    files = data(read(tensors={"a": fields, "b": {**fields, "stream": "a"}}))
    assert files["a"] == files["b"]


def test_a_stream_is_the_name_that_the_words_come_from() -> None:
    fields = {"shape": [5, 3], "scheme": "normal", "seed": 3}
    files = data(read(tensors={"a": fields, "b": {**fields, "stream": "a"}, "c": fields}))
    assert files["a"] == files["b"] != files["c"]
    assert data(read(**fields, name="d", stream="a"))["d"] == files["a"]


def test_a_later_part_covers_an_earlier_one() -> None:
    parts = [{"slice": "0:3", "scheme": "ones"}, {"slice": "1:2", "scheme": "constant", "val": 2}]
    got = np.frombuffer(drawn(shape=[4], scheme="zeros", parts=parts), np.float32)
    assert got.tolist() == [1.0, 2.0, 1.0, 0.0]


def test_a_long_tensor_with_strided_parts_is_that_of_its_parts() -> None:
    """Two thirds of the columns, and a crop of every kernel: parts of many runs, drawn in several blocks."""
    parts = [{"slice": ":,100:300", "scheme": "uniform"}, {"slice": ":,0:100", "scheme": "ones"}]
    got: Any = np.frombuffer(drawn(shape=[1000, 300], scheme="normal", parts=parts), np.float32).reshape(1000, 300)
    alone = data(read(shape=[1000, 200], name="weight[0:1000,100:300]", scheme="uniform"))
    assert got[:, 100:].tobytes() == next(iter(alone.values()))
    assert (got[:, :100] == 1).all()
    crop = [{"slice": ":,:,1:,1:", "scheme": "normal"}]
    got = np.frombuffer(drawn(shape=[200, 150, 3, 3], scheme="zeros", parts=crop), np.float32).reshape(200, 150, 3, 3)
    alone = data(read(shape=[200, 150, 2, 2], name="weight[0:200,0:150,1:3,1:3]", scheme="normal"))
    assert np.ascontiguousarray(got[:, :, 1:, 1:]).tobytes() == next(iter(alone.values()))
    assert not got[:, :, 0].any()


def test_integers_have_parts_too() -> None:
    parts = [{"slice": "1:", "scheme": "constant", "val": 7}]
    got = np.frombuffer(drawn(shape=[3], scheme="zeros", dtype="int64", parts=parts), np.int64)
    assert got.tolist() == [0, 7, 7]


# Plans ---------------------------------------------------------------------------------------------------------------


@st.composite
def boxes(draw: st.DrawFn) -> Region:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    edges = [sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in shape]
    return Region(tuple(shape), *map(tuple, zip(*edges, strict=True)))


@given(boxes())
def test_the_rank_of_an_index_counts_the_elements_before_it(box: Region) -> None:
    inside = [int(at) for part in box.parts(0, box.size) for at in indices(part)]
    for index in range(prod(box.shape) + 1):
        assert box.rank(index) == sum(at < index for at in inside)


@given(boxes(), st.integers(1, 9))
def test_blocks_of_a_region_are_its_elements(box: Region, size: int) -> None:
    inside = [int(at) for part in box.parts(0, box.size) for at in indices(part)]
    found: list[int] = []
    for first, part in box.blocks(0, box.size, size):
        assert first == len(found)
        found += [int(at) for at in indices(part)]
    assert found == inside


def test_blocks_of_columns_do_not_split_rows() -> None:
    box = Region((9, 20), (0, 3), (9, 10))
    blocks = [part for _, part in box.blocks(0, box.size, 16)]
    assert [(part.length, part.count) for part in blocks if isinstance(part, Runs)] == [(7, 2)] * 4 + [(7, 1)]


def test_a_part_that_is_not_in_the_slice_costs_nothing() -> None:
    fields: dict[str, Any] = {"shape": [2000, 300], "scheme": "normal", "slice": "0:10"}
    parts = [{"slice": "10:", "scheme": "orthogonal"}]
    plain, with_parts = planned(weight=fields), planned(weight={**fields, "parts": parts})
    assert ENGINE.footprint(with_parts) == ENGINE.footprint(plain) == 0
    costs = [ENGINE.open(plan).cost(0, plan.nbytes, limit=10**12) for plan in (plain, with_parts)]
    assert costs[0] == costs[1]
    assert with_parts.tensors[0].overlays == ()
    assert with_parts.etag != plain.etag


def test_matrices_of_one_tensor_are_kept_together() -> None:
    parts = [{"slice": f":,{64 * i}:{64 * i + 64}", "scheme": "orthogonal"} for i in range(3)]
    plan = planned(weight={"shape": [100, 192], "scheme": "zeros", "parts": parts})
    generator = ENGINE.generator("philox")
    each = generator.footprint(planned(weight={"shape": [100, 64], "scheme": "orthogonal"}))
    assert generator.footprint(plan) == 3 * each
    assert generator.kept(plan) == 3 * 100 * 64 * 4
    assert ENGINE.open(plan).cost(0, plan.nbytes, limit=10**12) > 3 * 100 * 64 * 64 // 10


def test_what_a_part_covers_is_not_drawn() -> None:
    parts = [{"slice": ":", "scheme": "zeros"}, {"slice": "0:1", "scheme": "ones"}]
    plan = planned(weight={"shape": [10, 10], "scheme": "orthogonal", "parts": parts})
    [piece] = plan.pieces(0, plan.data_nbytes)
    base, layers = piece.layers()
    assert (base, [layer.piece.tensor.layer for layer in layers]) == (False, [1, 2])


def test_the_canonical_spec_of_parts_makes_the_same_file() -> None:
    parts: list[dict[str, Any]] = [
        {"slice": "1:", "scheme": "he_normal"},
        {"slice": ":,0:2", "scheme": "uniform", "b": 2, "stream": "x"},
    ]
    spec = read(seed=2**60, tensors={"w": {"shape": [3, 4], "scheme": "ones", "stream": "v", "parts": parts}})
    text = spec.canonical()
    assert read_document(text.encode()) == spec
    said = json.loads(text)["tensors"]["w"]
    assert said["stream"] == "v"
    assert said["parts"][1] == {"slice": "0:3,0:2", "scheme": "uniform", "a": 0.0, "b": 2.0, "stream": "x"}
    assert said["parts"][0]["slice"] == "1:3,0:4"


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"stream": "w"}, {}),
        ({"parts": []}, {}),
        (
            {"parts": [{"slice": ":,1:", "scheme": "uniform", "stream": "w[0:3,1:4]"}]},
            {"parts": [{"slice": "0:3,1:4", "scheme": "uniform"}]},
        ),
    ],
)
def test_what_changes_nothing_is_not_in_the_canonical_spec(given: dict[str, Any], same: dict[str, Any]) -> None:
    fields = {"shape": [3, 4], "scheme": "normal"}
    assert read(tensors={"w": {**fields, **given}}).canonical() == read(tensors={"w": {**fields, **same}}).canonical()


# Errors --------------------------------------------------------------------------------------------------------------

FIELDS: dict[str, Any] = {"shape": [4, 6], "scheme": "normal"}


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"slice": "0:5", "scheme": "zeros"}, "slice"),
        ({"slice": "2:2", "scheme": "zeros"}, "slice"),
        ({"slice": "3:2", "scheme": "zeros"}, "slice"),
        ({"slice": "0:1,:,0:1", "scheme": "zeros"}, "slice"),
        ({"slice": "all", "scheme": "zeros"}, "slice"),
        ({"scheme": "zeros"}, "slice"),
        ({"slice": "0:1"}, "scheme"),
        ({"slice": "0:1", "scheme": "reset_parameters"}, "scheme"),
        ({"slice": "0:1", "scheme": "normla"}, "scheme"),
        ({"slice": "0:1", "scheme": "normal", "seed": 3}, "seed"),
        ({"slice": "0:1", "scheme": "normal", "dtype": "float16"}, "dtype"),
        ({"slice": "0:1", "scheme": "normal", "parts": []}, "parts"),
        ({"slice": "0:1", "scheme": "normal", "stream": ""}, "stream"),
        ({"slice": "0:1", "scheme": "constant", "val": 1e39}, "val"),
        ({"slice": "0:1,0:4", "scheme": "dirac"}, "shape"),
        ("zeros", "part"),
    ],
)
def test_an_error_names_the_part_and_the_field(part: Any, field: str) -> None:
    good = {"slice": "0:1", "scheme": "zeros"}
    caught: Any
    with pytest.raises((InvalidSpec, InvalidSpecs)) as caught:
        planned(weight={**FIELDS, "parts": [good, good, part]})
    assert [error.field for error in caught.value.errors] == [f"tensors.weight.parts.2.{field}"]


def test_an_empty_tensor_may_have_empty_parts() -> None:
    assert drawn(shape=[0, 3], scheme="normal", parts=[{"slice": ":,1:2", "scheme": "zeros"}]) == b""


@pytest.mark.parametrize("fields", [{"parts": [{"slice": "0:1", "scheme": "zeros"}]}, {"stream": "other"}])
def test_torch_refuses_parts_and_streams(fields: dict[str, Any]) -> None:
    [field] = fields
    with pytest.raises(UnsupportedSpec, match="generator=philox") as caught:
        ENGINE.plan(read(generator="torch", tensors={"a": FIELDS, "w": {**FIELDS, "slice": "2:3", **fields}}))
    assert caught.value.field == f"tensors.w.{field}"


def test_a_tensor_has_at_most_1024_parts() -> None:
    parts = [{"slice": "0:1", "scheme": "zeros"}] * 1024
    plan = planned(weight={**FIELDS, "parts": parts})
    assert len(plan.tensors[0].overlays) == 1024
    with pytest.raises(InvalidSpecs, match="parts must be a list of at most 1024 items") as caught:
        planned(weight={**FIELDS, "parts": [*parts, parts[0]]})
    assert [error.field for error in caught.value.errors] == ["tensors.weight.parts"]


@pytest.mark.parametrize("where", [{"rules": [{"match": "*", "scheme": "zeros", "parts": []}]}, {}])
def test_parts_are_of_tensors_of_a_manifest(where: dict[str, Any]) -> None:
    fields = {"tensors": {"w": {"shape": [2]}}, **where} if where else {**FIELDS, "parts": []}
    with pytest.raises((InvalidSpec, InvalidSpecs), match="parts is not a field"):
        read(**fields)


def test_a_tensor_without_parts_asks_for_no_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no parts is drawn as it was before there were any."""
    plan = planned(weight={"shape": [100, 100], "scheme": "normal"})
    monkeypatch.setattr(Piece, "layers", None)
    monkeypatch.setattr(PlannedTensor, "layers", None)
    file = ENGINE.open(plan)
    assert file.cost(0, plan.nbytes, limit=10**9) > 0
    assert len(file.read(0, plan.nbytes)) == plan.nbytes
    file.close()


def test_the_words_of_parts_are_in_a_description() -> None:
    parts = [{"slice": "0:1", "scheme": "zeros"}, *([{"slice": "1:2,0:3", "scheme": "normal"}] * 4)]
    spec = read(tensors={"w": {**FIELDS, "parts": parts, "stream": "v"}})
    told: Any = ENGINE.describe(spec, ENGINE.plan(spec)).tensors["w"]
    assert told.law["words"] == (
        "normal with mean 0 and std 1; over it [0:1,0:6]: 0 everywhere; over it [1:2,0:3]: normal with mean 0 and "
        "std 1; over it [1:2,0:3]: normal with mean 0 and std 1; and 2 more parts"
    )
    assert (told.stream, told.mean, told.std) == ("v", 0.0, 1.0)
    assert [part.slice for part in told.parts] == [text_of(part.bounds) for part in spec.tensors[0].parts]
    assert (told.parts[0].std, told.parts[1].std, told.parts[1].law["kind"]) == (0.0, 1.0, "normal")


def test_the_part_of_a_dtype_is_rounded_as_its_tensor() -> None:
    for dtype in FLOATS:
        got = np.frombuffer(
            drawn(shape=[6], scheme="ones", dtype=dtype, parts=[{"slice": "2:", "scheme": "normal"}]),
            UNSIGNED[DTYPES[dtype].itemsize],
        )
        alone = data(read(shape=[4], name="weight[2:6]", scheme="normal", dtype=dtype))["weight[2:6]"]
        assert got[2:].tobytes() == alone
