"""Tensors on a GPU that exist, or are allocated there, have the numbers of those on the CPU, through both doors."""

from collections.abc import Iterator

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load

import weightwell
from weightwell.models import pieces
from weightwell.torch.dcp import WeightwellReader

pytest.importorskip("weightwell_service.app")

SHAPE = (301, 517)


@pytest.fixture
def client(door: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[weightwell.Client]:
    monkeypatch.setattr(pieces, "BLOCK", 100_001)
    with weightwell.Client(door) as client:
        yield client


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("strided", [False, True])
def test_a_tensor_on_the_gpu_is_filled_in_place(
    client: weightwell.Client, place: torch.device, dtype: str, strided: bool
) -> None:
    memory = torch.zeros(SHAPE[::-1] if strided else SHAPE, dtype=getattr(torch, dtype), device=place)
    tensor = memory.T if strided else memory
    client.init_(tensor, "normal", seed=1)
    expected = client.init(SHAPE, "normal", seed=1, dtype=dtype)
    assert torch.equal(tensor.cpu().contiguous().view(torch.uint8), expected.view(torch.uint8))


def test_a_new_tensor_is_drawn_on_the_gpu(client: weightwell.Client, place: torch.device) -> None:
    tensor = client.init(SHAPE, "trunc_normal", seed=2, device=place)
    assert tensor.device == place
    assert torch.equal(tensor.cpu(), client.init(SHAPE, "trunc_normal", seed=2))
    manifest = {"tensors": {"a": {"shape": [301, 517], "scheme": "normal"}, "b": {"shape": [7], "scheme": "ones"}}}
    state, expected = client.init_state_dict(manifest, device=place), client.init_state_dict(manifest)
    assert all(torch.equal(state[name].cpu(), expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_checkpoint_is_loaded_into_tensors_on_the_gpu(client: weightwell.Client, place: torch.device) -> None:
    manifest = weightwell.Manifest({name: {"shape": SHAPE, "scheme": "normal"} for name in "ab"}, seed=5)
    state = {"a": torch.zeros(SHAPE, device=place), "b": torch.zeros(SHAPE, device=place, dtype=torch.bfloat16)}
    load(state, storage_reader=WeightwellReader(manifest, client), no_dist=True)
    expected = client.init_state_dict(manifest)
    assert torch.equal(state["a"].cpu(), expected["a"])
    assert torch.equal(state["b"].cpu(), expected["b"].to(torch.bfloat16))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("alpha", [1.0, -1.0, 0.3])
def test_noise_on_the_gpu_is_rounded_as_on_the_cpu(
    client: weightwell.Client, place: torch.device, dtype: str, alpha: float
) -> None:
    tensor = client.init(SHAPE, "uniform", seed=3, dtype=dtype)
    there = tensor.to(place)
    client.noise(tensor, seed=4, std=0.1, alpha=alpha)
    assert client.noise(there, seed=4, std=0.1, alpha=alpha) is there
    assert torch.equal(there.cpu().view(torch.uint8), tensor.view(torch.uint8))
