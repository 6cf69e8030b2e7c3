"""The whole service with a GPU: the same files as with a CPU, and clear errors if the GPU fails."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from weightwell_engine.generators.gpu import Gpu

pytest.importorskip("weightwell_service.app")  # where the packages of the service are not, its bits are still tested

MANIFEST: dict[str, Any] = {
    "seed": 3,
    "dtype": "bfloat16",
    "tensors": {
        **{f"h.{i}.weight": {"shape": [1000 + i, 700], "scheme": "kaiming_normal"} for i in range(20)},
        **{f"h.{i}.bias": {"shape": [1000 + i], "scheme": "zeros"} for i in range(20)},
        "ln": {"shape": [701], "scheme": "ones", "dtype": "float32"},
        "odd": {"shape": [3, 333], "scheme": "uniform", "dtype": "float8_e5m2"},
        "table": {"shape": [5000, 64], "scheme": "trunc_normal", "dtype": "float64", "slice": "17:4000,3:50"},
        "mixer": {"shape": [300, 200], "scheme": "orthogonal", "dtype": "float32"},
        "mask": {"shape": [300, 200], "scheme": "sparse", "sparsity": 0.3, "dtype": "float16"},
    },
}

QUERIES: list[dict[str, Any]] = [
    {"shape": "3000,3001", "scheme": "normal"},
    {"shape": "3000,3001", "scheme": "xavier_uniform", "dtype": "float16"},
    {"shape": "100000,100000", "scheme": "normal", "slice": "0:100000,77:99"},
    {"shape": "1025,1026", "scheme": "eye"},
    {"shape": "500,400,3,3", "scheme": "dirac", "dtype": "bfloat16"},
    {"shape": "900,800", "scheme": "orthogonal"},
    {"shape": "2000,300", "scheme": "sparse", "sparsity": "0.9"},
    {"shape": "", "scheme": "normal"},
    {"shape": "0,3", "scheme": "normal"},
]


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_file_is_that_of_a_service_on_a_cpu(query: dict[str, Any], on_gpu: httpx.Client, http: httpx.Client) -> None:
    here, there = (client.get("/init", params=query) for client in (on_gpu, http))
    assert here.status_code == there.status_code == 200
    assert here.content == there.content
    assert here.headers["etag"] == there.headers["etag"]


def test_a_manifest_is_that_of_a_service_on_a_cpu(on_gpu: httpx.Client, http: httpx.Client) -> None:
    here, there = (client.post("/init", json=MANIFEST) for client in (on_gpu, http))
    assert here.status_code == there.status_code == 200
    assert here.content == there.content


@pytest.mark.parametrize("span", ["0-0", "5-100", "1000003-1000003", "8388000-25165899", "-12345", "35999999-"])
def test_a_range_is_that_of_the_whole(span: str, on_gpu: httpx.Client, http: httpx.Client) -> None:
    ranged = {"range": f"bytes={span}"}
    here, there = (client.get("/init", params=QUERIES[0], headers=ranged) for client in (on_gpu, http))
    assert here.status_code == there.status_code == 206
    assert here.content == there.content


def test_requests_at_once_are_answered_as_each_alone(on_gpu: httpx.Client) -> None:
    def body(query: dict[str, Any]) -> bytes:
        return on_gpu.get("/init", params=query).content

    alone = [body(query) for query in QUERIES]
    with ThreadPoolExecutor(16) as readers:
        assert list(readers.map(body, QUERIES * 8)) == alone * 8


def test_a_large_file_takes_little_memory_of_the_device(on_gpu: httpx.Client, place: torch.device) -> None:
    torch.cuda.reset_peak_memory_stats(place)
    before, received = torch.cuda.memory_reserved(place), 0
    with on_gpu.stream("GET", "/init", params={"shape": "32768,65536", "scheme": "normal"}) as response:
        for part in response.iter_raw():
            received += len(part)
    assert received > 2**33
    assert torch.cuda.max_memory_reserved(place) - before <= 2**28


def test_readiness_names_the_card(on_gpu: httpx.Client, gpu: Gpu) -> None:
    got = on_gpu.get("/health/ready")
    assert got.status_code == 200
    assert got.json()["device"] == str(gpu)
    assert torch.cuda.get_device_name(gpu.place) in got.json()["generators"]["torch"]


# generator=torch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        *((scheme, dtype) for scheme in ("uniform", "normal", "kaiming_normal") for dtype in ("float32", "bfloat16")),
        ("trunc_normal", "float32"),
        ("orthogonal", "float32"),
        ("normal", "float64"),
    ],
)
def test_torch_s_numbers_are_those_of_torch_on_this_gpu(
    scheme: str, dtype: str, on_gpu: httpx.Client, place: torch.device
) -> None:
    query = {"shape": "1500,1001", "scheme": scheme, "dtype": dtype, "generator": "torch", "seed": "5"}
    got = safetensors.torch.load(on_gpu.get("/init", params=query).content)["weight"]
    tensor = torch.empty(1500, 1001, dtype=getattr(torch, dtype), device=place)
    getattr(torch.nn.init, f"{scheme}_")(tensor, generator=torch.Generator(place).manual_seed(5))
    assert torch.equal(got, tensor.cpu())


def test_torch_draws_a_manifest_in_order_from_one_generator(on_gpu: httpx.Client, place: torch.device) -> None:
    tensors = {"b": {"shape": [300, 11], "scheme": "normal"}, "a": {"shape": [7], "scheme": "uniform"}}
    got = safetensors.torch.load(
        on_gpu.post("/init", json={"seed": 9, "generator": "torch", "tensors": tensors}).content
    )
    generator = torch.Generator(place).manual_seed(9)
    assert torch.equal(got["b"], torch.empty(300, 11, device=place).normal_(generator=generator).cpu())
    assert torch.equal(got["a"], torch.empty(7, device=place).uniform_(generator=generator).cpu())


# Failing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["philox", "torch"])
def test_out_of_memory_is_busy_and_the_service_lives_on(
    generator: str, on_gpu: httpx.Client, place: torch.device
) -> None:
    query = {"shape": "12000,12000", "scheme": "orthogonal", "generator": generator}
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(place)
    hog = torch.empty(free - 2**28, dtype=torch.uint8, device=place)
    refused = on_gpu.get("/init", params=query)
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:weightwell:problem:busy"
    assert int(refused.headers["retry-after"]) > 0
    assert on_gpu.get("/health/ready").status_code == 200
    assert on_gpu.get("/init", params={"shape": "30,30", "scheme": "normal"}).status_code == 200
    del hog
    torch.cuda.empty_cache()
    assert on_gpu.get("/init", params={**query, "shape": "2000,2000"}).status_code == 200


# An index out of bounds ends the process's work on the GPU, so it is another process that makes one.
LOSE = """
import json, logging, sys, threading, socket
import httpx, torch
from weightwell_service.app import create_app
from weightwell_service.server import make_server
from weightwell_service.settings import Settings

logging.disable()
settings = Settings(device=sys.argv[1], threads=2)
app = create_app(settings)
listener = socket.create_server(("127.0.0.1", 0))
server = make_server(app, settings, log_config=None, timeout_graceful_shutdown=1)
thread = threading.Thread(target=server.run, args=([listener],))
thread.start()
with httpx.Client(base_url="http://%s:%d" % listener.getsockname(), timeout=300, trust_env=False) as client:
    query = {"shape": "30,30", "scheme": "normal"}
    answers = [client.get("/init", params=query), client.get("/health/ready")]
    torch.zeros(1, device=sys.argv[1])[torch.tensor([5], device=sys.argv[1])]
    paths = ["/init", "/health/ready", "/health/live"]
    answers += [client.get(path, params=query if path == "/init" else None) for path in paths]
    said = json.dumps([[got.status_code, got.text if got.status_code == 503 else ""] for got in answers])
    print(said, flush=True)  # a process that has lost its device may not end well
server.should_exit = True
thread.join()
"""


def test_a_lost_device_is_said_and_readiness_fails(place: torch.device) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSE, str(place)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout, done.stderr
    drawn, ready, refused, unready, live = json.loads(done.stdout.splitlines()[-1])
    assert drawn[0] == ready[0] == 200
    assert refused[0] == unready[0] == 503
    assert json.loads(refused[1])["type"] == "urn:weightwell:problem:device-unavailable"
    assert "assert" in json.loads(unready[1])["reason"]
    assert live[0] == 200


def test_a_device_that_is_not_there_ends_the_start(place: torch.device) -> None:
    del place
    absent = f"cuda:{torch.cuda.device_count()}"
    command = [sys.executable, "-m", "weightwell_service", "--device", absent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"device {absent} is not there" in done.stderr
