"""The philox generator compared with torch.nn.init, in one process, on one thread and on two.

    python -m benchmarks.generators

Figures are millions of elements a second. Each call fills 2 MiB of float32 (2^19 elements) in memory that was used
before. One thread is measured in CPU time, so other work on the machine matters less. Two threads are measured in wall
time.
"""

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.measure import interleave, seconds, table
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators.philox.cpu.checked import prepare, warm_up
from weightwell_engine.generators.philox.cpu.words import Run, fill_words
from weightwell_engine.generators.philox.specification.keys import Stream, derive_key
from weightwell_engine.laws import Law, Normal, Sparse, TruncatedNormal, Uniform
from weightwell_engine.regions import Runs

SIZE = 1 << 19  # 2 MiB of float32: a chunk of the service
SIDE = 2048
ROUNDS = 7

Fill = Callable[[torch.Tensor], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A law in a dtype. ``torch`` draws the same with torch, and is ``None`` if torch cannot."""

    name: str
    law: Law
    dtype: str
    torch: Fill | None
    shape: tuple[int, ...] = (SIZE,)
    chunks: int = 64


def _normal(tensor: torch.Tensor) -> object:
    return torch.nn.init.normal_(tensor, 0.0, 0.02)


def _truncated(low: float, high: float) -> Fill:
    return lambda tensor: torch.nn.init.trunc_normal_(tensor, 0.0, 1.0, low, high)


CASES = (
    Case("uniform", Uniform(-0.1, 0.1), "float32", lambda tensor: torch.nn.init.uniform_(tensor, -0.1, 0.1)),
    Case("normal", Normal(0.0, 0.02), "float32", _normal),
    Case("trunc_normal, 2 sigma", TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float32", _truncated(-2.0, 2.0), chunks=16),
    Case("trunc_normal, 3 to 4 sigma", TruncatedNormal(0.0, 1.0, 3.0, 4.0), "float32", _truncated(3.0, 4.0), chunks=2),
    Case("normal", Normal(0.0, 0.02), "bfloat16", _normal),
    Case("normal", Normal(0.0, 0.02), "float16", _normal),
    Case("normal", Normal(0.0, 0.02), "float8_e4m3fn", None),
    Case("uniform", Uniform(-0.1, 0.1), "float64", lambda tensor: torch.nn.init.uniform_(tensor, -0.1, 0.1)),
    Case("normal", Normal(0.0, 0.02), "float64", _normal),
    *(
        Case(
            f"sparse, {percent}% zeros",
            Sparse(SIDE, SIDE, SIDE * percent // 100, 0.01),
            "float32",
            lambda tensor, sparsity=percent / 100: torch.nn.init.sparse_(tensor, sparsity),  # type: ignore[misc]
            (SIDE, SIDE),
            chunks=4,
        )
        for percent in (10, 90)
    ),
)


def own_seconds(run: Callable[[], object]) -> float:
    """Return the CPU time of this thread for a call, in seconds."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def compare(case: Case, executor: ThreadPoolExecutor) -> tuple[str, ...]:
    """Measure one case; return its row of the table."""
    tensors = [torch.empty(case.shape, dtype=getattr(torch, case.dtype)) for _ in range(2)]
    dtype, elements = DTYPES[case.dtype], tensors[0].numel()
    outs = [tensor.view(torch.uint8).flatten().numpy().data for tensor in tensors]
    ready = prepare(case.law, dtype, 0, "weight")

    def draw(out: memoryview) -> None:
        """Draw several chunks into the same memory, so that the time is long enough to measure."""
        for chunk in range(case.chunks):
            # For a sparse matrix, prepare() ranks the columns, which is part of the work. Other laws prepare only once.
            prepared = prepare(case.law, dtype, chunk, "weight") if isinstance(case.law, Sparse) else ready
            prepared.fill(Runs(0 if isinstance(case.law, Sparse) else chunk * elements, elements, 0, 1), out)

    contenders = {
        "one": lambda: own_seconds(lambda: draw(outs[0])),
        "wall": lambda: seconds(lambda: draw(outs[0])),
        "two": lambda: seconds(lambda: list(executor.map(draw, outs))) / 2,
    }
    if fill := case.torch:
        contenders["torch"] = lambda: own_seconds(lambda: [fill(tensors[0]) for _ in range(case.chunks)])
    rates = {name: case.chunks * elements / time / 1e6 for name, time in interleave(contenders, ROUNDS).items()}
    theirs = rates.get("torch")
    return (
        f"{case.name}, {case.dtype}",
        f"{theirs:.0f}" if theirs else "-",
        f"{rates['one']:.0f}",
        f"{rates['one'] / theirs:.1f}x" if theirs else "-",
        f"{rates['two'] / rates['wall']:.2f}x",
    )


def columns(length: int) -> tuple[str, ...]:
    """Measure a shard of ``length`` columns of a matrix with 4096 columns; return its row of the table."""
    count = SIZE // length
    prepared = prepare(Normal(0.0, 0.02), DTYPES["float32"], 0, "weight")
    out = np.empty(count * length, np.float32).data.cast("B")
    runs = Runs(5, length, 4096, count)
    rates = interleave({"shard": lambda: own_seconds(lambda: prepared.fill(runs, out))}, ROUNDS)
    return str(length), f"{count * length / rates['shard'] / 1e6:.0f}"


def limits() -> list[tuple[str, str]]:
    """Measure the upper limits for every law: its random words, and its memory."""
    words, key = np.empty(SIZE, np.uint32), derive_key(0, "weight", Stream.DATA)
    contenders: dict[str, Callable[[], object]] = {
        "Philox's words alone": lambda: fill_words(key, Run(0, SIZE, 0, 1), words),
        "a memory fill": lambda: words.fill(7),
    }
    timed = {name: partial(own_seconds, partial(_often, run)) for name, run in contenders.items()}
    return [(name, f"{64 * SIZE / time / 1e6:.0f}") for name, time in interleave(timed, ROUNDS).items()]


def _often(run: Callable[[], object]) -> None:
    for _ in range(64):
        run()


def main() -> None:
    """Measure everything and print the tables."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # torch warns about bounds that its sampler handles correctly
    warm_up()
    with ThreadPoolExecutor(2) as executor:
        rows = [compare(case, executor) for case in CASES]
    heads = ("law", "torch, M/s", "philox, M/s", "ratio", "two threads")
    table(f"One thread, torch {torch.__version__}, millions of elements a second", heads, rows)
    shards = [columns(length) for length in (1, 2, 4, 16, 64, 1024)]
    table("float32 normals of a few columns", ("columns", "philox, M/s"), shards)
    table("Limits, into 2 MiB", ("what", "M/s"), limits())


if __name__ == "__main__":
    main()
