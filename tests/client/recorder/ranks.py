"""Compares the shards of recorded models on four ranks with the whole models, and prints the result as JSON.

``python -m tests.client.recorder.ranks URL``, with the address of a server. The ranks are forked from one process,
so that packages are imported and models are recorded once.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

import weightwell
from benchmarks.architectures import model_type, small_config, without_warnings
from weightwell import Manifest

RANKS = 4
SEED = 11


def build(architecture: str) -> nn.Module:
    """Return a small model of an architecture."""
    config = small_config(architecture)
    return model_type(config)(config)


def on_meta(architecture: str) -> nn.Module:
    """Return a small model without memory."""
    with torch.device("meta"):
        return build(architecture)


# Ways to shard a model -----------------------------------------------------------------------------------------------


def _place(model: nn.Module, mesh: DeviceMesh, placement: Callable[[nn.Parameter], Placement]) -> None:
    """Make all parameters DTensors; those that are tied remain one."""
    placed: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if parameter not in placed:
                placed[parameter] = nn.Parameter(
                    distribute_tensor(parameter.detach(), mesh, [placement(parameter)]),
                    requires_grad=parameter.requires_grad,
                )
            module._parameters[name] = placed[parameter]


def fsdp(model: nn.Module) -> Any:
    """Shard every parameter along its first dimension."""
    return fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))


def tp_and_fsdp(model: nn.Module) -> Any:
    """Shard tall matrices along their first dimension and wide ones along their last, and all again by FSDP."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def placement(parameter: nn.Parameter) -> Placement:
        if parameter.ndim < 2:
            return Replicate()
        return Shard(0 if parameter.shape[0] > parameter.shape[-1] else parameter.ndim - 1)

    _place(model, mesh["tp"], placement)
    return fully_shard(model, mesh=mesh["dp"])


def ep_and_fsdp(model: nn.Module, expert_dim: int = 1) -> Any:
    """Shard the experts over pairs of ranks, as torchtitan does, and again by FSDP between the pairs; FSDP the rest."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    experts = [each for name, each in model.named_modules() if name.endswith(".experts")]
    for each in experts:
        _place(each, mesh["ep"], lambda _: Shard(0))
        fully_shard(each, mesh=mesh["dp"], shard_placement_fn=lambda _: Shard(expert_dim))
    return fully_shard(model, mesh=mesh._flatten("all"))


def ep_and_fsdp_of_experts(model: nn.Module) -> Any:
    """Shard the experts twice along the dimension of experts."""
    return ep_and_fsdp(model, expert_dim=0)


CASES: dict[str, list[Callable[[nn.Module], Any]]] = {
    **{architecture: [fsdp, tp_and_fsdp] for architecture in ("llama", "t5", "vit", "mamba")},
    "mixtral": [fsdp, tp_and_fsdp, ep_and_fsdp, ep_and_fsdp_of_experts],
    "qwen3_moe": [ep_and_fsdp],
}


# A rank --------------------------------------------------------------------------------------------------------------


def compare(manifests: dict[str, Manifest], url: str) -> dict[str, dict[str, Any]]:
    """Return for every case how many tensors this rank has a shard of, and the names of those that differ.

    torch gathers the shards of all ranks, so no code of this project says which elements a shard has.
    """
    results: dict[str, dict[str, Any]] = {}
    with weightwell.Client(url) as client:
        for architecture, ways in CASES.items():
            manifest = manifests[architecture]
            whole = client.init_module_(on_meta(architecture), manifest, device="cpu")
            for shard in ways:
                model = shard(on_meta(architecture))
                model = client.init_module_(model, manifest.for_module(model), device="cpu")
                results[f"{architecture} {shard.__name__}"] = _difference(model, whole)
            if fsdp in ways:
                model = client.init_module_(fsdp(on_meta(architecture)), seed=SEED, device="cpu")
                results[f"{architecture} default"] = _difference(model, whole)
    return results


def _difference(model: nn.Module, whole: nn.Module) -> dict[str, Any]:
    tensors, expected = ({**dict(each.named_parameters()), **dict(each.named_buffers())} for each in (model, whole))
    gathered = {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in tensors.items()}
    wrong = [name for name in expected if name not in gathered or not torch.equal(gathered[name], expected[name])]
    shards = [each for each in tensors.values() if isinstance(each, DTensor) and each.to_local().shape != each.shape]
    return {"shards": len(shards), "wrong": wrong}


def run(rank: int, folder: Path, manifests: dict[str, Manifest], url: str) -> None:
    """Be one of the ranks, and leave its result in a folder."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    with without_warnings(), torch.no_grad():
        result = compare(manifests, url)
    (folder / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def main(url: str) -> int:
    """Run all ranks and print their results as a list."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with without_warnings():
        manifests = {architecture: Manifest.of(build, architecture, seed=SEED) for architecture in CASES}
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = [context.Process(target=run, args=(rank, folder, manifests, url)) for rank in range(RANKS)]
        for each in ranks:
            each.start()
        for each in ranks:
            each.join()
        if any(each.exitcode for each in ranks):
            return 1
        print(json.dumps([json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
