import json
from contextlib import suppress
from typing import Any, get_args
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from weightwell_engine.description import FileDescription, describe
from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.torch import TorchGenerator
from weightwell_engine.laws import Normal
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import UNLIMITED, make_plan
from weightwell_engine.schemes import SCHEMES

GENERATOR = TorchGenerator(Cpu())


def described(**fields: Any) -> dict[str, Any]:
    """Return the description of a file, as it is read from JSON."""
    spec = read_document(json.dumps(fields).encode())
    plan = make_plan(spec, GENERATOR.identity, portable=True, max_bytes=UNLIMITED)
    made = TypeAdapter(FileDescription).dump_json(describe(spec, plan, GENERATOR))
    found: dict[str, Any] = json.loads(made)
    return found


def tensor(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = described(**fields)["tensors"]["weight"]
    return found


def test_tensors_that_are_alike_are_described_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Mock(return_value="as the first")
    monkeypatch.setattr(Normal, "words", made)
    alike = {"shape": [3, 1021], "scheme": "normal", "std": 0.765}
    tensors = described(tensors={str(seed): {**alike, "seed": seed} for seed in range(50)})["tensors"]
    assert made.call_count == 1
    assert {each["law"]["words"] for each in tensors.values()} == {"as the first"}
    assert [tensors[str(seed)]["seed"] for seed in range(50)] == list(range(50))


def test_tensors_of_zero_and_of_minus_zero_are_not_alike() -> None:
    values = {"plus": 0.0, "minus": -0.0}
    tensors = described(tensors={name: {"shape": [7], "scheme": "constant", "val": values[name]} for name in values})
    signs = {name: str(tensor["parameters"]["val"]) for name, tensor in tensors["tensors"].items()}
    assert signs == {"plus": "0.0", "minus": "-0.0"}


def test_a_tensor_is_described_in_numbers_and_in_words() -> None:
    assert tensor(shape=[512, 784], scheme="xavier_uniform", seed=2**60, dtype="bfloat16", slice="0:256") == {
        "shape": [512, 784],
        "slice": "0:256,0:784",
        "dtype": "bfloat16",
        "seed": str(2**60),
        "stream": None,
        "scheme": "xavier_uniform",
        "parameters": {"gain": 1.0, "groups": 1, "transposed": False},
        "parts": None,
        "rule": None,
        "law": {
            "kind": "uniform",
            "low": pytest.approx(-((6 / 1296) ** 0.5)),
            "high": pytest.approx((6 / 1296) ** 0.5),
            "words": "uniform in [-0.068, 0.068]",
        },
        "mean": 0.0,
        "std": pytest.approx((2 / 1296) ** 0.5),
        "fan_in": 784,
        "fan_out": 512,
        "data_offsets": [0, 256 * 784 * 2],
        "nbytes": 256 * 784 * 2,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": [8, 6], "scheme": "normal"}, "normal with mean 0 and std 1"),
        ({"shape": [8, 6, 2], "scheme": "normal"}, "normal with mean 0 and std 1"),
        ({"shape": [8, 6], "scheme": "he_normal"}, "normal with mean 0 and std 0.577"),
        ({"shape": [8], "scheme": "he_normal", "fan_in": 6}, "normal with mean 0 and std 0.577"),
        (
            {"shape": [8, 6, 3, 3], "scheme": "he_normal"},
            "normal with mean 0 and std 0.192; axes are [out, in, kernel, kernel]",
        ),
        # A kernel of three axes is a convolution, as in torch, unless the request says what they are.
        ({"shape": [6, 2, 4], "scheme": "he_normal"}, "normal with mean 0 and std 0.5; axes are [out, in, kernel]"),
        (
            {"shape": [6, 2, 4], "scheme": "he_normal", "in_axis": 0, "out_axis": [1, 2]},
            "normal with mean 0 and std 0.577; axes are [in, out, out]",
        ),
        (
            {"shape": [6, 8], "scheme": "he_normal", "layout": "jax"},
            "normal with mean 0 and std 0.577; axes are [in, out]",
        ),
        (
            {"shape": [5, 6, 8], "scheme": "orthogonal", "layout": "jax", "batch_axis": 0},
            "1 times 5 independent random orthogonal matrices of 8 x 6; axes are [batch, in, out]",
        ),
        ({"shape": [0, 6, 8], "scheme": "he_normal", "batch_axis": 0}, "no elements"),
    ],
)
def test_the_words_have_the_roles_of_axes_unless_they_are_out_and_in(fields: dict[str, Any], words: str) -> None:
    assert tensor(**fields)["law"]["words"] == words


def test_the_law_of_stacked_matrices_is_described_in_numbers() -> None:
    found = tensor(shape=[5, 6, 8], scheme="orthogonal", layout="jax", batch_axis=0)
    assert found["parameters"] == {"batch_axis": [0], "gain": 1.0, "layout": "jax"}
    assert {key: value for key, value in found["law"].items() if key != "words"} == {
        "kind": "orthogonal_stack",
        "rows": 8,
        "cols": 6,
        "gain": 1.0,
        "taps": 1,
        "centre": 0,
        "count": 5,
        "sizes": [5, 6, 8],
        "strides": [48, 1, 6],
    }
    assert found["std"] == pytest.approx(8**-0.5)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_told(name: str) -> None:
    required: Any = {each.name: 0.5 for each in SCHEMES[name].parameters if each.default is ...}
    required |= {"values": [0.5], "dims": []} if name == "values" else {}
    required |= {"low": -2, "high": 3, "dtype": "int8"} if name == "randint" else {}
    required |= {"low": -2, "high": 3} if name == "power_of_two" else {}
    found = tensor(shape=[4, 4, 3] if SCHEMES[name].ndim[0] > 2 else [4, 4], scheme=name, **required)
    assert found["scheme"] == name
    assert found["law"]["words"]
    assert set(found["parameters"]) <= {each.name for each in SCHEMES[name].parameters}


@pytest.mark.parametrize(
    ("fields", "fans"),
    [
        ({"shape": [8, 6, 3, 3], "scheme": "he_normal"}, (54, 72)),
        ({"shape": [8, 6, 3, 3], "scheme": "he_normal", "groups": 2}, (54, 36)),
        ({"shape": [8, 6, 3, 3], "scheme": "he_normal", "transposed": True}, (72, 54)),
        ({"shape": [8], "scheme": "he_normal", "fan_in": 5}, (5, None)),
        ({"shape": [8, 6], "scheme": "normal"}, (6, 8)),
        ({"shape": [8, 6, 3], "scheme": "dirac", "groups": 2}, (18, 24)),
        ({"shape": [8, 6, 5], "scheme": "he_normal", "in_axis": 0, "out_axis": [1, 2]}, (8, 30)),
        ({"shape": [8, 6, 5], "scheme": "he_normal", "batch_axis": 0}, (5, 6)),
        ({"shape": [3, 3, 6, 8], "scheme": "orthogonal", "layout": "jax"}, (54, 72)),
        ({"shape": [5, 6], "scheme": "he_normal", "batch_axis": 0, "fan_in": 6}, (6, None)),
        ({"shape": [8], "scheme": "ones"}, (None, None)),
        ({"shape": [], "scheme": "ones"}, (None, None)),
        ({"shape": [3, 0], "scheme": "he_normal", "groups": 7}, (0, 3)),
    ],
)
def test_fans_are_those_that_the_scheme_works_with(fields: dict[str, Any], fans: tuple[int, int]) -> None:
    found = tensor(**fields)
    assert (found["fan_in"], found["fan_out"]) == fans


def test_tensors_come_in_the_order_in_which_they_are_drawn_and_aliases_after_them() -> None:
    ones = {"shape": [3], "scheme": "ones"}
    found = described(tensors={"z": ones, "tied": {"alias": "z"}, "a": {**ones, "dtype": "float64"}})["tensors"]
    assert list(found) == ["z", "a", "tied"]
    assert found["tied"] == {"alias": "z"}
    assert (found["a"]["data_offsets"], found["z"]["data_offsets"]) == ([0, 24], [24, 36])


def test_rules_are_described_by_their_paths() -> None:
    rules = [{"match": "x*", "scheme": "ones"}, {"match": "a*", "scheme": "ones"}]
    found = described(tensors={"a": {"shape": [1]}, "b": {"shape": [1], "scheme": "zeros"}}, rules=rules)
    assert found["unused"] == [0]
    assert found["unused_note"] == "no tensor uses rules.0: no name or module matches, or earlier rules match first"
    assert [each["rule"] for each in found["tensors"].values()] == ["rules.1", None]


extremes = st.sampled_from([0.0, 5e-324, 1e-300, 1e154, 1e300, 1.7976931348623157e308])
numbers = st.floats(allow_nan=False, allow_infinity=False) | extremes | extremes.map(float.__neg__)


@settings(max_examples=400)
@given(st.sampled_from(list(SCHEMES)), st.lists(st.integers(0, 3), max_size=4), st.data())
def test_every_description_is_json(scheme: str, shape: list[int], data: st.DataObject) -> None:
    floats = [each.name for each in SCHEMES[scheme].parameters if get_args(each.annotation)[:1] == (float,)]
    parameters = data.draw(st.fixed_dictionaries(dict.fromkeys(floats, numbers)))
    with suppress(InvalidSpec, InvalidSpecs):
        assert tensor(shape=shape, scheme=scheme, dtype="float64", **parameters)["scheme"] == scheme
