"""Train a sharded model that no rank ever holds whole: each draws its own shards, and any number of ranks starts alike.

    torchrun --nproc-per-node 4 train.py

No server is needed: each rank draws in its own process.
"""

import hashlib
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import weightwell


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the block has to say to its input, ``(batch, width)``."""
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def build(width: int, layers: int) -> nn.Sequential:
    """Return the model: a shape, without memory."""
    with torch.device("meta"):
        return nn.Sequential(*(Block(width) for _ in range(layers)), nn.Linear(width, 1))


def digest(model: nn.Module) -> str:
    """Return a digest of the whole parameters, wherever their shards are."""
    sha = hashlib.sha256()
    for parameter in model.parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        sha.update(whole.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def main() -> None:
    """Fill the model, take a few steps, and say what came of it."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = build(width=50, layers=3)
    for block in model:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)

    with weightwell.local() as client:
        client.init_module_(model, {nn.Linear: {"weight": "kaiming_normal", "bias": "zeros"}}, seed=42, device="cpu")
    start = digest(model)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    inputs = torch.sin(torch.arange(64.0 * 50)).reshape(64, 50)
    for _ in range(3):
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    if dist.get_rank() == 0:
        print(f"start {start}\nloss {loss.item():.3f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # One of gloo's threads may still let go of Python's objects while the interpreter ends, which then aborts now and
    # then (pytorch/pytorch#190489). All is said and done here, so there is nothing that it has to end.
    os._exit(0)
