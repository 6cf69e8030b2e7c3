"""What a type checker knows of the methods. These tests run, and ``make lint`` checks their types.

``assert_type`` is checked by mypy alone, and so is that each ``type: ignore`` silences an error.
"""

import asyncio
import io
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import pytest
import torch

import weightwell

if TYPE_CHECKING:
    from tests.client.conftest import Server

Array = np.ndarray[Any, np.dtype[Any]]


def test_the_framework_decides_the_type_of_a_tensor(fake: "Server") -> None:
    with weightwell.Client(fake.url) as client:
        assert isinstance(assert_type(client.init((3, 4), "ones", framework="torch"), torch.Tensor), torch.Tensor)
        assert isinstance(assert_type(client.init((3, 4), "ones", framework="numpy", seed=1), Array), np.ndarray)
        assert_type(client.init(8, "ones"), Any)


def test_a_tensor_that_exists_keeps_its_type(server: str) -> None:
    parameter, array = torch.nn.Parameter(torch.zeros(3, 4)), np.zeros((3, 4))
    with weightwell.Client(server) as client:
        assert assert_type(client.init_(parameter, "normal", seed=1), torch.nn.Parameter) is parameter
        assert client.init_(array, "normal", seed=2, std=0.5) is array
        assert assert_type(client.init((3, 4), "normal", seed=3, out=parameter), torch.nn.Parameter) is parameter
        assert assert_type(client.noise(parameter, seed=4, alpha=-1), torch.nn.Parameter) is parameter
        assert client.noise(array, seed=5) is array
        assert_type(client.noise((3, 4), seed=6, framework="torch"), torch.Tensor)
        assert_type(client.noise((3, 4), seed=7, framework="numpy", dtype="float16"), Array)
        assert_type(client.noise(8, seed=8), Any)
        assert len(client.open((3, 4), "ones").read(8)) == 8


def test_the_asynchronous_client_keeps_the_type_of_a_tensor_that_exists(server: str) -> None:
    async def fill() -> None:
        parameter = torch.nn.Parameter(torch.zeros(3, 4))
        async with weightwell.AsyncClient(server) as client:
            assert assert_type(await client.init_(parameter, "normal", seed=1), torch.nn.Parameter) is parameter
            out = await client.init((3, 4), "normal", seed=3, out=parameter)
            assert assert_type(out, torch.nn.Parameter) is parameter
            assert assert_type(await client.noise(parameter, seed=4), torch.nn.Parameter) is parameter
            assert_type(await client.noise((3, 4), seed=6, framework="torch"), torch.Tensor)
            assert_type(await client.noise((3, 4), seed=7, framework="numpy"), Array)

    asyncio.run(fill())


def test_the_framework_decides_the_type_of_a_state_dict(door: str) -> None:
    tensors = {"tensors": {"w": {"shape": [3], "scheme": "ones"}}}
    with weightwell.Client(door) as client:
        state = assert_type(client.init_state_dict(tensors, framework="torch"), dict[str, torch.Tensor])
        arrays = assert_type(client.init_state_dict(tensors, framework="numpy"), dict[str, Array])
        module = assert_type(client.init_module_(torch.nn.Linear(3, 4), "torch"), torch.nn.Linear)
    assert state["w"].tolist() == arrays["w"].tolist() == [1, 1, 1]
    assert module.weight.shape == (4, 3)


def test_the_asynchronous_client_has_the_same_types(fake: "Server") -> None:
    async def draw() -> tuple[torch.Tensor, Array]:
        async with weightwell.AsyncClient(fake.url) as client:
            tensor = assert_type(await client.init((3, 4), "ones", framework="torch"), torch.Tensor)
            return tensor, assert_type(await client.init((3, 4), "ones", framework="numpy"), Array)

    tensor, array = asyncio.run(draw())
    assert tensor.shape == array.shape == (3, 4)


def test_every_word_and_every_kind_of_number_is_accepted(fake: "Server") -> None:
    word: str = "normal"
    with weightwell.Client(fake.url) as client:
        client.init((np.int64(3), 4), word, dtype=np.float32, generator=word, mode=word, distribution=word)
        client.init(np.array([3, 4]), "normal", seed=np.int64(3), dtype="float32", a=np.float64(0.2), mode="fan_out")
        client.save(io.BytesIO(), torch.Size([3, 4]), "normal", std=0.02, seed="42", dtype=torch.bfloat16)
    assert [asked.fields["shape"] for asked in fake.requests] == ["3,4"] * 3
    assert [asked.fields["seed"] for asked in fake.requests] == ["0", "3", "42"]


def test_wrong_arguments_are_errors_for_a_type_checker_as_well(fake: "Server") -> None:
    with weightwell.Client(fake.url) as client:
        with pytest.raises(TypeError, match="shape takes integers"):
            client.init((3, 4.5), "ones")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="seed takes integers"):
            client.init((3, 4), "normal", seed=1.5)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="framework must be one of"):
            client.init((3, 4), "ones", framework="jax")  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="a numpy array has no device"):
            client.init((3, 4), "ones", framework="numpy", device="cuda")  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=r"expected a .* to fill, got list"):
            client.init_([1.0], "ones")  # type: ignore[type-var]
        with pytest.raises(TypeError, match="init_ takes dtype from the tensor"):
            client.init_(torch.zeros(3), "ones", dtype="float16")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="the path comes first"):
            client.save(weightwell.Manifest({}), "file")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="no scheme"):
            client.save("file", (3, 4))
        with pytest.raises(TypeError, match="no scheme"):
            client.plan((3, 4))


def test_a_misspelt_parameter_is_an_error_for_a_type_checker(fake: "Server") -> None:
    with weightwell.Client(fake.url) as client:
        client.init((3, 4), "normal", sdt=0.02)  # type: ignore[call-overload]
    assert fake.requests[0].fields["sdt"] == "0.02"  # what a server makes of it is in tests/contract
