"""Twins: repositories of an upstream Hub, of which the headers of the weight files are read, and no weights."""

import asyncio
import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import httpx
import pytest
import safetensors.torch
import torch
from fastapi import FastAPI
from pydantic import SecretStr

from weightwell_engine.dtypes import DTYPES
from weightwell_service.app import create_app
from weightwell_service.repositories.failures import UpstreamError
from weightwell_service.repositories.headers import Stored
from weightwell_service.repositories.shared_cache import ERRORS, SharedCache
from weightwell_service.repositories.twin import FRESH
from weightwell_service.repositories.twin_laws import Laws, bits_of, preset_of
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

TOKEN = "hf_of_the_operator"


# A small Hub ---------------------------------------------------------------------------------------------------------


@dataclass
class Commit:
    """A commit of a repository: its files."""

    files: dict[str, bytes]
    sha: str = ""

    def __post_init__(self) -> None:
        self.sha = self.sha or hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()  # noqa: S324


@dataclass
class Hub:
    """Repositories by name, with their commits, the oldest first; and what has been asked for and sent.

    ``behaviour`` is how a path, or a repository, is answered otherwise.
    """

    repositories: dict[str, list[Commit]] = field(default_factory=dict)
    behaviour: dict[str, Callable[["Handler"], None]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    data: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def add(self, name: str, files: dict[str, bytes]) -> None:
        self.repositories.setdefault(name, []).append(Commit(files))


class Handler(BaseHTTPRequestHandler):
    """Answers as the Hub does: weight files come from another host, after a redirect."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked[path] += 1
        self.hub.headers.append({name.lower(): value for name, value in self.headers.items()} | {"path": path})
        for key, answer in self.hub.behaviour.items():
            if key in path:
                return answer(self)
        match path.strip("/").split("/"):
            case ["api", "models", owner, name, "revision", revision]:
                self.description(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "commits", "main"]:
                first = "p=0" in self.path
                commits = self.hub.repositories[f"{owner}/{name}"] if first else []
                self.json([{"id": each.sha} for each in reversed(commits)])
            case [owner, name, "resolve", revision, *rest]:
                if rest[-1].endswith(".safetensors"):
                    there = self.hub.url.replace("127.0.0.1", "localhost")
                    return self.answer(302, b"", {"location": f"{there}/cdn{path}"})
                self.file(f"{owner}/{name}", revision, "/".join(rest))
            case ["cdn", owner, name, "resolve", revision, *rest]:
                self.file(f"{owner}/{name}", revision, "/".join(rest))
            case _:
                self.refuse(404, "RepoNotFound")
        return None

    def found(self, name: str, revision: str) -> Commit | None:
        commits = self.hub.repositories.get(name, [])
        return next((each for each in reversed(commits) if revision in {"main", each.sha}), None)

    def description(self, name: str, revision: str) -> None:
        commit = self.found(name, revision)
        if commit is None:
            return self.refuse(401, "RepoNotFound")
        siblings = [{"rfilename": path, "size": len(content)} for path, content in commit.files.items()]
        config = json.loads(commit.files.get("config.json", b"{}"))
        more = {"pipeline_tag": "text-generation", "config": {"model_type": config.get("model_type")}}
        return self.json({"id": name, "sha": commit.sha, "siblings": siblings, **more})

    def file(self, name: str, revision: str, path: str) -> None:
        commit = self.found(name, revision)
        if commit is None or path not in commit.files:
            return self.refuse(404, "EntryNotFound")
        content = commit.files[path]
        start, stop = 0, len(content)
        if wanted := self.headers.get("range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1
        if path.endswith(".safetensors"):
            self.hub.data[path] += max(stop - (8 + int.from_bytes(content[:8], "little")), 0)
        more = {"content-range": f"bytes {start}-{stop - 1}/{len(content)}"} if wanted else {}
        return self.answer(206 if wanted else 200, content[start:stop], more)

    def json(self, document: Any) -> None:
        self.answer(200, json.dumps(document).encode(), {"content-type": "application/json"})

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"x-error-code": code})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def header_of(content: bytes) -> dict[str, Any]:
    """The header of a safetensors file, without its metadata."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return header


def with_header(header: Any, data: int = 0) -> bytes:
    """A safetensors file with a header, and so many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def checkpoint() -> dict[str, bytes]:
    """The files of a small quantized Llama in two shards."""
    embedding = {
        "model.embed_tokens.weight": torch.ones(16, 8, dtype=torch.bfloat16),
        "model.layers.0.input_layernorm.weight": torch.full((8,), 3, dtype=torch.bfloat16),
        "model.layers.0.self_attn.q_proj.weight": torch.ones(8, 8).to(torch.float8_e4m3fn),
        "model.layers.0.self_attn.q_proj.weight_scale_inv": torch.full((1, 1), 7.0),
        "model.layers.0.self_attn.q_proj.bias": torch.ones(8, dtype=torch.float16),
    }
    head = {
        "model.layers.0.mlp.gate.weight": torch.ones(4, 8, dtype=torch.bfloat16),
        "model.norm.weight": torch.full((8,), 3.0, dtype=torch.bfloat16),
        "model.position_ids": torch.ones(8, dtype=torch.int64),
        "lm_head.weight": torch.ones(16, 8),
    }
    shards = {"model-00001-of-00002.safetensors": embedding, "model-00002-of-00002.safetensors": head}
    total = sum(each.nbytes for shard in shards.values() for each in shard.values())
    index = {"total_size": total, "total_parameters": 7}
    places = {name: file for file, shard in shards.items() for name in shard}
    config = {"model_type": "llama", "initializer_range": 0.5, "torch_dtype": "bfloat16"}
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b'{"version": "1.0"}',
        "README.md": b"# A model\n",
        "model.safetensors.index.json": json.dumps({"metadata": index, "weight_map": places}).encode(),
        "pytorch_model.bin": b"the original weights",
        "model.gguf": b"the original weights",
        "big.txt": bytes(10_001),
        **{file: safetensors.torch.save(shard, {"format": "pt"}) for file, shard in shards.items()},
    }


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Hub]:
    """A small Hub with a model."""
    hub = Hub()
    hub.add("acme/llama", checkpoint())
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfHub", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield hub
    hub.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def settings(upstream: Hub) -> Settings:
    return Settings(
        threads=2,
        upstream=upstream.url,
        upstream_token=SecretStr(TOKEN),
        upstream_max_file_bytes=10_000,
        upstream_max_header_bytes=20_000,
    )


@pytest.fixture(scope="module")
def app(settings: Settings) -> Iterator[FastAPI]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield create_app(settings)


@pytest.fixture(scope="module")
def twins(serve: Serve, app: FastAPI) -> Iterator[httpx.Client]:
    """A client of a service with the small Hub as its upstream."""
    with serve(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


# Twins ---------------------------------------------------------------------------------------------------------------


def test_a_twin_has_the_tensors_of_the_original_and_reads_no_byte_of_its_weights(
    twins: httpx.Client, upstream: Hub
) -> None:
    upstream.data.clear()
    for file, content in checkpoint().items():
        if file.endswith(".safetensors"):
            drawn = twins.get(f"/acme/llama/resolve/seed-7/{file}").content
            assert list(header_of(drawn).items()) == list(header_of(content).items())
            assert drawn[-50:] != content[-50:]
            assert safetensors.torch.load(drawn).keys() == safetensors.torch.load(content).keys()
    assert sum(upstream.data.values()) == 0
    assert upstream.data.keys() == set(SHARDS)  # they have been counted


def test_any_replica_draws_the_bytes_of_a_commit(serve: Serve, settings: Settings, twins: httpx.Client) -> None:
    commit = twins.get("/api/models/acme/llama/revision/seed-7").json()["sha"]
    assert commit.startswith(f"{7:016x}00")
    with serve(create_app(settings)) as url, httpx.Client(base_url=url, trust_env=False) as other:
        for file in SHARDS:
            path = f"/acme/llama/resolve/{commit}/{file}"
            assert other.get(path).content == twins.get(path).content != twins.get(path.replace(commit, "main")).content


def test_the_laws_of_a_twin_are_shown(twins: httpx.Client) -> None:
    shown: dict[str, Any] = {}
    for file in SHARDS:
        plan = twins.get(f"/acme/llama/plan/seed-7/{file}").json()
        shown |= {name: (each["scheme"], each["parameters"].get("std")) for name, each in plan["tensors"].items()}
    assert shown == {
        "model.embed_tokens.weight": ("normal", 0.5),  # by the preset, with the configuration's std
        "model.layers.0.input_layernorm.weight": ("ones", None),
        "model.layers.0.self_attn.q_proj.weight": ("normal", 0.5),
        "model.layers.0.self_attn.q_proj.weight_scale_inv": ("ones", None),
        "model.layers.0.self_attn.q_proj.bias": ("zeros", None),
        "model.layers.0.mlp.gate.weight": ("normal", 0.02),  # not in the preset
        "model.norm.weight": ("ones", None),
        "model.position_ids": ("zeros", None),
        "lm_head.weight": ("normal", 0.5),
    }
    assert twins.get("/tiny/llama/plan/main/model.safetensors").json()["tensors"]
    assert twins.get("/tiny/llama/plan/main/config.json").headers["x-error-code"] == "EntryNotFound"


GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
COMPRESSED = {"quantization_config": {"config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}}}}}

# Modules of quantized models: the configuration, and the code and the shape of each tensor.
QUANTIZED: dict[str, tuple[dict[str, Any], dict[str, tuple[str, list[int]]]]] = {
    "gptq": (
        GPTQ,
        {
            "fc.qweight": ("I32", [64, 64]),
            "fc.qzeros": ("I32", [4, 8]),
            "fc.scales": ("F16", [4, 64]),
            "fc.g_idx": ("I32", [512]),
        },
    ),
    "packed": (
        COMPRESSED,
        {
            "fc.weight_packed": ("I32", [64, 64]),
            "fc.weight_scale": ("BF16", [64, 4]),
            "fc.weight_shape": ("I64", [2]),
            "fc.weight_zero_point": ("I32", [64, 1]),
        },
    ),
    "int8": (
        {},
        {"fc.weight": ("I8", [64, 64]), "fc.weight_scale": ("F32", [64, 1]), "fc.weight_zero_point": ("I8", [64, 1])},
    ),
    "mxfp4": ({}, {"fc_blocks": ("U8", [64, 2, 16]), "fc_scales": ("U8", [64, 2])}),
    "nvfp4": ({}, {"fc.weight": ("U8", [64, 32]), "fc.weight_scale": ("F32", [64, 4]), "fc.input_scale": ("F32", [])}),
    "float4": ({}, {"fc.weight": ("F4", [64, 64]), "fc.weight_scale": ("F8_E8M0", [64, 2])}),
    "float8": ({}, {"fc.weight": ("F8_E4M3", [64, 64]), "fc.weight_scale_inv": ("F8_E8M0", [1, 1])}),
    "others": ({}, {"a.codes": ("I16", [64, 64]), "a.mask": ("BOOL", [8]), "a.position_ids": ("I32", [1, 8])}),
}
BITS = {"I64": 64, "I32": 32, "F32": 32, "I16": 16, "F16": 16, "BF16": 16, "F4": 4}


def stored(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """A file with tensors of zeros."""
    header, offset = {}, 0
    for name, (code, shape) in tensors.items():
        size = math.prod(shape) * BITS.get(code, 8) // 8
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    return with_header(header, offset)


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The four-bit codes in a tensor."""
    octets = packed.contiguous().view(torch.uint8)
    return torch.stack([octets & 15, octets >> 4], -1).flatten()


def dequantized(kind: str, at: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weights of a quantized module, as engines compute them."""
    match kind:
        case "gptq":
            return (nibbles(at["fc.qweight"]).float() - nibbles(at["fc.qzeros"])[0]) * at["fc.scales"][0, 0].float()
        case "packed":
            octets, zero = (at[name].view(torch.uint8).float() for name in ("fc.weight_packed", "fc.weight_zero_point"))
            return (octets - zero[0, 0]) * at["fc.weight_scale"][0, 0].float()
        case "mxfp4":
            return E2M1[nibbles(at["fc_blocks"]).long()] * 2.0 ** (at["fc_scales"][0, 0].float() - 127)
        case "nvfp4":
            return E2M1[nibbles(at["fc.weight"]).long()] * at["fc.weight_scale"][0, 0] * at["fc.input_scale"]
        case "float4":
            return E2M1[nibbles(at["fc.weight"].view(torch.uint8)).long()] * at["fc.weight_scale"][0, 0].float()
        case "float8":
            return at["fc.weight"].float() * at["fc.weight_scale_inv"].float()
    return at["fc.weight"].float() * at["fc.weight_scale"]


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_weights_are_drawn_and_have_the_usual_scale(
    twins: httpx.Client, upstream: Hub, tmp_path: Path, kind: str
) -> None:
    config, tensors = QUANTIZED[kind]
    original = stored(tensors)
    upstream.add(f"acme/{kind}", {"config.json": json.dumps(config).encode(), "model.safetensors": original})
    drawn = twins.get(f"/acme/{kind}/resolve/seed-3/model.safetensors").content
    found = header_of(drawn)
    assert {name: (each["dtype"], each["shape"]) for name, each in found.items()} == tensors
    assert upstream.data["model.safetensors"] == 0
    (tmp_path / "model.safetensors").write_bytes(drawn)
    loaded = safetensors.torch.load_file(tmp_path / "model.safetensors")  # load() does not know F4
    assert loaded.keys() == tensors.keys()
    if kind == "others":
        assert loaded["a.codes"].float().std() == pytest.approx(2**16 / 12**0.5, rel=0.1)
        assert not loaded["a.mask"].any()
        assert not loaded["a.position_ids"].any()
        return
    weights = dequantized(kind, loaded)
    assert weights.std().item() == pytest.approx(0.02, rel=0.2)
    assert abs(weights.mean().item()) < 0.003
    if kind == "gptq":
        assert not loaded["fc.g_idx"].any()
    if kind == "packed":
        assert loaded["fc.weight_shape"].tolist() == [64, 256]


def test_a_scale_without_its_weights_is_by_the_configuration() -> None:
    def law(name: str, dtype: str, config: dict[str, Any]) -> dict[str, Any]:
        tensor = Stored(name, DTYPES[dtype], (4, 4))
        return Laws([tensor], config).of(tensor)

    assert law("fc.scales", "float16", GPTQ)["val"] == pytest.approx(0.02 / 4.61, rel=1e-3)
    assert law("fc.weight_scale", "float16", {}) == {"scheme": "ones"}
    assert law("fc_scales", "uint8", {}) == {"scheme": "constant", "val": 120.0}
    strange: list[Any] = [3, {"config_groups": 3}, {"config_groups": {"a": 3}}, {"bits": "4"}, {"bits": 5}]
    assert all(bits_of({"quantization_config": each}) is None for each in strange)


def test_a_configuration_without_the_numbers_of_its_preset_has_none() -> None:
    assert preset_of({"model_type": "gpt2", "n_layer": 2}) == {"name": "gpt2", "layers": 2, "std": 0.02}
    neox = {"model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 8}
    assert preset_of(neox) == {"name": "gpt-neox", "layers": 2, "width": 8}
    without: list[dict[str, Any]] = [{"model_type": "gpt2"}, {"model_type": ["gpt2"]}, {"model_type": "bert"}, {}]
    without += [{"model_type": "llama", "initializer_range": each} for each in ("0.02", -1, True, 1e9)]
    assert all(preset_of(each) is None for each in without)


@pytest.mark.parametrize(
    ("name", "shape", "scheme"),
    [
        ("encoder.0.LayerNorm.weight", (8,), "ones"),
        ("h.0.ln_1.bias", (8,), "zeros"),
        ("norm1.linear.weight", (8, 8), "normal"),
        ("bn1.running_var", (8,), "ones"),
        ("bn1.running_mean", (8,), "zeros"),
        ("downsample.1.weight", (8,), "ones"),
        ("conv.weight_g", (8, 1, 1), "ones"),
        ("conv.weight_v", (8, 1, 1), "normal"),
        ("attn.in_proj_bias", (8,), "zeros"),
        ("relative_attention_bias.weight", (8, 8), "normal"),
        ("cls_token", (1, 1, 8), "normal"),
    ],
)
def test_norms_are_one_and_biases_zero(name: str, shape: tuple[int, ...], scheme: str) -> None:
    tensor = Stored(name, DTYPES["float32"], shape)
    assert Laws([tensor], {}).of(tensor)["scheme"] == scheme


def test_small_files_pass_through_and_other_weights_are_left_out(twins: httpx.Client) -> None:
    model = twins.get("/api/models/acme/llama", params={"blobs": "true"}).json()
    originals = checkpoint()
    kept = ["README.md", "config.json", *SHARDS, "model.safetensors.index.json", "tokenizer.json"]
    assert [each["rfilename"] for each in model["siblings"]] == kept
    assert (model["pipeline_tag"], model["config"]) == ("text-generation", {"model_type": "llama"})
    for each in model["siblings"]:
        path = f"/acme/llama/resolve/{model['sha']}/{each['rfilename']}"
        answer, head = twins.get(path), twins.head(path)
        assert len(answer.content) == each["size"] == int(head.headers["content-length"])
        assert answer.headers["etag"] == head.headers["etag"] == f'"{each["blobId"]}"'
        assert answer.headers["x-repo-commit"] == model["sha"]
        assert twins.get(path, headers={"Range": "bytes=2-5"}).content == answer.content[2:6]
        if not path.endswith(".safetensors"):
            assert answer.content == originals[each["rfilename"]]
    for path, reason in (
        ("pytorch_model.bin", "may hold weights"),
        ("big.txt", "10001 bytes"),
        ("none.txt", "no file"),
    ):
        answer = twins.get(f"/acme/llama/resolve/main/{path}")
        assert (answer.status_code, answer.headers["x-error-code"]) == (404, "EntryNotFound")
        assert reason in answer.headers["x-error-message"]
    tree = twins.get("/api/models/acme/llama/tree/main").json()
    assert {each["path"]: each["size"] for each in tree} == {
        each["rfilename"]: each["size"] for each in model["siblings"]
    }


def test_a_dtype_is_that_of_tensors_that_are_not_quantized(twins: httpx.Client) -> None:
    resolve = "/acme/llama/resolve/seed-7-float32"
    tensors: dict[str, torch.Tensor] = {}
    for file in SHARDS:
        tensors |= safetensors.torch.load(twins.get(f"{resolve}/{file}").content)
    dtypes = {name.removeprefix("model.layers.0."): each.dtype for name, each in tensors.items()}
    assert dtypes.pop("self_attn.q_proj.weight") == torch.float8_e4m3fn
    assert dtypes.pop("model.position_ids") == torch.int64
    assert set(dtypes.values()) == {torch.float32}
    index = twins.get(f"{resolve}/model.safetensors.index.json").json()
    original = json.loads(checkpoint()["model.safetensors.index.json"])
    total = sum(each.nbytes for each in tensors.values())
    assert index == {**original, "metadata": {"total_size": total, "total_parameters": 7}}
    config = twins.get(f"{resolve}/config.json").json()
    assert (config["dtype"], config["torch_dtype"]) == ("float32", "float32")


def test_a_long_list_of_files_has_pages(twins: httpx.Client, upstream: Hub) -> None:
    content = safetensors.torch.save({"w": torch.ones(2)})
    files = {f"model-{number:05}-of-00035.safetensors": content for number in range(1, 36)}
    upstream.add("acme/many", {"a/b.txt": b"", **files, "z.txt": b""})
    found: list[str] = []
    address: str | None = "/api/models/acme/many/tree/main"
    pages = 0
    while address:
        answer = twins.get(address, headers={"X-Forwarded-Proto": "http"})
        found += [each["path"] for each in answer.json()]
        address = answer.links["next"]["url"] if answer.links else None
        assert address is None or address.startswith(str(twins.base_url))
        pages += 1
    assert found == ["a", *files, "z.txt"]
    assert pages == 3
    secure = twins.get("/api/models/acme/many/tree/main", headers={"X-Forwarded-Proto": "https"})
    assert secure.links["next"]["url"].startswith("https://")
    upstream.asked.clear()
    assert len(twins.get("/api/models/acme/many", params={"blobs": "1"}).json()["siblings"]) == 37
    assert upstream.asked.keys() == {path for path in upstream.asked if path.endswith("a/b.txt")}  # sizes are kept


def test_models_in_folders_have_numbers_of_their_own(twins: httpx.Client, upstream: Hub) -> None:
    content = safetensors.torch.save({"conv.weight": torch.ones(4, 4)})
    upstream.add("acme/pipeline", {"unet/model.safetensors": content, "vae/model.safetensors": content})
    unet, vae = (
        safetensors.torch.load(twins.get(f"/acme/pipeline/resolve/main/{folder}/model.safetensors").content)
        for folder in ("unet", "vae")
    )
    assert not torch.equal(unet["conv.weight"], vae["conv.weight"])


def test_s3_has_twins(twins: httpx.Client) -> None:
    commit = twins.get("/api/models/acme/llama").json()["sha"]
    content = twins.get(f"/acme/llama/resolve/{commit}/{SHARDS[0]}").content
    assert twins.get(f"/s3/acme/llama/{SHARDS[0]}").content == content
    assert twins.head(f"/s3/acme/llama@{commit}/{SHARDS[0]}").headers["content-length"] == str(len(content))
    listing = ElementTree.fromstring(twins.get("/s3/acme", params={"prefix": "llama@seed-3/"}).content)  # noqa: S314
    space = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}
    keys = [each.text for each in listing.findall("s3:Contents/s3:Key", space)]
    assert keys[:2] == ["llama@seed-3/README.md", "llama@seed-3/config.json"]
    assert len(keys) == 6
    assert "acme" not in twins.get("/s3").text
    assert twins.head("/s3/acme").status_code == 200
    nothing = twins.get("/s3/acme", params={"prefix": "nothing/"})
    assert (nothing.status_code, "<Key>" in nothing.text) == (200, False)
    assert "NoSuchKey" in twins.get("/s3/acme/nothing/config.json").text


def test_the_token_is_the_operator_s_and_stays_at_the_upstream(twins: httpx.Client, upstream: Hub) -> None:
    upstream.add("acme/token", checkpoint())
    upstream.headers.clear()
    answer = twins.get(f"/acme/token/resolve/main/{SHARDS[0]}", headers={"Authorization": "Bearer hf_of_the_user"})
    assert answer.status_code == 200
    sent = [(each["path"].startswith("/cdn"), each.get("authorization")) for each in upstream.headers]
    assert set(sent) == {(False, f"Bearer {TOKEN}"), (True, None)}
    assert TOKEN not in repr(Settings(upstream_token=SecretStr(TOKEN)))


# The upstream changes ------------------------------------------------------------------------------------------------


def test_a_commit_is_found_again_when_the_upstream_has_moved(
    serve: Serve, settings: Settings, app: FastAPI, twins: httpx.Client, upstream: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.add("acme/moving", {**checkpoint(), "README.md": b"old"})
    path = "/acme/moving/resolve/{}/README.md"
    old = twins.get(path.format("main"))
    upstream.add("acme/moving", {**checkpoint(), "README.md": b"new"})
    assert twins.get(path.format("main")).text == "old"  # for a minute
    cache = app.state.service.twins.cache
    now = cache.clock() + FRESH
    monkeypatch.setattr(cache, "clock", lambda: now)
    new = twins.get(path.format("seed-0"))
    assert new.text == "new"
    assert new.headers["x-repo-commit"] != old.headers["x-repo-commit"]
    with serve(create_app(settings)) as url, httpx.Client(base_url=url, trust_env=False) as other:
        commit = old.headers["x-repo-commit"]
        assert other.get(path.format(commit)).text == "old"
        upstream.behaviour["acme/moving/commits"] = lambda handler: handler.refuse(404, "")
        unknown = other.get(path.format(commit[:-1] + ("0" if commit[-1] != "0" else "1")))
        assert (unknown.status_code, unknown.headers["x-error-code"]) == (404, "RevisionNotFound")
        assert "does not list" in unknown.headers["x-error-message"]


# The upstream fails --------------------------------------------------------------------------------------------------


def ignore_ranges(handler: Handler) -> None:
    """Send a file whole, and more of it than anybody reads."""
    content = checkpoint()[SHARDS[0]]
    size = 2**28
    handler.send_response(200)
    handler.send_header("content-length", str(size))
    handler.end_headers()
    handler.wfile.write(content)
    try:
        for _ in range(size // 2**16):
            handler.wfile.write(bytes(2**16))
            handler.hub.data["ignored"] += 2**16
    except OSError:
        handler.close_connection = True


def test_an_upstream_without_ranges_is_read_up_to_the_end_of_the_header(twins: httpx.Client, upstream: Hub) -> None:
    upstream.add("acme/rangeless", checkpoint())
    upstream.behaviour["/cdn/acme/rangeless/"] = ignore_ranges
    drawn = twins.get(f"/acme/rangeless/resolve/main/{SHARDS[0]}").content
    assert header_of(drawn) == header_of(checkpoint()[SHARDS[0]])
    assert upstream.data["ignored"] < 2**25  # the buffers of the kernel


def hang(handler: Handler) -> None:
    """Answer nothing, until the tests end."""
    handler.hub.stopped.wait(30)
    handler.close_connection = True


Answer = Callable[[Handler], None]


def answering(status: int, body: bytes = b"{}", **headers: str) -> Answer:
    return lambda handler: handler.answer(
        status, body, {name.replace("_", "-"): each for name, each in headers.items()}
    )


def entry(dtype: str = "F32", shape: Any = (2,), stop: int = 8) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, stop]}}


@pytest.mark.parametrize(
    ("name", "answer", "status", "code", "said"),
    [
        ("unknown", None, 404, "RepoNotFound", "status 401"),
        ("gated", answering(403, x_error_code="GatedRepo"), 403, "GatedRepo", "WEIGHTWELL_UPSTREAM_TOKEN"),
        ("error", answering(500), 502, None, "status 500"),
        ("secret", answering(401), 502, None, "status 401"),
        ("busy", answering(429, retry_after="7"), 503, None, "status 429"),
        ("text", answering(200, b"<html>"), 502, None, "not JSON"),
        ("list", answering(200, b"[]"), 502, None, "not a JSON dict"),
        ("empty", answering(200, b"{}"), 502, None, "no sha"),
        ("short", answering(200, b"{}", content_length="99", connection="close"), 502, None, "cannot be read"),
        ("encoded", answering(200, b"{}", content_encoding="gzip"), 502, None, "as 'gzip', asked for identity"),
        ("loop", lambda handler: handler.answer(302, b"", {"location": handler.path}), 502, None, "TooManyRedirects"),
    ],
)
def test_an_upstream_that_fails_gets_a_clear_answer(
    twins: httpx.Client, upstream: Hub, name: str, answer: Answer | None, status: int, code: str | None, said: str
) -> None:
    if answer is not None:
        upstream.behaviour[f"/api/models/acme/{name}/"] = answer
    found = twins.get(f"/acme/{name}/resolve/main/config.json")
    assert (found.status_code, found.headers.get("x-error-code")) == (status, code)
    text = found.headers["x-error-message"] if status != 503 else found.json()["detail"]
    assert said in text
    assert f"acme/{name}" in text
    assert TOKEN not in str(found.headers) + found.text
    assert found.headers.get("retry-after") == ("7" if status == 503 else None)
    assert twins.get(f"/s3/acme/{name}/config.json").status_code == status


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [
        ("huge", (20_001).to_bytes(8, "little") + bytes(30_000), 413, "20001 bytes"),
        ("endless", (2**63).to_bytes(8, "little") + bytes(30_000), 413, "WEIGHTWELL_UPSTREAM_MAX_HEADER_BYTES"),
        ("lying", (5000).to_bytes(8, "little") + bytes(100), 502, "5000 bytes"),
        ("tiny", b"\2", 502, "cannot be read"),
        ("none", bytes(8), 502, "cannot be read"),
        ("no_json", with_header(b"{]"), 502, "not JSON"),
        ("nested", with_header(b"[" * 5000), 502, "not JSON"),
        ("no_object", with_header([]), 502, "not a JSON object"),
        ("no_entry", with_header({"w": 3}), 502, "'w'"),
        ("no_shape", with_header(entry(shape="ab")), 502, "'w'"),
        ("no_size", with_header(entry(shape=[-1])), 502, "'w'"),
        ("no_dtype", with_header({"w": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}), 502, "'w'"),
        ("large_size", with_header(entry(shape=[2**63])), 502, "'w'"),
        ("many_sizes", with_header(entry(shape=[2**62] * 129)), 502, "'w'"),
        ("no_bytes", with_header(entry(stop=9)), 502, "9 bytes"),
        ("shorter", with_header(entry(), 4), 502, "8 bytes of data, and the file has 4"),
        ("unknown_dtype", with_header(entry("F6_E2M3"), 8), 422, "'w' has the dtype 'F6_E2M3'"),
        ("too_many", with_header(entry(shape=[1] * 65, stop=4), 4), 422, "tensors.w: shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_header_that_cannot_be_used_gets_a_clear_answer(
    twins: httpx.Client, upstream: Hub, name: str, content: bytes, status: int, said: str
) -> None:
    upstream.add(f"acme/{name}", {"model.safetensors": content})
    found = twins.get(f"/acme/{name}/resolve/main/model.safetensors")
    assert found.status_code == status
    assert said in found.headers["x-error-message"]
    assert twins.get(f"/s3/acme/{name}/model.safetensors").status_code == status


def test_an_upstream_that_does_not_answer_is_a_504(serve: Serve, settings: Settings, upstream: Hub) -> None:
    upstream.behaviour["/api/models/acme/hanging/"] = hang
    impatient = settings.model_copy(update={"upstream_timeout": 0.5})
    with serve(create_app(impatient)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        found = client.get("/acme/hanging/resolve/main/config.json")
        assert found.status_code == 504
        assert "within 0.5 s (WEIGHTWELL_UPSTREAM_TIMEOUT)" in found.headers["x-error-message"]
        assert client.get("/s3/acme/hanging/config.json").status_code == 504
        assert client.get("/tiny/llama/resolve/main/config.json").status_code == 200


def test_an_upstream_that_cannot_be_reached_is_a_502(serve: Serve, twins: httpx.Client, settings: Settings) -> None:
    assert twins.get("/acme/llama/resolve/main/config.json").status_code == 200
    nowhere = settings.model_copy(update={"upstream": "http://127.0.0.1:9"})
    with serve(create_app(nowhere)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        found = client.get("/acme/llama/resolve/main/config.json")
        assert (found.status_code, "ConnectError" in found.headers["x-error-message"]) == (502, True)
        assert client.get("/tiny/llama/resolve/main/config.json").status_code == 200


@pytest.mark.parametrize(
    "path", ["/a%2e/..%2f/resolve/main/config.json", "/a b/c/resolve/main/x", "/x/y%00/resolve/main/x"]
)
def test_names_that_no_repository_has_are_not_sent_to_the_upstream(
    twins: httpx.Client, upstream: Hub, path: str
) -> None:
    upstream.asked.clear()
    assert twins.get(path).status_code == 404
    assert not upstream.asked


# What is read is kept ------------------------------------------------------------------------------------------------


def test_everything_is_read_once(twins: httpx.Client, upstream: Hub) -> None:
    upstream.add("acme/once", checkpoint())
    upstream.asked.clear()
    for seed in range(5):
        for file in (*SHARDS, "config.json"):
            assert twins.head(f"/acme/once/resolve/seed-{seed}/{file}").status_code == 200
    assert set(upstream.asked.values()) == {1, 2}  # two ranges of each weight file
    assert len(upstream.asked) == 2 + 2 * len(SHARDS)


def test_a_thousand_requests_at_once_load_once() -> None:
    loads = []

    async def load() -> tuple[str, int]:
        loads.append(1)
        await asyncio.sleep(0)
        return "value", 5

    async def run() -> None:
        cache = SharedCache(10_000)
        assert set(await asyncio.gather(*(cache.get("key", load) for _ in range(1000)))) == {"value"}
        assert len(loads) == 1

    asyncio.run(run())


def test_a_request_that_is_cancelled_does_not_cancel_the_load_of_others() -> None:
    async def run() -> None:
        cache, go = SharedCache(10_000), asyncio.Event()

        async def load() -> tuple[str, int]:
            await go.wait()
            return "value", 5

        first, second = (asyncio.ensure_future(cache.get("key", load)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        go.set()
        assert await second == "value"

    asyncio.run(run())


def test_values_and_errors_have_their_time_and_the_least_recent_leave() -> None:
    now = [0.0]
    loads: Counter[str] = Counter()

    def load(key: str, nbytes: int = 400) -> Callable[[], Any]:
        async def made() -> tuple[str, int]:
            loads[key] += 1
            if key == "error":
                raise UpstreamError("no")
            return key, nbytes

        return made

    async def run() -> None:
        cache = SharedCache(2000, clock=lambda: now[0])
        for _ in range(2):
            assert await cache.get("short", load("short"), lifetime=5) == "short"
            with pytest.raises(UpstreamError):
                await cache.get("error", load("error"))
        assert loads == {"short": 1, "error": 1}
        now[0] = max(ERRORS, 5)
        await cache.get("short", load("short"), lifetime=5)
        with pytest.raises(UpstreamError):
            await cache.get("error", load("error"))
        assert loads == {"short": 2, "error": 2}
        await cache.get("other", load("other"))
        await cache.get("large", load("large", 5000))  # it does not fit
        await cache.get("large", load("large", 5000))
        assert loads["large"] == 2
        await cache.get("third", load("third"))
        await cache.get("short", load("short"), lifetime=5)  # it has left
        assert loads["short"] == 3

    asyncio.run(run())


def test_a_list_that_is_too_long_is_refused(
    twins: httpx.Client, upstream: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weightwell_service.repositories import upstream as module

    monkeypatch.setattr(module, "_MOST_JSON", 100)
    upstream.behaviour["/api/models/acme/long/"] = answering(200, bytes(101))
    found = twins.get("/acme/long/resolve/main/config.json")
    assert (found.status_code, "more than the 100 bytes" in found.headers["x-error-message"]) == (413, True)
