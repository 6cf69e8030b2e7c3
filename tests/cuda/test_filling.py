"""A module on the GPU is filled through blocks of pinned memory, with the same numbers as on the CPU."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import weightwell
from weightwell.models import pieces

pytest.importorskip("weightwell_service.app")


@pytest.fixture
def client(door: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(door) as client:
        yield client


def network() -> Any:
    """Parameters of more than one block, in one memory (LSTM), in another layout (Conv2d), counters, and a tied one."""
    layers = [nn.Embedding(1024, 64), nn.LSTM(64, 64), nn.BatchNorm1d(64), nn.Conv2d(3, 4, 3), nn.Linear(64, 1024)]
    model: Any = nn.Sequential(*layers)
    model.to(memory_format=torch.channels_last)
    model[4].weight = model[0].weight
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", ["gpu", "meta"])
def test_a_module_on_the_gpu_has_the_numbers_of_one_on_the_cpu(
    client: weightwell.Client, place: torch.device, monkeypatch: pytest.MonkeyPatch, start: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(pieces, "BLOCK", 100_001)
    model = network().to("meta" if start == "meta" else place, dtype)
    model[4].weight = model[0].weight  # torch unties what it moves
    client.init_module_(model, seed=1, device=place)
    expected = client.init_module_(network().to(dtype), seed=1).state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.device == place
        assert torch.equal(tensor.cpu(), expected[name]), name
    assert model[4].weight is model[0].weight
