"""The GPU draws the bits of the golden files and of the CPU."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
import torch

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.engine import Engine
from weightwell_engine.generators.gpu import Gpu
from weightwell_engine.generators.philox import cuda
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.cuda.generator import CudaPhiloxGenerator
from weightwell_engine.laws import (
    ClampedNormal,
    Constant,
    Lattice,
    Law,
    Normal,
    Orthogonal,
    OrthogonalStack,
    Sparse,
    TruncatedNormal,
    Uniform,
    Values,
)
from weightwell_engine.parsing import read_document
from weightwell_engine.regions import Runs

GOLDEN = Path(__file__).parents[1] / "golden"
# Given numbers are written by the host.
KINDS: dict[str, type[Any]] = {law.kind: law for law in get_args(Law) if law is not Values}
CASES: list[dict[str, Any]] = [
    case for file in GOLDEN.glob("philox-v1*.json") for case in json.loads(file.read_text("utf-8"))
]
COMPOSED: list[dict[str, Any]] = json.loads((GOLDEN / "parts-v1.json").read_text("utf-8"))


@dataclass(frozen=True)
class Part:
    """Some elements of a tensor."""

    law: Law
    dtype: str
    seed: int
    name: str
    runs: Runs

    @property
    def nbytes(self) -> int:
        return self.runs.size * DTYPES[self.dtype].itemsize

    def on_cpu(self) -> bytes:
        out = bytearray(self.nbytes)
        prepare(self.law, DTYPES[self.dtype], self.seed, self.name).fill(self.runs, memoryview(out))
        return bytes(out)


def fetched(memory: torch.Tensor, gpu: Gpu) -> memoryview:
    out = gpu.allocate(len(memory))
    gpu.fetch(memory, out)
    return out


def drawn(parts: list[Part], gpu: Gpu) -> list[bytes]:
    """Draw parts on the GPU, all at once."""
    offsets, size = [], 0
    for part in parts:
        offsets.append(size)
        size += part.nbytes + -part.nbytes % 8
    with gpu.queue():
        memory = torch.full((size,), 0xA5, dtype=torch.uint8, device=gpu.place)  # so that nothing is left out unseen
        prepared = [cuda.prepare(p.law, DTYPES[p.dtype], p.seed, p.name, gpu.place) for p in parts]
        cuda.fill([(law, p.runs, at) for law, p, at in zip(prepared, parts, offsets, strict=True)], memory)
        whole = fetched(memory, gpu)
    return [bytes(whole[at : at + part.nbytes]) for part, at in zip(parts, offsets, strict=True)]


def golden(case: dict[str, Any]) -> Part:
    kind, parameters = case["law"]["kind"], {name: v for name, v in case["law"].items() if name != "kind"}
    law = KINDS[kind](**{name: tuple(v) if isinstance(v, list) else v for name, v in parameters.items()})
    runs = Runs(**{name: int(value) for name, value in case["runs"].items()})
    return Part(law, case["dtype"], int(case["seed"]), case["name"], runs)


@pytest.mark.parametrize("kind", KINDS)
def test_every_golden_digest_is_drawn(kind: str, gpu: Gpu) -> None:
    cases = [case for case in CASES if case["law"]["kind"] == kind]
    assert cases
    got = [sha256(drawn([golden(case)], gpu)[0]).hexdigest() for case in cases]
    assert got == [case["sha256"] for case in cases]


@pytest.mark.parametrize("case", COMPOSED, ids=lambda case: f"{case['name']} {case['dtype']}")
def test_every_golden_digest_of_a_tensor_with_parts_is_drawn(case: dict[str, Any], gpu: Gpu) -> None:
    engine = Engine(gpu, threads=1)
    plan = engine.plan(read_document(json.dumps({"tensors": case["tensor"]}).encode()))
    with closing(engine.open(plan)) as file:
        assert sha256(file.read(len(plan.header), plan.nbytes)).hexdigest() == case["sha256"]


def test_a_service_would_start(gpu: Gpu) -> None:
    CudaPhiloxGenerator(gpu).warm_up()  # and raise if an answer were wrong


# Any request to a service --------------------------------------------------------------------------------------------

ELEMENTS: list[Law] = [
    Constant(0.1),
    Uniform(-0.1, 0.3),
    Uniform(-1e-42, 1e-42),
    Normal(0.0, 0.02),
    Normal(1.0, 1e-30),
    TruncatedNormal(0.0, 1.0, -2.0, 2.0),
    ClampedNormal(0.1, 1.0, -0.5, 2.0),
    TruncatedNormal(0.0, 1.0, 3.0, 4.0),
    TruncatedNormal(0.0, 1.0, -0.001, 0.002),
    Lattice(0.3, 5, (4000, 3), (1000, 700)),
    Lattice(0.3, 5, (2**20 + 7, 1000), (10**6, 1000)),  # all of whose points may lie between runs, and be looked at
    Lattice(1.0, 0, (1, 1025), (1, 10**9)),
]


def somewhere(random: Random, law: Law, dtype: str) -> Part:
    """Return some runs of a tensor: long or short, apart or touching, near the beginning or beyond 2^34."""
    length = random.choice([1, 2, 3, 4, 5, 7, 16, 63, 64, 1000, 1024, 5000, 100_003])
    count = random.randint(1, max(1, min(500, 200_000 // length)))
    stride = length + random.choice([0, 1, 4, 1001, 2**20, 2**36])
    first = random.choice([0, 1, 3, 4, 1000, 2**32 - 2, 2**34 - 5, 2**40 + 3, 2**55]) + random.randint(0, 5)
    return Part(
        law, dtype, random.getrandbits(64), random.choice(["weight", "h.0.ö"]), Runs(first, length, stride, count)
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("law", ELEMENTS, ids=str)
def test_any_runs_of_any_law_are_those_of_the_cpu(law: Law, dtype: str, gpu: Gpu) -> None:
    random = Random(f"{law} {dtype}")  # noqa: S311 - to be the same every time
    for _ in range(20):
        parts = [somewhere(random, law, dtype) for _ in range(random.randint(1, 4))]
        assert drawn(parts, gpu) == [part.on_cpu() for part in parts], parts


def test_a_chunk_of_many_tensors_is_drawn_at_once(gpu: Gpu) -> None:
    random = Random(7)  # noqa: S311 - to be the same every time
    parts = [somewhere(random, random.choice(ELEMENTS), dtype) for dtype in FLOATS for _ in range(40)]
    assert drawn(parts, gpu) == [part.on_cpu() for part in parts]


def test_concurrent_threads_draw_the_same_bits_as_one(gpu: Gpu) -> None:
    random = Random(11)  # noqa: S311 - to be the same every time
    rare = Normal(0.0, 1e-39)  # for which every thread needs kernels that none has needed yet
    work = [[somewhere(random, law, dtype) for law in (rare, *ELEMENTS)] for dtype in FLOATS for _ in range(4)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda parts: drawn(parts, gpu), work)) == [[p.on_cpu() for p in ps] for ps in work]


def test_more_than_2_32_elements_are_drawn_by_one_launch(gpu: Gpu) -> None:
    size, law, dtype = 2**32 + 2**20 + 3, Normal(0.0, 0.02), DTYPES["float8_e4m3fn"]
    with gpu.queue():
        memory = torch.full((size,), 0xA5, dtype=torch.uint8, device=gpu.place)
        cuda.fill([(cuda.prepare(law, dtype, 5, "weight", gpu.place), Runs(0, size, 0, 1), 0)], memory)
        for start in (0, 2**31 - 500, 2**32 - 500, size - 1000):
            part = Part(law, dtype.name, 5, "weight", Runs(start, 1000, 0, 1))
            assert bytes(fetched(memory[start : start + 1000], gpu)) == part.on_cpu()


@pytest.mark.parametrize("law", [Constant(-3.0), Lattice(2.0, 5, (4000, 3), (1000, 700))], ids=str)
def test_whole_numbers_are_those_of_the_cpu(law: Law, gpu: Gpu) -> None:
    random = Random(3)  # noqa: S311 - to be the same every time
    parts = [somewhere(random, law, dtype) for dtype in ("int64", "float32") for _ in range(10)]
    assert drawn(parts, gpu) == [part.on_cpu() for part in parts]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1), (63, 65), (64, 64), (65, 63), (129, 700), (1500, 1000)], ids=str)
def test_a_matrix_is_that_of_the_cpu(shape: tuple[int, int], dtype: str, gpu: Gpu) -> None:
    rows, cols = shape
    whole = Runs(0, rows * cols, 0, 1)
    laws: list[Law] = [Orthogonal(rows, cols, 0.7), Sparse(rows, cols, rows // 3, 0.01), Sparse(rows, cols, rows, 0.01)]
    parts = [Part(law, dtype, 5, "weight", whole) for law in laws]
    assert drawn(parts, gpu) == [part.on_cpu() for part in parts]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_the_columns_of_matrices_are_those_of_the_cpu(dtype: str, gpu: Gpu) -> None:
    runs = Runs(7, 5, 300, 200)
    laws: list[Law] = [Orthogonal(200, 300, 1.3), Sparse(200, 300, 50, 0.1)]
    parts = [Part(law, dtype, 1, "weight", runs) for law in laws]
    parts.append(Part(Orthogonal(80, 32, 0.7, 3, 1), dtype, 1, "kernel", Runs(2, 11, 96, 79)))
    parts.append(
        Part(OrthogonalStack(80, 32, 0.7, 3, 1, 5, (3, 32, 400), (1, 3, 96)), dtype, 1, "k", Runs(9, 11, 96, 390))
    )
    assert drawn(parts, gpu) == [part.on_cpu() for part in parts]
