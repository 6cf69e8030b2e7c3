"""Given numbers, broadcast to a shape, are those of numpy, rounded as constants are."""

import json
from contextlib import closing
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.formats import UNSIGNED, pattern, patterns
from weightwell_engine.parsing import MAX_VALUES, read_document
from weightwell_engine.plan import Plan

ENGINE = Engine(Cpu(), threads=1)

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-2, 2) | st.sampled_from([0.0, -0.0, 5e-324])


def plan(**fields: Any) -> Plan:
    return ENGINE.plan(read_document(json.dumps({"scheme": "values", **fields}).encode()))


def drawn(*cuts: int, **fields: Any) -> bytes:
    planned = plan(**fields)
    head, edges = len(planned.header), [0, *sorted(cuts), planned.data_nbytes]
    with closing(ENGINE.open(planned)) as file:
        return b"".join(bytes(file.read(head + start, head + stop)) for start, stop in pairwise(edges))


@given(st.lists(numbers, min_size=1, max_size=20), st.sampled_from(list(FLOATS)))
def test_many_constants_are_rounded_as_one_is(values: list[float], dtype: str) -> None:
    expected = [pattern(value, DTYPES[dtype]) for value in values]
    assert patterns(values, DTYPES[dtype]).tolist() == expected


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(st.integers(1, 6), max_size=4))
    repeated = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    dims = [1 if once else size for once, size in zip(repeated, shape, strict=True)][draw(st.integers(0, len(shape))) :]
    values = draw(st.lists(st.floats(-400, 400), min_size=prod(dims), max_size=prod(dims)))
    is_cut = bool(shape) and draw(st.booleans())
    edges = [sorted([draw(st.integers(0, size)), draw(st.integers(0, size))]) for size in shape]
    cut = {"slice": ",".join(f"{start}:{stop}" for start, stop in edges)} if is_cut else {}
    return {"shape": shape, "values": values, "dims": dims, "dtype": draw(st.sampled_from(list(FLOATS))), **cut}


@settings(deadline=None)
@given(tables(), st.lists(st.integers(0, 10**4), max_size=3))
def test_any_range_of_any_slice_is_that_of_numpy_and_the_reference(fields: dict[str, Any], cuts: list[int]) -> None:
    dtype, shape = DTYPES[fields["dtype"]], fields["shape"]
    bits = patterns(fields["values"], dtype).astype(UNSIGNED[dtype.itemsize]).reshape(fields["dims"])
    whole = np.broadcast_to(bits, shape)
    bounds = [map(int, pair.split(":")) for pair in fields.get("slice", "").split(",") if pair]
    expected = whole[tuple(slice(*pair) for pair in bounds)].tobytes()
    assert drawn(*(cut % (len(expected) + 1) for cut in cuts), **fields) == expected
    [tensor] = plan(**fields).tensors
    prepared = reference.Prepared(tensor.law, dtype, 0, "weight")
    at = np.arange(prod(shape), dtype=np.uint64)
    assert prod(tensor.region.extent) == 0 or (
        prepared.patterns(at).astype(bits.dtype).tobytes() == whole.tobytes() or 0 in shape
    )


def test_the_array_has_the_shape_of_the_tensor_unless_it_says_another() -> None:
    assert np.frombuffer(drawn(shape=[2, 2], values=[1, 2, 3, 4]), np.float32).tolist() == [1, 2, 3, 4]
    assert np.frombuffer(drawn(shape=[2, 2], values=[1, 2], dims=[2, 1]), np.float32).tolist() == [1, 1, 2, 2]


def test_a_table_may_be_as_long_as_65536_numbers() -> None:
    values = np.random.default_rng(0).normal(size=MAX_VALUES)
    got = drawn(shape=[40, MAX_VALUES], values=values.tolist(), dims=[MAX_VALUES])
    np.testing.assert_array_equal(np.frombuffer(got, np.float32).reshape(40, -1)[[0, 39]], [values.astype("f4")] * 2)


def test_integers_are_what_they_are() -> None:
    values = [0, -1, 2**53 - 1, 1 - 2**53]
    assert np.frombuffer(drawn(shape=[4], values=values, dtype="int64"), np.int64).tolist() == values


def test_both_generators_and_every_name_have_the_same_numbers() -> None:
    fields = {"shape": [3, 2], "values": [0.1, 0.2], "dims": [2], "dtype": "bfloat16"}
    assert drawn(**fields) == drawn(**fields, generator="torch") == drawn(**fields, seed=5, name="x")


def test_a_tensor_of_given_numbers_may_have_parts() -> None:
    tensor = {"shape": [3], "scheme": "values", "values": [1, 2, 3], "parts": [{"slice": "1:2", "scheme": "zeros"}]}
    planned = ENGINE.plan(read_document(json.dumps({"tensors": {"w": tensor}}).encode()))
    with closing(ENGINE.open(planned)) as file:
        got = np.frombuffer(file.read(len(planned.header), planned.nbytes), np.float32)
    assert got.tolist() == [1, 0, 3]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"values": [1, 2, 3]}, "values"),
        ({"values": [1, 2], "dims": [2, 2]}, "values"),
        ({"values": [1, 2], "dims": [2, 1, 1]}, "dims"),
        ({"values": [1, 2, 3], "dims": [3]}, "dims"),
        ({"values": [1], "dims": [1, 1, 1]}, "dims"),
        ({"values": [1e39], "dims": []}, "dtype"),
        ({"values": [0.5], "dims": [], "dtype": "int64"}, "dtype"),
        ({"values": [2**53], "dims": [], "dtype": "int64"}, "dtype"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        plan(shape=[2, 2], **fields)
    assert caught.value.field == field


def test_a_part_has_no_given_numbers() -> None:
    part = {"slice": "0:1", "scheme": "values", "values": [1]}
    with pytest.raises(InvalidSpecs, match=r"tensors\.w: parts\.0: there is no scheme|scheme must be one of"):
        read_document(json.dumps({"tensors": {"w": {"shape": [3], "scheme": "ones", "parts": [part]}}}).encode())


def test_tables_are_not_kept_after_their_plan() -> None:
    from weightwell_engine import plan as planning

    before = planning._law.cache_info().currsize
    for number in range(5):
        plan(shape=[3], values=[0.5, 0.25, number])
    assert planning._law.cache_info().currsize == before
