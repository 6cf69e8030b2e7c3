"""The GPU generator in Triton's interpreter: its plans, its chunks, and the whole service with it."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from itertools import pairwise, product
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI

from weightwell_engine.dtypes import FLOATS
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import GeneratorUnsound
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.factory import make_generator
from weightwell_engine.generators.gpu import Gpu
from weightwell_engine.generators.philox import cuda
from weightwell_engine.generators.philox.cpu.generator import CpuPhiloxGenerator
from weightwell_engine.generators.philox.cuda import generator as cuda_generator
from weightwell_engine.generators.philox.cuda import overlays
from weightwell_engine.generators.philox.cuda.generator import CudaPhiloxGenerator
from weightwell_engine.generators.philox.specification.known_answers import KNOWN_ANSWERS
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import Piece, Plan, make_plan
from weightwell_engine.virtual_file import VirtualFile
from weightwell_service.app import create_app
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

MANIFEST: dict[str, Any] = {
    "seed": 3,
    "dtype": "bfloat16",
    "tensors": {
        "h.0.weight": {"shape": [37, 41], "scheme": "kaiming_normal"},
        "h.0.bias": {"shape": [37], "scheme": "zeros"},
        "norm": {"shape": [5], "scheme": "ones", "dtype": "float32"},
        "table": {"shape": [50, 64], "scheme": "trunc_normal", "dtype": "float64", "slice": "17:40,3:30"},
        "mask": {"shape": [30, 20], "scheme": "sparse", "sparsity": 0.3, "dtype": "float16"},
        "conv": {"shape": [6, 4, 3, 3], "scheme": "dirac", "dtype": "float8_e5m2"},
        "empty": {"shape": [0, 3], "scheme": "normal"},
    },
}


def planned(body: dict[str, Any]) -> Plan:
    spec = read_document(json.dumps(body).encode())
    return make_plan(spec, CudaPhiloxGenerator.identity, portable=True, max_bytes=2**50)


PLAN = planned(MANIFEST)


def draw(plan: Plan, file: VirtualFile, start: int, stop: int) -> memoryview:
    """Return bytes of a file's data."""
    prefix = len(plan.header)
    return file.read(prefix + start, prefix + stop)


@pytest.fixture
def generator(gpu: Gpu) -> CudaPhiloxGenerator:
    return CudaPhiloxGenerator(gpu)


@pytest.fixture(scope="module")
def on_cpu() -> bytes:
    with closing(VirtualFile(PLAN, CpuPhiloxGenerator(1))) as drawing:
        return bytes(draw(PLAN, drawing, 0, PLAN.data_nbytes))


def test_a_chunk_of_many_tensors_holds_the_bytes_of_the_cpu(generator: CudaPhiloxGenerator, on_cpu: bytes) -> None:
    with closing(VirtualFile(PLAN, generator)) as drawing:
        assert bytes(draw(PLAN, drawing, 0, PLAN.data_nbytes)) == on_cpu


def test_chunks_that_begin_anywhere_hold_the_bytes_of_the_cpu(generator: CudaPhiloxGenerator, on_cpu: bytes) -> None:
    cuts = [0, 1, 2049, 5000, 5001, PLAN.data_nbytes - 1, PLAN.data_nbytes]
    with closing(VirtualFile(PLAN, generator)) as drawing:
        parts = [bytes(draw(PLAN, drawing, *span)) for span in pairwise(cuts)]
    assert b"".join(parts) == on_cpu


def test_a_chunk_is_one_copy(generator: CudaPhiloxGenerator, driver: Any) -> None:
    with closing(VirtualFile(PLAN, generator)) as drawing:
        draw(PLAN, drawing, 0, PLAN.data_nbytes)
    assert driver.finished == 1


def test_what_is_prepared_is_kept_for_the_next_chunk(
    generator: CudaPhiloxGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, real = [], cuda.prepare
    monkeypatch.setattr(cuda, "prepare", lambda *law: prepared.append(law[-2]) or real(*law))  # type: ignore[func-returns-value]
    with closing(VirtualFile(PLAN, generator)) as drawing:
        for _ in range(2):
            draw(PLAN, drawing, 0, PLAN.data_nbytes)
            assert len(prepared) == len(PLAN.tensors) - 1  # one is empty


# Parts ---------------------------------------------------------------------------------------------------------------

PARTS: dict[str, Any] = {
    "seed": 4,
    "tensors": {
        "embed": {"shape": [50, 30], "scheme": "normal", "parts": [{"slice": "7:8", "scheme": "zeros"}]},
        "qkv": {
            "shape": [20, 96],
            "scheme": "zeros",
            "dtype": "bfloat16",
            "parts": [
                {"slice": ":,0:32", "scheme": "orthogonal"},
                {"slice": ":,30:60", "scheme": "eye"},
                {"slice": "3:,60:", "scheme": "sparse", "sparsity": 0.5},
            ],
        },
        "conv": {
            "shape": [9, 8, 3, 3],
            "scheme": "uniform",
            "dtype": "float64",
            "slice": "1:,2:,:,:",
            "parts": [{"slice": ":,:,1:,:2", "scheme": "normal"}, {"slice": ":,3:5,:,0:1", "scheme": "ones"}],
        },
        "byte": {
            "shape": [333],
            "scheme": "ones",
            "dtype": "float8_e5m2",
            "parts": [{"slice": "1:301", "scheme": "normal"}, {"slice": "300:303", "scheme": "uniform"}],
        },
        "covered": {"shape": [40], "scheme": "normal", "parts": [{"slice": ":", "scheme": "uniform"}]},
        "copy": {"shape": [40], "scheme": "normal", "stream": "embed"},
        "given": {
            "shape": [7, 5, 3],
            "scheme": "values",
            "values": [1.5, -2.0, 3.1, 0.0, 4.0],
            "dims": [5, 1],
            "dtype": "float16",
            "parts": [{"slice": "3:,:,1:2", "scheme": "normal"}],
        },
    },
}


@pytest.mark.usefixtures("haar_of_reference")
@pytest.mark.parametrize("cuts", [[], [1, 6001, 9000, 12345]], ids=["whole", "cut"])
def test_tensors_with_parts_have_the_bytes_of_the_cpu(generator: CudaPhiloxGenerator, cuts: list[int]) -> None:
    plan = planned(PARTS)
    with closing(VirtualFile(plan, CpuPhiloxGenerator(1))) as drawing:
        expected = bytes(draw(plan, drawing, 0, plan.data_nbytes))
    with closing(VirtualFile(plan, generator)) as drawing:
        spans = pairwise([0, *cuts, plan.data_nbytes])
        assert b"".join(bytes(draw(plan, drawing, *span)) for span in spans) == expected


def test_parts_over_each_other_take_no_more_memory_than_the_chunk(
    generator: CudaPhiloxGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [{"slice": f"{i}:", "scheme": "normal"} for i in range(1, 6)]
    plan = planned({"tensors": {"w": {"shape": [1024], "scheme": "zeros", "parts": parts}}})
    taken: list[int] = []

    def fill(parts: list[cuda.Part], memory: torch.Tensor) -> None:
        taken.append(memory.numel())
        cuda.fill(parts, memory)

    monkeypatch.setattr(overlays, "fill", fill)
    with closing(VirtualFile(plan, generator)) as drawing:
        draw(plan, drawing, 0, plan.data_nbytes)
    assert taken == [4096] * 5


# What it says of itself ----------------------------------------------------------------------------------------------


def test_it_is_the_generator_of_the_cpu_by_another_way(gpu: Gpu) -> None:
    ours, theirs = (make_generator("philox", device, threads=2) for device in (gpu, Cpu()))
    assert (ours.name, ours.identity, ours.portable) == (theirs.name, theirs.identity, theirs.portable)


def test_its_footprint_is_the_gpu_memory_of_the_two_largest_matrices(generator: CudaPhiloxGenerator) -> None:
    sides = [100, 300, 200]
    tensors = {f"m{side}": {"shape": [side, side], "scheme": "orthogonal"} for side in sides}
    plan = planned({"tensors": {**tensors, "w": {"shape": [10**6], "scheme": "normal"}}})
    taken = {tensor.name: cuda.nbytes(tensor.law, tensor.dtype) for tensor in plan.tensors}
    assert taken["w"] == 0
    assert generator.footprint(plan) == taken["m300"] + taken["m200"] > 4 * (300**2 + 200**2)


def test_a_stack_is_kept_whole_in_the_order_of_the_tensor(generator: CudaPhiloxGenerator) -> None:
    plain, delta = (
        planned({"shape": [8, 32, *kernel, 64], "scheme": scheme, "out_axis": -1, "in_axis": 1, "batch_axis": 0})
        for kernel, scheme in (([], "orthogonal"), ([3], "delta_orthogonal"))
    )
    matrices = 8 * 32 * 64 * 4
    working = generator.footprint(planned({"shape": [64, 32], "scheme": "orthogonal"})) - matrices // 8
    assert generator.footprint(plain) == 2 * matrices + working
    assert generator.footprint(delta) == 7 * matrices + working


def test_warming_up_draws_every_law_of_elements_in_every_dtype(
    generator: CudaPhiloxGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, str]] = []
    monkeypatch.setattr(cuda_generator, "KNOWN_ANSWERS", ())
    monkeypatch.setattr(cuda, "prepare", lambda law, dtype, *_: drawn.append((type(law).__name__, dtype.name)))
    monkeypatch.setattr(cuda, "fill", lambda *_: None)
    generator.warm_up()
    assert set(drawn) == set(product(["Uniform", "Normal", "TruncatedNormal"], FLOATS))


def test_a_gpu_with_wrong_answers_refuses_to_work(
    generator: CudaPhiloxGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = KNOWN_ANSWERS[0]
    monkeypatch.setattr(cuda_generator, "KNOWN_ANSWERS", [answer._replace(digest=answer.digest[::-1])])
    with pytest.raises(GeneratorUnsound, match=r"drew float32 elements of Uniform.* The generator is dis"):
        generator.warm_up()


# The service around it -----------------------------------------------------------------------------------------------


@pytest.fixture
def client(gpu: Gpu, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client of a service on a GPU that is the interpreter: it is slow, so chunks are small and the warm-up short."""
    monkeypatch.setattr(gpu, "chunk", 4096)
    monkeypatch.setattr(cuda_generator, "COMMON", ())
    monkeypatch.setattr(cuda_generator, "KNOWN_ANSWERS", KNOWN_ANSWERS[:1])
    app = create_app(Settings(threads=2))
    app.state.service.engine = Engine(gpu, threads=2)
    with serve(app) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        assert client.get("/health/ready").status_code == 200
        yield client


def test_the_service_warms_up_and_sends_the_bytes_of_the_cpu(client: httpx.Client, on_cpu: bytes) -> None:
    got = client.post("/init", json=MANIFEST)
    assert got.status_code == 200
    assert got.content == PLAN.header + on_cpu
    assert got.headers["etag"] == PLAN.etag


def test_a_matrix_is_that_of_the_cpu(client: httpx.Client, http: httpx.Client) -> None:
    query = {"shape": "20,30", "scheme": "orthogonal", "dtype": "bfloat16"}
    assert client.get("/init", params=query).content == http.get("/init", params=query).content


def test_requests_at_once_are_answered_as_each_alone(client: httpx.Client, on_cpu: bytes) -> None:
    with ThreadPoolExecutor(2) as readers:
        answers = list(readers.map(lambda _: client.post("/init", json=MANIFEST), range(2)))
    assert [answer.content for answer in answers] == [PLAN.header + on_cpu] * 2


QUERY = {"shape": "60,60", "scheme": "uniform"}


# On the interpreter's CPU, torch draws small files without the memory of the GPU.
@pytest.mark.parametrize(("generator", "shape"), [("philox", "60,60"), ("torch", "150,150")])
def test_without_memory_a_request_is_refused_and_the_next_is_served(
    client: httpx.Client, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, generator: str, shape: str
) -> None:
    query = {"shape": shape, "scheme": "uniform", "generator": generator}

    def fail(_: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "_pinned", fail)
        refused = client.get("/init", params=query)
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:weightwell:problem:busy"
    assert int(refused.headers["retry-after"]) > 0
    assert client.get("/health/ready").status_code == 200
    assert client.get("/init", params=query).status_code == 200


@pytest.mark.parametrize("generator", ["philox", "torch"])
def test_a_lost_device_is_said_and_readiness_fails(client: httpx.Client, driver: Any, generator: str) -> None:
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["device"] == "cpu (a card, compute capability 9.0)"
    driver.lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    unready = client.get("/health/ready")
    assert unready.status_code == 503
    assert unready.json()["device"] == ready.json()["device"]
    assert unready.json()["reason"].endswith("CUDA error: an illegal memory access was encountered")
    refused = client.get("/init", params={**QUERY, "generator": generator})
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:weightwell:problem:device-unavailable"
    assert "illegal memory access" in refused.json()["detail"]
    assert client.get("/health/live").status_code == 200
    assert client.head("/init", params=QUERY).status_code == 200


# Memory of the device -----------------------------------------------------------------------------------------------

GIVEN = {"table": {"shape": [40], "scheme": "values", "values": [0.5 * place for place in range(40)]}}
BODIES = {
    "tensors": MANIFEST,
    "parts": PARTS,
    "values": {"tensors": GIVEN},
}


@pytest.mark.usefixtures("haar_of_reference")
@pytest.mark.parametrize("offset", [0, 1, pytest.param(4, marks=pytest.mark.exhaustive), 16])
@pytest.mark.parametrize("name", BODIES)
def test_pieces_drawn_into_memory_of_the_device_have_the_bytes_of_the_cpu(
    generator: CudaPhiloxGenerator, driver: Any, name: str, offset: int
) -> None:
    plan = planned(BODIES[name])
    with closing(VirtualFile(plan, generator)) as file, closing(VirtualFile(plan, CpuPhiloxGenerator(1))) as on_cpu:
        for tensor in plan.tensors:
            for piece in (Piece(tensor, 0, tensor.size), Piece(tensor, tensor.size // 3, tensor.size - 1)):
                if piece.start >= piece.stop:
                    continue
                expected = bytearray(piece.nbytes)
                on_cpu.fill(piece, expected)
                memory = torch.full((offset + piece.nbytes + 3,), 77, dtype=torch.uint8)
                file.fill_on_device(piece, memory[offset : offset + piece.nbytes])
                edges = [*memory[:offset].tolist(), *memory[offset + piece.nbytes :].tolist()]
                assert bytes(memory[offset : offset + piece.nbytes].numpy()) == expected
                assert set(edges) == {77}
    assert driver.streams[0].waited == driver.finished > 0


def test_memory_that_a_piece_does_not_fill_is_refused(generator: CudaPhiloxGenerator) -> None:
    piece = Piece(PLAN.tensors[0], 0, 5)
    with closing(VirtualFile(PLAN, generator)) as file:
        for wrong in (torch.empty(5), torch.empty(41, dtype=torch.uint8), torch.empty(80, dtype=torch.uint8)[::2]):
            with pytest.raises(ValueError, match="out must be a contiguous tensor of 40 uint8 on cpu, got"):
                file.fill_on_device(piece, wrong)


def test_a_generator_of_the_host_does_not_draw_into_memory_of_a_device() -> None:
    with closing(VirtualFile(PLAN, CpuPhiloxGenerator(1))) as file, pytest.raises(TypeError, match="use fill"):
        file.fill_on_device(Piece(PLAN.tensors[0], 0, 5), torch.empty(40, dtype=torch.uint8))
