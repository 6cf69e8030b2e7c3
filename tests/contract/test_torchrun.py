"""examples/torchrun: any number of ranks start with the same model, and each draws only its part."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import weightwell

SCRIPT = Path(__file__).parents[2] / "examples" / "torchrun" / "train.py"


def run(world_size: int) -> dict[str, str]:
    """What the script prints when that many ranks run it. One rank needs no launcher, which would import torch, too."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
    program = [sys.executable, *(launcher if world_size > 1 else [])]
    quiet = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if world_size == 1:
        quiet |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([*program, SCRIPT], capture_output=True, text=True, env=os.environ | quiet, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def runs() -> dict[int, dict[str, str]]:
    """What is printed by one rank, and by three: their shards are of equal size, of different sizes, or empty."""
    return {world_size: run(world_size) for world_size in (1, 3)}


def test_any_number_of_ranks_starts_with_the_same_parameters(runs: dict[int, dict[str, str]]) -> None:
    assert runs[1]["start"] == runs[3]["start"]


def test_the_ranks_start_with_the_model_of_a_single_process(runs: dict[int, dict[str, str]], server: str) -> None:
    example = runpy.run_path(str(SCRIPT))
    model = example["build"](width=50, layers=3)
    with weightwell.Client(server) as client:
        client.init_module_(model, {nn.Linear: {"weight": "kaiming_normal", "bias": "zeros"}}, seed=42, device="cpu")
    assert example["digest"](model) == runs[1]["start"]


def test_the_ranks_train_the_initial_model(runs: dict[int, dict[str, str]]) -> None:
    alone, together = (float(printed["loss"]) for printed in runs.values())
    assert together == pytest.approx(alone, rel=1e-3)
