"""Recorded models in shards: every rank holds what the whole model has there, bit for bit."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weightwell
from tests.client.recorder.ranks import CASES, RANKS, fsdp
from weightwell import Manifest

ROOT = Path(__file__).parents[3]
WAYS = [f"{architecture} {shard.__name__}" for architecture, ways in CASES.items() for shard in ways]
DEFAULTS = [f"{architecture} default" for architecture, ways in CASES.items() if fsdp in ways]


@pytest.fixture(scope="module")
def ranks(server: str) -> list[dict[str, dict[str, Any]]]:
    """What every rank found."""
    program = [sys.executable, "-m", "tests.client.recorder.ranks", server]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def client(door: str) -> Iterator[weightwell.Client]:
    """A client of a server."""
    with weightwell.Client(door) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
def test_the_shards_of_all_ranks_are_the_whole_model(ranks: list[dict[str, dict[str, Any]]], way: str) -> None:
    assert [each[way]["wrong"] for each in ranks] == [[]] * RANKS
    assert all(each[way]["shards"] for each in ranks)


@pytest.mark.parametrize("way", DEFAULTS)
def test_the_default_of_a_sharded_model_is_its_own_code(ranks: list[dict[str, dict[str, Any]]], way: str) -> None:
    """Its initializers are run on a twin of whole tensors; what only constructors write needs ``Manifest.of``."""
    assert [each[way]["wrong"] for each in ranks] == [[]] * RANKS
    assert all(each[way]["shards"] for each in ranks)


def test_a_stage_of_a_pipeline_has_the_tensors_of_the_whole(client: weightwell.Client) -> None:
    """The head is tied to an embedding on another rank, and has its numbers."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(8, 4)
            self.layers = nn.ModuleDict({str(i): nn.Linear(4, 4) for i in range(4)})
            self.head = nn.Linear(4, 8, bias=False)
            self.head.weight = self.embedding.weight

    manifest = Manifest.of(Model, seed=3)
    expected = client.init_module_(Model(), manifest).state_dict()
    with torch.device("meta"):
        stage = Model()
    for index in range(2):
        del stage.layers[str(index)]
    stage.embedding = None  # type: ignore[assignment]
    stage = client.init_module_(stage, manifest.for_module(stage), device="cpu")
    held = stage.state_dict()
    assert [*held] == ["layers.2.weight", "layers.2.bias", "layers.3.weight", "layers.3.bias", "head.weight"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in held.items())
    layer = client.init_module_(
        nn.Linear(4, 4), manifest.for_module(nn.Linear(4, 4), prefix="layers.1"), prefix="layers.1"
    )
    assert torch.equal(layer.weight, expected["layers.1.weight"])


def test_a_module_of_another_model_is_named() -> None:
    manifest = Manifest.of(nn.Linear, 3, 4)
    with pytest.raises(ValueError, match=r"the manifest does not have 0\.weight"):
        manifest.for_module(nn.Sequential(nn.Linear(3, 4)))
