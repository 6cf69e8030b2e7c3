"""The client without a server, compared with torch, with the engine alone and with a memory fill.

    python -m benchmarks.local

Memory is present already: a parameter is filled again and again. Contenders take turns; the figures are medians.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

import weightwell
from benchmarks.measure import interleave, seconds, table
from weightwell.models.pieces import host_memory
from weightwell_engine.engine import Engine
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing import read_fields
from weightwell_engine.processors import cpus

# A law, its scheme and parameters, and torch's way to draw it.
LAWS: list[tuple[str, dict[str, Any], torch.dtype, Callable[[torch.Tensor], object]]] = [
    ("uniform, float32", {"scheme": "uniform", "a": -1.0, "b": 1.0}, torch.float32, lambda w: w.uniform_(-1, 1)),
    ("normal, float32", {"scheme": "normal", "std": 0.02}, torch.float32, lambda w: w.normal_(0, 0.02)),
    ("trunc_normal, float32", {"scheme": "trunc_normal"}, torch.float32, nn.init.trunc_normal_),
    ("normal, bfloat16", {"scheme": "normal", "std": 0.02}, torch.bfloat16, lambda w: w.normal_(0, 0.02)),
]

# What a fresh process draws, and what it has imported already.
SMALL = "import weightwell; weightwell.local().init((64, 64), 'kaiming_normal', seed=1, framework={framework!r})"


def measure_laws(mebibytes: int, rounds: int) -> None:
    """Compare a client that fills a parameter with torch, with the engine alone, and with a memory fill."""
    rows = []
    for name, scheme, dtype, by_torch in LAWS:
        weight = torch.zeros(mebibytes * 2**20 // dtype.itemsize // 1024, 1024, dtype=dtype)
        module = nn.Module()
        module.weight = nn.Parameter(weight, requires_grad=False)
        with weightwell.local(threads=cpus()) as client:
            contenders = {
                "local": _timed(lambda: client.init_module_(module, [{"match": "*", **scheme}])),  # noqa: B023
                "one thread": _timed(_one_thread(module, scheme)),
                "engine": _timed(_engine_alone(weight, scheme)),
                "fill": _timed(lambda: weight.fill_(1.0)),  # noqa: B023
                "torch": _timed(lambda: by_torch(weight)),  # noqa: B023
            }
            medians = interleave(contenders, rounds)
        local = medians["local"]
        rows.append(
            (
                name,
                f"{weight.nbytes / local / 1e9:.2f}",
                f"{medians['torch'] / local:.1f}",
                f"{medians['engine'] / local:.2f}",
                f"{medians['one thread'] / local:.2f}",
                f"{medians['fill'] / local:.2f}",
            )
        )
    columns = "law", "GB/s", "times torch", "of the engine alone", "times one thread", "of a memory fill"
    table(f"A parameter of {mebibytes} MiB in memory, {cpus()} threads", columns, rows)


def _timed(run: Callable[[], object]) -> Callable[[], float]:
    return lambda: seconds(run)


def _one_thread(module: nn.Module, scheme: dict[str, Any]) -> Callable[[], object]:
    client = weightwell.local(threads=1)
    return lambda: client.init_module_(module, [{"match": "*", **scheme}])


def _engine_alone(weight: torch.Tensor, scheme: dict[str, Any]) -> Callable[[], object]:
    """Return a function that fills a tensor with the engine's own method, in threads."""
    engine, step = Engine(Cpu(), threads=cpus()), 2**20
    dtype = str(weight.dtype).removeprefix("torch.")
    plan = engine.plan(read_fields({"shape": list(weight.shape), "dtype": dtype, **scheme}))
    memory, threads = host_memory(weight), ThreadPoolExecutor(cpus())

    def draw() -> None:
        file = engine.open(plan)
        starts = range(0, len(memory), step)
        list(threads.map(lambda at: file.read_into(len(plan.header) + at, memory[at : at + step]), starts))
        file.close()

    return draw


def measure_small(rounds: int) -> None:
    """Time small tensors in a warm process, and the first one in a fresh process."""
    with weightwell.local() as client:
        count = iter(range(10**9))

        def draw() -> None:
            for _ in range(200):
                client.init((16, 16), "kaiming_normal", seed=next(count))

        def draw_with_torch() -> None:
            for _ in range(200):
                nn.init.kaiming_normal_(torch.empty(16, 16))

        medians = interleave({"local": _timed(draw), "torch": _timed(draw_with_torch)}, 3 * rounds)
    rows = [("init of 16 x 16, warm", f"{medians['local'] / 200 * 1e6:.0f} us")]
    rows.append(("torch.nn.init of 16 x 16", f"{medians['torch'] / 200 * 1e6:.0f} us"))
    torch_first = {
        "torch": _fresh("import torch"),
        "both": _fresh(f"import torch; {SMALL.format(framework='torch')}"),
    }
    fresh = interleave({"numpy": _fresh(SMALL.format(framework="numpy")), **torch_first}, rounds)
    rows.append(("a fresh process with empty caches, 64 x 64, import included", f"{fresh['numpy']:.2f} s"))
    rows.append(("the same after `import torch`", f"{fresh['both'] - fresh['torch']:.2f} s"))
    table("Small tensors", ("what", "time"), rows)


def _fresh(program: str) -> Callable[[], float]:
    """Return a function that times a new process, whose cache of kernels is empty."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as cache:
            empty = {"XDG_CACHE_HOME": cache, "NUMBA_CACHE_DIR": str(Path(cache) / "numba")}
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], env=os.environ | empty, check=True)
            return time.perf_counter() - start

    return run


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; medians are printed")
    parser.add_argument("--mebibytes", type=int, default=256, help="size of the parameter that is filled")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", weightwell.RepeatedStreamWarning)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, {arguments.rounds} rounds")
    measure_laws(arguments.mebibytes, arguments.rounds)
    measure_small(arguments.rounds)


if __name__ == "__main__":
    main()
