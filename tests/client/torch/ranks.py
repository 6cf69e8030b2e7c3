"""Loads sharded models with torch.distributed.checkpoint on four ranks, and prints the comparison with the whole.

``python -m tests.client.torch.ranks URL``, with the address of a server. The result is JSON: for each rank, for each
way to shard and each address, the names of the tensors that differ, and the bytes that the rank has received and needs.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import weightwell
from weightwell import Manifest
from weightwell.models.tensors import InTargets
from weightwell.torch.dcp import WeightwellReader

RANKS = 4
LATER = "torch._dynamo", "weightwell.in_process.door", "weightwell_engine.engine", "weightwell_engine.parsing.manifest"
MANIFEST: dict[str, dict[str, Any]] = {
    "0.weight": {"shape": [13, 6], "scheme": "normal"},
    "1.weight": {"shape": [7, 6], "scheme": "orthogonal"},
    "1.bias": {"shape": [7], "scheme": "uniform"},
    "2.weight": {"shape": [6, 7], "scheme": "kaiming_normal"},
    "2.bias": {"shape": [6], "scheme": "zeros"},
    "3.weight": {"alias": "0.weight"},
}


def manifest() -> Manifest:
    """Return the manifest of the model."""
    return Manifest(MANIFEST, seed=5)


def network() -> nn.Sequential:
    """Return a model without memory, with odd sizes and a tied weight."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(13, 6), nn.Linear(6, 7), nn.Linear(7, 6), nn.Linear(6, 13, bias=False))
    model[3].weight = model[0].weight
    return model


def fsdp() -> Any:
    """Shard every parameter along its first dimension."""
    return fully_shard(network(), mesh=init_device_mesh("cpu", (RANKS,)))


def tp_and_fsdp() -> Any:
    """Shard the matrices by tensor parallelism, and all parameters again by FSDP."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    model = parallelize_module(network(), mesh["tp"], {"1": ColwiseParallel(), "2": RowwiseParallel()})
    return fully_shard(model, mesh=mesh["dp"])


WAYS = (fsdp, tp_and_fsdp)


def compare(address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Load the model in every way; torch gathers the shards, so no code of this project says which a rank has."""
    received: list[int] = []
    buffers = InTargets.buffers

    def counted(self: InTargets, start: int, stop: int) -> Any:
        received.append(stop - start)
        return buffers(self, start, stop)

    InTargets.buffers = counted  # type: ignore[method-assign]
    with weightwell.Client(address) as client:
        whole = client.init_state_dict(manifest())
        for way in WAYS:
            model = way().to_empty(device="cpu")
            state = model.state_dict()
            for each in state.values():
                each.to_local().fill_(torch.nan)
            received.clear()
            load(state, storage_reader=WeightwellReader(manifest(), client))
            wrong = [name for name, each in state.items() if not torch.equal(each.full_tensor(), whole[name])]
            held = {each.to_local().data_ptr(): each.to_local().nbytes for each in state.values()}
            yield way.__name__, {"wrong": wrong, "received": sum(received), "held": sum(held.values())}
    InTargets.buffers = buffers  # type: ignore[method-assign]


def run(rank: int, folder: Path, url: str) -> None:
    """Be one of the ranks, and leave its result in a folder."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    result = {
        f"{way} {door}": found
        for door, address in (("http", url), ("local", "local:cpu?threads=1"))
        for way, found in compare(address)
    }
    (folder / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def main(url: str) -> int:
    """Run all ranks and print their results as a list."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for name in LATER:  # which every rank would import
        import_module(name)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = [context.Process(target=run, args=(rank, folder, url)) for rank in range(RANKS)]
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
