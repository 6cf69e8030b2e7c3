import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.laws import Constant, Normal, TruncatedNormal
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import Plan, PlannedTensor, make_plan
from weightwell_engine.regions import Region
from weightwell_engine.spec import GENERATORS, Spec, TensorSpec

IDENTITY = "an algorithm, version 1"

WEIGHT = TensorSpec("w", (4, 6), "float32", 0, "normal", {"mean": 0.0, "std": 1.0})


def plan(*tensors: TensorSpec, identity: str = IDENTITY, max_bytes: int = 2**40, generator: str = "torch") -> Plan:
    return make_plan(Spec(generator, tensors), identity, portable=True, max_bytes=max_bytes)


def posted(**fields: Any) -> Plan:
    spec = read_document(json.dumps({"shape": [4, 6], "scheme": "normal", "seed": 5, **fields}).encode())
    return make_plan(spec, IDENTITY, portable=True, max_bytes=2**40)


def metadata(planned: Plan) -> dict[str, str]:
    found: dict[str, str] = json.loads(planned.header[8:])["__metadata__"]
    return found


@st.composite
def files(draw: st.DrawFn) -> Plan:
    """Draw a plan of a few small tensors of every dtype, some of them sliced, some empty."""
    tensors = []
    for order in range(draw(st.integers(0, 5))):
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        bounds = tuple((start, draw(st.integers(start, n))) for n in shape for start in [draw(st.integers(0, n))])
        dtype = draw(st.sampled_from(list(DTYPES)))
        if packed := DTYPES[dtype].packed - 1:  # such as 1, for twice the last size
            shape, bounds = (*shape, 2 + 2 * packed), (*bounds, (2 * packed, 2 + 2 * packed))
        tensors.append(
            replace(
                WEIGHT if dtype in FLOATS else replace(WEIGHT, scheme="ones", parameters={}),
                name=f"{draw(st.sampled_from('abc'))}{order}",
                shape=shape,
                dtype=dtype,
                slice=None if bounds == tuple((0, n) for n in shape) else bounds,
            )
        )
    return plan(*tensors)


def elements(planned: Plan, start: int, stop: int) -> list[tuple[str, int]]:
    return [(piece.tensor.name, i) for piece in planned.pieces(start, stop) for i in range(piece.start, piece.stop)]


# Pieces --------------------------------------------------------------------------------------------------------------


@given(files(), st.lists(st.integers(0, 60), max_size=4))
def test_the_pieces_between_any_cuts_are_every_element_once_in_order(planned: Plan, cuts: list[int]) -> None:
    borders = [0, *sorted(8 * cut for cut in cuts if 8 * cut < planned.data_nbytes), planned.data_nbytes]
    everything = [(tensor.name, i) for tensor in planned.tensors for i in range(tensor.size)]
    assert [each for border in pairwise(borders) for each in elements(planned, *border)] == everything


@given(files(), st.integers(0, 60), st.integers(0, 60))
def test_the_pieces_of_a_span_are_as_many_bytes_as_the_span(planned: Plan, one: int, other: int) -> None:
    start, stop = (min(8 * cut, planned.data_nbytes) for cut in sorted((one, other)))
    assert sum(piece.nbytes for piece in planned.pieces(start, stop)) == stop - start


@given(files())
def test_offsets_are_those_that_the_header_declares(planned: Plan) -> None:
    fields = json.loads(planned.header[8:])
    for tensor in planned.tensors:
        entry = fields[tensor.name]
        assert entry["data_offsets"] == [tensor.offset, tensor.offset + tensor.nbytes]
        assert entry["dtype"] == tensor.dtype.code
        extent = list(tensor.region.extent)
        assert entry["shape"] == [*extent[:-1], *(size * tensor.dtype.packed for size in extent[-1:])]
    assert planned.nbytes == len(planned.header) + planned.data_nbytes


def test_a_piece_near_the_end_of_very_many_tensors_is_found_without_a_walk() -> None:
    planned = plan(*(replace(WEIGHT, name=f"{i:05}") for i in range(20_000)))
    start = planned.data_nbytes - 8
    with mock.patch.object(PlannedTensor, "nbytes", new_callable=mock.PropertyMock, return_value=96) as looked_at:
        assert elements(planned, start, start + 8) == [("19999", 22), ("19999", 23)]
    assert looked_at.call_count < 50


def test_tensors_are_drawn_in_the_order_of_the_spec_and_not_of_the_file() -> None:
    planned = plan(replace(WEIGHT, name="b", dtype="float16"), replace(WEIGHT, name="z"), replace(WEIGHT, name="a"))
    assert [(tensor.name, tensor.order) for tensor in planned.tensors] == [("a", 2), ("z", 1), ("b", 0)]


# Identity ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [6, 4]},
        {"shape": [4, 6, 1]},
        {"scheme": "uniform"},
        {"mean": 1e-300},
        {"mean": -0.0},
        {"std": 1.0000000000000002},
        {"dtype": "float16"},
        {"seed": 4},
        {"seed": 2**64 - 1},
        {"name": "w"},
        {"slice": "0:3,:"},
        {"slice": "0:4,0:5"},
    ],
)
def test_the_etag_changes_with_every_field_that_matters(change: dict[str, Any]) -> None:
    assert posted(**change).etag != posted().etag


def test_the_etag_depends_on_the_identity_of_the_generator() -> None:
    etags = {plan(WEIGHT).etag, plan(WEIGHT, identity="version 2").etag, plan(WEIGHT, generator="other").etag}
    assert len(etags) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"mean": 0},
        {"mean": 0.0, "std": 1},
        {"dtype": "float32"},
        {"dtype": None},
        {"name": "weight"},
        {"generator": GENERATORS[0]},
        {"seed": "5"},
        {"slice": ":"},
        {"slice": "0:4, 0:6"},
        {"shape": "4,6"},
    ],
)
def test_the_etag_does_not_change_with_how_the_same_thing_is_said(change: dict[str, Any]) -> None:
    assert posted(**change).header == posted().header


@pytest.mark.parametrize(
    ("said", "same"),
    [
        (
            {"scheme": "he_normal"},
            {"scheme": "kaiming_normal", "a": 0, "mode": "FAN_IN", "groups": 1, "transposed": False},
        ),
        ({"scheme": "glorot_uniform"}, {"scheme": "xavier_uniform", "gain": 1, "fan_in": None, "fan_out": None}),
    ],
)
def test_the_etag_does_not_change_with_an_alias(said: dict[str, Any], same: dict[str, Any]) -> None:
    assert posted(**said).etag == posted(**same).etag


def test_one_tensor_is_the_same_file_in_a_manifest() -> None:
    tensor = {"shape": [4, 6], "scheme": "normal"}
    manifest = read_document(json.dumps({"tensors": {"weight": tensor}, "seed": 5}).encode())
    assert make_plan(manifest, IDENTITY, portable=True, max_bytes=2**40).header == posted().header


@given(files())
def test_the_spec_in_the_metadata_makes_the_same_file_again(planned: Plan) -> None:
    spec = read_document(metadata(planned)["spec"].encode())
    assert make_plan(spec, IDENTITY, portable=True, max_bytes=2**40) == planned


def test_the_metadata_has_the_generator_and_the_spec() -> None:
    found = metadata(plan(WEIGHT))
    assert list(found) == ["format", "weightwell", "generator", "spec"]
    assert (found["format"], found["generator"]) == ("pt", IDENTITY)
    assert json.loads(found["spec"]) == {
        "generator": "torch",
        "tensors": {"w": {"shape": [4, 6], "scheme": "normal", "mean": 0.0, "std": 1.0, "dtype": "float32", "seed": 0}},
    }


@given(st.integers(0, 2**64 - 1))
def test_a_seed_in_the_metadata_survives_readers_whose_integers_are_doubles(seed: int) -> None:
    spec = json.loads(metadata(plan(replace(WEIGHT, seed=seed)))["spec"], parse_int=lambda digits: int(float(digits)))
    assert int(spec["tensors"]["w"]["seed"]) == seed


def test_an_etag_is_a_strong_quoted_tag() -> None:
    etag = plan(WEIGHT).etag
    assert etag[0] == etag[-1] == '"'
    assert len(etag) == 34
    assert set(etag[1:-1]) <= set("0123456789abcdef")


def test_an_alias_is_metadata_that_names_its_tensor() -> None:
    tied = Spec("philox", (WEIGHT,), aliases=(("head", "w"), ("tail", "w")))
    planned = make_plan(tied, IDENTITY, portable=True, max_bytes=2**40)
    found = metadata(planned)
    assert list(found) == ["format", "weightwell", "generator", "spec", "head", "tail"]
    assert (found["head"], found["tail"]) == ("w", "w")
    assert [tensor.name for tensor in planned.tensors] == ["w"]
    assert read_document(found["spec"].encode()) == tied


# The digests of headers as they were before axes could be named.
@pytest.mark.parametrize(
    ("fields", "etag"),
    [
        ({"scheme": "he_normal"}, "41370ceb49ec61c8915c0fb1e71ae765"),
        ({"scheme": "xavier_uniform", "groups": 2, "shape": [4, 6, 3]}, "0136ac99119417594a6851fef852e821"),
        ({"scheme": "orthogonal", "shape": [4, 6, 3]}, "bcb83ef50bc4ade6fa4edf16d0adaa8f"),
        ({"scheme": "delta_orthogonal", "shape": [6, 4, 3]}, "808d07072f57acae3ceec473f576386c"),
    ],
)
def test_the_etag_of_a_spec_without_axes_has_not_changed(fields: dict[str, Any], etag: str) -> None:
    assert posted(**fields).etag == f'"{etag}"'
    named: dict[str, Any] = {"layout": "torch", "in_axis": None, "out_axis": None, "batch_axis": []}
    assert posted(**fields, **named).header == posted(**fields).header


@pytest.mark.parametrize("names", [{"layout": "jax"}, {"in_axis": 1}, {"batch_axis": 0}, {"batch_axis": [2, 0]}])
def test_the_etag_depends_on_the_roles_of_axes(names: dict[str, Any]) -> None:
    fields = {"scheme": "he_normal", "shape": [4, 6, 3, 2]}
    assert posted(**fields, **names).etag != posted(**fields).etag


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_file_may_be_as_large_as_is_allowed_and_no_larger() -> None:
    assert plan(WEIGHT, max_bytes=96).data_nbytes == 96
    with pytest.raises(TooLarge, match="would hold 96 bytes of tensors, and this server serves at most 95"):
        plan(WEIGHT, max_bytes=95)


def test_the_limit_counts_the_requested_parts_of_all_tensors() -> None:
    part = replace(WEIGHT, shape=(2**30, 6), slice=((5, 7), (0, 6)))
    assert plan(part, max_bytes=48).data_nbytes == 48
    with pytest.raises(TooLarge, match="would hold 96 bytes"):
        plan(part, replace(part, name="v"), max_bytes=95)


@pytest.mark.parametrize(
    "shape", [(2**61,), (2**63 - 1,), (2**31, 2**31), (2**63 - 1, 0), (2**32,) * 64, (2**40, 0, 2**40)]
)
def test_a_shape_whose_bytes_overflow_63_bits_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidSpec, match="shape must be at most 9223372036854775807 bytes in all"):
        plan(replace(WEIGHT, shape=shape))


def test_a_petabyte_is_planned_like_anything_else() -> None:
    planned = plan(replace(WEIGHT, shape=(2**24, 2**24)), max_bytes=2**60)
    assert planned.data_nbytes == 2**50
    assert [piece.nbytes for piece in planned.pieces(2**50 - 8, 2**50)] == [8]


@pytest.mark.parametrize("bounds", [((3, 2), (0, 6)), ((0, 5), (0, 6)), ((0, 4), (7, 7)), ((5, 5), (0, 6))])
def test_a_slice_outside_the_tensor_is_refused(bounds: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InvalidSpec, match=r"slice must be start <= stop <= [46] in dimension [01], got"):
        plan(replace(WEIGHT, slice=bounds))


def test_a_slice_is_a_region_of_the_whole_tensor() -> None:
    [tensor] = plan(replace(WEIGHT, slice=((1, 3), (2, 2)))).tensors
    assert tensor.region == Region((4, 6), (1, 2), (3, 2))
    assert tensor.nbytes == 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("scheme", "field"),
    [("constant", "val"), ("normal", "std"), ("normal", "mean"), ("trunc_normal", "std"), ("uniform", "b")],
)
def test_a_number_that_the_dtype_does_not_hold_is_refused(scheme: str, field: str, dtype: str) -> None:
    largest = DTYPES[dtype].max
    assert posted(scheme=scheme, dtype=dtype, **{field: largest})
    too_large = largest * 1.01
    if too_large < float("inf"):
        with pytest.raises(InvalidSpec, match=f"the range of {dtype}") as caught:
            posted(scheme=scheme, dtype=dtype, **{field: too_large})
        assert caught.value.field == field


@pytest.mark.parametrize(
    "parameters",
    [
        {"scheme": "uniform", "a": -3e38, "b": 3e38},
        {"scheme": "xavier_uniform", "gain": 1e300},
        {"scheme": "xavier_normal", "gain": 1e300},
        {"scheme": "identity", "gain": 1e300},
        {"scheme": "variance_scaling", "scale": 1e300},
        {"scheme": "variance_scaling", "scale": 1e300, "distribution": "uniform"},
    ],
)
def test_a_number_that_follows_from_the_parameters_is_refused_by_the_dtype_that_does_not_hold_it(
    parameters: dict[str, Any],
) -> None:
    with pytest.raises(
        InvalidSpec, match=r"dtype must be one that holds .+, which this law needs, got 'float32'"
    ) as caught:
        posted(**parameters)
    assert caught.value.field == "dtype"


@pytest.mark.parametrize("scheme", ["normal", "uniform", "orthogonal", "lecun_normal"])
def test_what_draws_fractions_has_no_whole_numbers(scheme: str) -> None:
    with pytest.raises(InvalidSpec, match="dtype must be a floating-point type") as caught:
        posted(scheme=scheme, dtype="int64")
    assert caught.value.field == "dtype"


@pytest.mark.parametrize(("scheme", "fields"), [("constant", {"val": 0.5}), ("identity", {"gain": -1.5})])
def test_a_whole_dtype_takes_no_other_number(scheme: str, fields: dict[str, float]) -> None:
    with pytest.raises(InvalidSpec, match=r"must be an integer, as int64|which is not an integer"):
        posted(scheme=scheme, dtype="int64", **fields)


def test_a_whole_number_that_a_double_may_have_rounded_is_refused() -> None:
    assert posted(scheme="constant", dtype="int64", val=2**53 - 1)
    with pytest.raises(InvalidSpec, match=r"val must be within \+-9007199254740991, the range of int64"):
        posted(scheme="constant", dtype="int64", val=2**53 + 1)


ANY = "zeros, ones, constant, values and randint"


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"scheme": "constant", "val": 256, "dtype": "uint8"}, "val", "val must be in [0, 255], the range of uint8"),
        ({"scheme": "constant", "val": -1, "dtype": "uint8"}, "val", "val must be in [0, 255], the range of uint8"),
        ({"scheme": "constant", "val": 1.5, "dtype": "int8"}, "val", "an integer, as int8 holds no other numbers"),
        ({"scheme": "constant", "val": 2, "dtype": "bool"}, "val", "in [0, 1], the range of bool"),
        ({"scheme": "values", "values": [-1, 200], "shape": [2], "dtype": "uint8"}, "dtype", "one that holds -1"),
        ({"scheme": "kaiming_normal", "dtype": "int8"}, "dtype", f"int8 can have {ANY}, got 'int8'"),
        ({"scheme": "power_of_two", "low": 0, "high": 2, "dtype": "int32"}, "dtype", f"int32 can have {ANY}"),
        ({"scheme": "randint", "high": 2}, "dtype", "one of int64, int32, int16, int8, uint8, bool, as this scheme"),
        ({"scheme": "randint", "high": 3, "dtype": "bool"}, "high", "in [1, 2], the range of bool"),
        ({"scheme": "randint", "low": -129, "high": 0, "dtype": "int8"}, "low", "in [-128, 127], the range of int8"),
        ({"scheme": "randint", "high": 2**31 + 1, "dtype": "int32"}, "high", "in [-2147483647, 2147483648], the range"),
        ({"scheme": "randint", "low": -(2**53), "high": 0, "dtype": "int64"}, "low", "within +-9007199254740991"),
        ({"scheme": "randint", "low": 5, "high": 5, "dtype": "int8"}, "high", "low must be below high"),
        ({"scheme": "zeros", "dtype": "float8_e8m0fnu"}, "dtype", "holds 0.0, which is not a power of two"),
        ({"scheme": "eye", "dtype": "float8_e8m0fnu"}, "dtype", "it can have ones, constant, values and power_of_two"),
        ({"scheme": "normal", "dtype": "float8_e8m0fnu"}, "dtype", "float8_e8m0fnu holds powers of two only"),
        ({"scheme": "constant", "val": 3, "dtype": "float8_e8m0fnu"}, "val", "a power of two, as float8_e8m0fnu"),
        ({"scheme": "constant", "val": -2, "dtype": "float8_e8m0fnu"}, "val", "the range of float8_e8m0fnu"),
        ({"scheme": "power_of_two", "low": -128, "high": 0, "dtype": "float8_e8m0fnu"}, "low", "in [-127, 127]"),
        ({"scheme": "power_of_two", "low": 0, "high": 129, "dtype": "float8_e8m0fnu"}, "high", "in [-126, 128]"),
        (
            {"scheme": "power_of_two", "low": -7, "high": 0, "dtype": "float8_e4m3fn"},
            "low",
            "in [-6, 8], the exponents",
        ),
        ({"scheme": "constant", "val": 7, "dtype": "float4_e2m1fn_x2"}, "val", "within +-6, the range of float4"),
        ({"scheme": "zeros", "shape": [], "dtype": "float4_e2m1fn_x2"}, "shape", "whose last size is a multiple of 2"),
        (
            {"scheme": "zeros", "shape": [2, 3], "dtype": "float4_e2m1fn_x2"},
            "shape",
            "a byte of float4_e2m1fn_x2 holds",
        ),
        (
            {"scheme": "zeros", "slice": ":,1:4", "dtype": "float4_e2m1fn_x2"},
            "slice",
            "from a multiple of 2 to another",
        ),
        ({"scheme": "zeros", "slice": ":,0:3", "dtype": "float4_e2m1fn_x2"}, "slice", "got '0:3'"),
    ],
)
def test_a_number_or_a_cut_that_a_dtype_does_not_have_is_refused(
    fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(words)) as caught:
        posted(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"scheme": "zeros", "dtype": "bool"},
        {"scheme": "constant", "val": -128, "dtype": "int8"},
        {"scheme": "constant", "val": 2.0**-127, "dtype": "float8_e8m0fnu"},
        {"scheme": "randint", "low": -(2**31), "high": 2**31, "dtype": "int32"},
        {"scheme": "randint", "low": 1 - 2**53, "high": 2**53, "dtype": "int64"},
        {"scheme": "randint", "high": 2, "dtype": "bool"},
        {"scheme": "power_of_two", "low": -127, "high": 128, "dtype": "float8_e8m0fnu"},
        {"scheme": "ones", "shape": [3, 0], "dtype": "float8_e8m0fnu"},
        {"scheme": "normal", "slice": "1:2,2:4", "dtype": "float4_e2m1fn_x2"},
    ],
)
def test_the_ends_of_the_range_of_a_dtype_are_in_it(fields: dict[str, Any]) -> None:
    assert posted(**fields)


def test_a_packed_tensor_has_the_shape_of_its_elements_and_the_region_of_its_items() -> None:
    planned = posted(scheme="normal", shape=[4, 6], slice="1:3,2:6", dtype="float4_e2m1fn_x2")
    [tensor] = planned.tensors
    entry = json.loads(planned.header[8:])["weight"]
    assert entry == {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}
    assert tensor.region == Region((4, 3), (1, 1), (3, 3))


def test_an_error_in_a_manifest_names_the_tensor() -> None:
    bad = replace(WEIGHT, name="h.0.w", scheme="xavier_normal", shape=(3,), parameters={})
    with pytest.raises(InvalidSpec, match="fewer than 2 dimensions") as caught:
        plan(WEIGHT, bad)
    assert caught.value.field == "tensors.h.0.w.shape"


# Laws ----------------------------------------------------------------------------------------------------------------


def test_the_law_of_a_slice_is_that_of_the_whole() -> None:
    whole = posted(scheme="lecun_normal").tensors[0].law
    assert isinstance(whole, TruncatedNormal)
    assert posted(scheme="lecun_normal", slice="0:1,0:1").tensors[0].law == whole


@pytest.mark.parametrize("scheme", ["normal", "orthogonal", "xavier_normal"])
def test_a_tensor_without_elements_is_a_constant(scheme: str) -> None:
    assert posted(scheme=scheme, shape=[0, 3]).tensors[0].law == Constant(0.0)


def test_a_file_of_no_tensors_is_a_header_alone() -> None:
    assert plan().data_nbytes == 0
    assert list(plan().pieces(0, 0)) == []


def test_a_law_is_settled_in_the_plan() -> None:
    assert posted(scheme="normal", std=0.5).tensors[0].law == Normal(0.0, 0.5)


def test_files_that_differ_in_their_seeds_settle_their_law_once() -> None:
    law = mock.Mock(return_value=Normal(0.0, 2.0))
    with mock.patch.dict("weightwell_engine.plan.SCHEMES", normal=mock.Mock(law=law)):
        made = [plan(replace(WEIGHT, shape=(4, 997), seed=seed)).tensors[0].law for seed in range(5)]
    assert made == [Normal(0.0, 2.0)] * 5
    law.assert_called_once()


@pytest.mark.parametrize("values", [(0.0, -0.0), (-0.0, 0.0)])
def test_zero_and_minus_zero_are_different_constants_in_one_file(values: tuple[float, float]) -> None:
    constants = [
        TensorSpec(name, (3,), "float32", 0, "constant", {"val": value})
        for name, value in zip("ab", values, strict=True)
    ]
    laws = [tensor.law for tensor in plan(*constants).tensors]
    assert [str(law.value) for law in laws if isinstance(law, Constant)] == [str(value) for value in values]


def test_the_matrices_of_a_plan_are_the_tensors_with_such_a_law_or_such_a_part() -> None:
    orthogonal = {"shape": [4, 4], "scheme": "orthogonal"}
    plain: dict[str, Any] = {"shape": [4, 4], "scheme": "normal"}
    tensors = {
        "a": plain,
        "b": orthogonal,
        "c": {**plain, "parts": [{"slice": "0:2", "scheme": "orthogonal"}]},
        "d": {**plain, "parts": [{"slice": "0:2", "scheme": "ones"}]},
        "e": {"shape": [4, 4], "scheme": "sparse", "sparsity": 0.5},
    }
    spec = read_document(json.dumps({"tensors": tensors}).encode())
    planned = make_plan(spec, IDENTITY, portable=True, max_bytes=2**40)
    assert [tensor.name for tensor in planned.matrices] == ["b", "c", "e"]
