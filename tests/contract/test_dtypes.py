"""Every dtype is read by those who read safetensors files, with the values that the reference draws."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import nn

import weightwell
from weightwell import Client
from weightwell_engine.dtypes import DTYPES, INTEGERS
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.laws import Constant, Law, Normal, PowersOfTwo, UniformIntegers

# The cases have one name and one seed, and so the same random words.
pytestmark = pytest.mark.filterwarnings("ignore::weightwell.RepeatedStreamWarning")

SHAPE = (6, 4)
PACKED = "float4_e2m1fn_x2"
Fields = dict[str, Any]

# What is drawn in every dtype: schemes, and the law of each.
CASES: list[tuple[str, str, Fields, Law]] = [
    *((name, "randint", {"low": 0, "high": 2}, UniformIntegers(0, 2)) for name in INTEGERS),
    *((name, "ones", {}, Constant(1.0)) for name in DTYPES),
    *((name, "normal", {"std": 1.5}, Normal(0.0, 1.5)) for name, dtype in DTYPES.items() if dtype.is_real),
    ("int8", "randint", {"low": -128, "high": 128}, UniformIntegers(-128, 128)),
    ("int16", "randint", {"low": -300, "high": 300}, UniformIntegers(-300, 300)),
    ("int32", "randint", {"low": -(2**31), "high": 2**31}, UniformIntegers(-(2**31), 2**31)),
    ("int64", "randint", {"low": 0, "high": 50257}, UniformIntegers(0, 50257)),
    ("uint8", "constant", {"val": 200}, Constant(200.0)),
    ("int8", "constant", {"val": -128}, Constant(-128.0)),
    ("float8_e8m0fnu", "power_of_two", {"low": -127, "high": 128}, PowersOfTwo(-127, 128)),
    ("bfloat16", "power_of_two", {"low": -10, "high": 3}, PowersOfTwo(-10, 3)),
    (PACKED, "constant", {"val": -1.4}, Constant(-1.4)),
]
each_case = pytest.mark.parametrize(("name", "scheme", "fields", "law"), CASES)


@pytest.fixture(scope="module")
def local() -> Iterator[Client]:
    with weightwell.local(threads=1) as client:
        yield client


def element(name: str) -> np.dtype[Any]:
    """The type of numpy, or of ml_dtypes, that has the elements of a dtype."""
    plain = name.removesuffix("_x2")
    found: np.dtype[Any] = np.dtype(getattr(np, plain, None) or getattr(ml_dtypes, plain))
    return found


def values(name: str, law: Law, seed: int = 7) -> NDArray[Any]:
    """The elements that the reference draws, as numpy or ml_dtypes decodes their bits."""
    bits = reference.Prepared(law, DTYPES[name], seed, "weight").patterns(np.arange(24, dtype=np.uint64))
    return bits.astype(f"u{DTYPES[name].itemsize}").view(element(name)).reshape(SHAPE)


def plain(tensor: torch.Tensor) -> list[Any]:
    """The values of a tensor of torch; of four-bit elements, by the table of the format."""
    if tensor.dtype is not torch.float4_e2m1fn_x2:
        return list(tensor.to(torch.float64).tolist())
    items = tensor.view(torch.uint8).to(torch.int64)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    codes = torch.stack([items & 15, items >> 4], dim=-1).reshape(*tensor.shape[:-1], -1)
    return list((table[codes & 7] * torch.where(codes > 7, -1.0, 1.0)).tolist())


@each_case
def test_the_safetensors_library_reads_the_values(
    local: Client, tmp_path: Path, name: str, scheme: str, fields: Fields, law: Law
) -> None:
    path = tmp_path / "w.safetensors"
    local.save(path, SHAPE, scheme, dtype=name, seed=7, **fields)
    expected = values(name, law).astype(np.float64).tolist()
    with safe_open(path, "pt") as file:
        tensor = file.get_tensor("weight")
    assert tensor.dtype is getattr(torch, name)
    assert plain(tensor) == expected
    if hasattr(np, name) or name == "bool":
        with safe_open(path, "np") as file:
            assert file.get_tensor("weight").astype(np.float64).tolist() == expected
    assert local.verify(path)


@each_case
def test_a_client_returns_the_values_in_numpy_and_in_torch(
    local: Client, name: str, scheme: str, fields: Fields, law: Law
) -> None:
    array = local.init(SHAPE, scheme, dtype=element(name), seed=7, framework="numpy", **fields)
    assert (array.dtype, array.shape) == (element(name), SHAPE)
    np.testing.assert_array_equal(array.view("u1"), values(name, law).view("u1"))
    tensor = local.init(SHAPE, scheme, dtype=getattr(torch, name), seed=7, framework="torch", **fields)
    assert plain(tensor) == values(name, law).astype(np.float64).tolist()


@each_case
def test_a_tensor_that_exists_is_filled(local: Client, name: str, scheme: str, fields: Fields, law: Law) -> None:
    shape = (6, 2) if name == PACKED else SHAPE
    size = DTYPES[name].itemsize
    tensor = torch.zeros((*shape, size), dtype=torch.uint8).view(getattr(torch, name)).reshape(shape)
    assert local.init_(tensor, scheme, seed=7, **fields) is tensor
    assert plain(tensor) == values(name, law).astype(np.float64).tolist()


MANIFEST: Fields = {
    "seed": 3,
    "tensors": {
        "qweight": {"shape": [8, 6], "dtype": "int32", "scheme": "randint", "low": -(2**31), "high": 2**31},
        "int8": {"shape": [5, 3], "dtype": "int8", "scheme": "randint", "low": -127, "high": 128},
        "mask": {"shape": [7], "dtype": "bool", "scheme": "randint", "high": 2},
        "blocks": {
            "shape": [6, 8],
            "dtype": PACKED,
            "scheme": "normal",
            "parts": [{"slice": "2:4,2:6", "scheme": "ones"}],
        },
        "part": {"shape": [6, 8], "dtype": PACKED, "scheme": "normal", "stream": "blocks", "slice": "1:3,4:8"},
        "scale": {"shape": [6, 1], "dtype": "float8_e8m0fnu", "scheme": "power_of_two", "low": -8, "high": 2},
        "g_idx": {"shape": [9], "dtype": "int16", "scheme": "zeros"},
        "norm": {"shape": [6], "dtype": "bfloat16", "scheme": "ones"},
    },
}


def test_a_manifest_of_every_kind_is_the_same_over_http_and_in_process(server: str, local: Client) -> None:
    with Client(server) as remote:
        states = [each.init_state_dict(weightwell.Manifest.from_dict(MANIFEST)) for each in (remote, local)]
    for name, tensor in states[0].items():
        assert tensor.dtype is getattr(torch, MANIFEST["tensors"][name]["dtype"])
        assert plain(tensor) == plain(states[1][name])
    blocks = np.array(plain(states[0]["blocks"]))
    assert (blocks.shape, blocks[2:4, 2:6].tolist()) == ((6, 8), [[1.0] * 4] * 2)
    assert np.array(plain(states[0]["part"]))[0].tolist() == blocks[1, 4:8].tolist()
    assert np.isfinite(plain(states[0]["scale"])).all()
    in_numpy = local.init_state_dict(weightwell.Manifest.from_dict(MANIFEST), framework="numpy")
    assert in_numpy["blocks"].astype(np.float64).tolist() == blocks.tolist()


def test_any_range_of_packed_bytes_is_the_same_bytes(local: Client) -> None:
    with local.open(weightwell.Manifest.from_dict(MANIFEST)) as file:
        whole = file.read()
        for start, stop in ((len(whole) - 40, len(whole) - 3), (len(whole) - 31, len(whole))):
            file.seek(start)
            assert file.read(stop - start) == whole[start:stop]


def test_a_module_with_integers_is_filled_by_a_manifest_that_names_them(local: Client) -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qweight = nn.Parameter(torch.zeros(8, 6, dtype=torch.int8), requires_grad=False)
            self.register_buffer("scales", torch.ones(8, 1).to(torch.float8_e8m0fnu))
            self.register_buffer("packed", torch.zeros(8, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2))

    tensors: Fields = {
        "qweight": {"shape": [8, 6], "dtype": "int8", "scheme": "randint", "low": -127, "high": 128},
        "scales": {"shape": [8, 1], "dtype": "float8_e8m0fnu", "scheme": "power_of_two", "low": -4, "high": 0},
        "packed": {"shape": [8, 6], "dtype": PACKED, "scheme": "uniform", "a": -3, "b": 3},
    }
    manifest = weightwell.Manifest(tensors, seed=5)
    module, state = Quantized(), local.init_state_dict(manifest)
    local.init_module_(module, manifest)
    for name, tensor in module.state_dict().items():
        assert plain(tensor) == plain(state[name])
    assert len(set(module.qweight.flatten().tolist())) > 20


def test_what_a_dtype_cannot_hold_is_refused_by_the_server_in_words(server: str) -> None:
    with Client(server) as client:
        for fields, words in (
            ({"scheme": "kaiming_normal", "dtype": "int8"}, "int8 can have zeros, ones, constant, values and randint"),
            ({"scheme": "constant", "val": 0.5, "dtype": "uint8"}, "val must be an integer, as uint8 holds no other"),
            ({"scheme": "zeros", "dtype": "float8_e8m0fnu"}, "holds 0.0, which is not a power of two"),
            ({"scheme": "zeros", "dtype": PACKED, "slice": ":,1:3"}, "from a multiple of 2 to another"),
        ):
            with pytest.raises(weightwell.InvalidRequest, match=words):
                client.init(SHAPE, **fields)


def test_an_array_of_four_bit_elements_is_not_filled_in_place(local: Client) -> None:
    array = np.zeros(SHAPE, ml_dtypes.float4_e2m1fn)
    with pytest.raises(ValueError, match=r"an array of float4_e2m1fn has one element in a byte, and files have 2: use"):
        local.init_(array, "normal")


def test_noise_is_not_added_to_four_bit_elements(local: Client) -> None:
    tensor = torch.zeros(4, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(ValueError, match="floating-point numbers, got a tensor of float4_e2m1fn_x2: convert it"):
        local.noise(tensor, std=0.1)


def test_the_plan_says_what_the_integers_are(local: Client) -> None:
    planned = local.plan((4, 6), "randint", low=-8, high=8, dtype="int8").tensors["weight"]
    words = "uniform among the integers from -8 to 7"
    assert planned["law"] == {"kind": "randint", "low": -8, "high": 8, "words": words}
    assert (planned["mean"], planned["std"]) == (-0.5, pytest.approx((255 / 12) ** 0.5))
    assert json.loads(json.dumps(planned["parameters"])) == {"low": -8, "high": 8}
