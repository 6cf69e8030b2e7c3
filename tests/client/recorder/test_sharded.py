"""Recorded models in shards: every rank holds what the whole model has there, bit for bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import weightwell
from benchmarks.architectures import model_type, small_config, without_warnings
from weightwell import Manifest
from weightwell.models.shards import bounds_of_shard

ARCHITECTURES = ["llama", "mixtral", "t5", "vit", "mamba"]
RANKS = 4


def build(architecture: str) -> nn.Module:
    """Return a small model of an architecture."""
    config = small_config(architecture)
    return model_type(config)(config)


def on_meta(architecture: str) -> nn.Module:
    """Return a small model without memory."""
    with torch.device("meta"):
        return build(architecture)


@contextmanager
def last_rank() -> Iterator[None]:
    """Let this process be the last of some ranks, which do not speak to one another.

    It is always the same one, as torch keeps the shapes of shards that it has computed.
    """
    dist.init_process_group("fake", rank=RANKS - 1, world_size=RANKS, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def client(door: str) -> Iterator[weightwell.Client]:
    """A client of a server."""
    with weightwell.Client(door) as client:
        yield client


@pytest.fixture(scope="module", params=ARCHITECTURES)
def whole(request: pytest.FixtureRequest, client: weightwell.Client) -> tuple[str, Manifest, dict[str, torch.Tensor]]:
    """An architecture, the manifest of its model, and the tensors of the whole model."""
    with without_warnings():
        manifest = Manifest.of(build, request.param, seed=11)
        model = client.init_module_(on_meta(request.param), manifest, device="cpu")
        return request.param, manifest, {**model.state_dict(keep_vars=True), **dict(model.named_buffers())}


def fsdp(model: nn.Module) -> Any:
    """Shard every parameter along its first dimension."""
    return fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))


def fsdp_and_tp(model: nn.Module) -> Any:
    """Shard matrices along their last dimension in each pair of ranks, and everything between the pairs."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    placed: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in [*module._parameters.items()]:
            if parameter is not None and parameter not in placed:
                placement = Shard(parameter.ndim - 1) if parameter.ndim > 1 else Replicate()
                placed[parameter] = nn.Parameter(distribute_tensor(parameter.detach(), mesh["tp"], [placement]))
            module._parameters[name] = None if parameter is None else placed[parameter]
    return fully_shard(model, mesh=mesh["dp"])


@pytest.mark.parametrize("shard", [fsdp, fsdp_and_tp])
def test_a_shard_is_that_part_of_the_whole_model(
    whole: tuple[str, Manifest, dict[str, torch.Tensor]],
    shard: Callable[[nn.Module], Any],
    client: weightwell.Client,
) -> None:
    architecture, manifest, expected = whole
    with without_warnings(), last_rank():
        model: Any = shard(on_meta(architecture))
        model = client.init_module_(model, manifest.for_module(model), device="cpu")
        sharded = 0
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            bounds = bounds_of_shard(name, tensor)
            sharded += bounds is not None
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            part = expected[name][tuple(slice(*each) for each in bounds)] if bounds else expected[name]
            assert torch.equal(local, part), name
        assert sharded


def test_the_default_of_a_sharded_model_is_its_own_code(
    whole: tuple[str, Manifest, dict[str, torch.Tensor]], client: weightwell.Client
) -> None:
    """Its initializers are run on a twin of whole tensors; what only constructors write needs ``Manifest.of``."""
    architecture, _, expected = whole
    with without_warnings(), last_rank():
        model: Any = client.init_module_(fsdp(on_meta(architecture)), seed=11, device="cpu")
        for name, tensor in model.named_parameters():
            bounds = bounds_of_shard(name, tensor)
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            part = expected[name][tuple(slice(*each) for each in bounds)] if bounds else expected[name]
            assert torch.equal(local, part), name


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
