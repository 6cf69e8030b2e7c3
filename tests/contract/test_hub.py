"""Programs that know nothing of Weightwell load models from it: huggingface_hub and transformers, unchanged."""

import hashlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
import transformers
from fastapi import FastAPI

import weightwell
from weightwell.__main__ import main
from weightwell_service.app import create_app
from weightwell_service.repositories.library import BUILT_IN, library
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

PROGRAM = Path(__file__).parent / "clients" / "transformers_client.py"
LIMIT = 100_000  # bytes of a weight file, so that the model has several


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one repository, which `weightwell export` has written."""
    folder = tmp_path_factory.mktemp("repositories")
    source = str(BUILT_IN / "tiny" / "llama")
    assert main(["export", source, "-o", str(folder / "acme" / "sharded")]) == 0
    return folder


@pytest.fixture(scope="module")
def url(serve: Serve, repositories: Path) -> Any:
    with serve(create_app(Settings(threads=2, repositories=repositories, max_shard_bytes=LIMIT))) as url:
        yield url


@pytest.fixture(scope="module")
def found(url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program has found."""
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path_factory.mktemp("hub")), "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, PROGRAM], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_that_are_loaded_are_those_that_the_client_fills(found: dict[str, Any], dtype: str) -> None:
    program = runpy.run_path(str(PROGRAM))
    suffix = "" if dtype == "float32" else f"-{dtype}"
    for name, kind in program["MODELS"].items():
        folder = BUILT_IN / ("tiny/llama" if name == "acme/sharded" else name)
        config = transformers.AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = kind.from_config(config).to(getattr(torch, dtype))
        with weightwell.local(threads=2) as client:
            client.init_module_(model, seed=42, device="cpu")
        expected = [f"torch.{dtype}", program["digest"](model)]
        assert found["models"][f"{name} seed-42{suffix}"] == expected, name


def test_ties_are_those_of_the_models(found: dict[str, Any]) -> None:
    assert found["ties"] == {
        "tiny/gpt2": True,
        "tiny/llama": False,
        "tiny/qwen3-moe": True,
        "tiny/bert": True,
        "acme/sharded": False,
    }


def test_a_tokenizer_and_generation_work(found: dict[str, Any]) -> None:
    assert found["text"] == "hello"
    assert found["generated"] == [1, 9]


def test_the_hub_s_client_finds_what_is_there_and_what_is_not(found: dict[str, Any]) -> None:
    assert "model.safetensors.index.json" in found["files"]
    assert found["exists"] == [True, False]
    assert found["revisions"] == [True, False]
    assert found["paths"] == ["config.json"]
    assert found["parameters"] == {"F32": 136960}
    assert found["listed"] == ["acme/sharded"]
    assert found["errors"] == ["RemoteEntryNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError"]


def test_a_downloaded_file_is_that_of_the_service_and_is_kept(found: dict[str, Any], url: str) -> None:
    files = httpx.get(f"{url}/api/models/tiny/gpt2/tree/seed-7", trust_env=False).json()
    name = next(each["path"] for each in files if each["path"].endswith(".safetensors"))
    content = httpx.get(f"{url}/tiny/gpt2/resolve/seed-7/{name}", trust_env=False).content
    assert found["sha"] == hashlib.sha256(content).hexdigest()
    assert found["cached"]
    assert found["head"] == '{"__metadata__":{'
    assert [name for name in found["snapshot"] if "-00001-of-" in name] == ["model-00001-of-00005.safetensors"]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "qwen3-moe", "vit"])
def test_the_manifests_that_come_with_the_service_are_what_export_writes(name: str, tmp_path: Path) -> None:
    source = BUILT_IN / "tiny" / name
    assert main(["export", str(source), "-o", str(tmp_path / "a" / "b")]) == 0
    assert json.loads((tmp_path / "a" / "b" / "manifest.json").read_text()) == json.loads(
        (source / "manifest.json").read_text()
    )
    assert library(tmp_path, 10**9)["a/b"].files == library(None, 10**9)[f"tiny/{name}"].files


def test_a_twin_of_a_model_loads_as_the_model_does(
    serve: Serve, url: str, repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serve(create_app(Settings(threads=2, upstream=url))) as twins:
        folder = huggingface_hub.snapshot_download(
            "acme/sharded", revision="seed-5-bfloat16", endpoint=twins, cache_dir=tmp_path, allow_patterns="[!.]*"
        )
    original = transformers.AutoConfig.from_pretrained(repositories / "acme" / "sharded")
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, loading = loaded
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model.config.hidden_size == original.hidden_size
    scale = model.model.layers[0].mlp.up_proj.weight.float().std().item()
    assert scale == pytest.approx(original.initializer_range, rel=0.1)
    assert (model.model.norm.weight == 1).all()
    assert len(list(Path(folder).glob("*.safetensors"))) > 1


def test_export_takes_a_preset_and_a_function(tmp_path: Path) -> None:
    out = str(tmp_path / "a" / "b")
    assert (
        main(["export", str(BUILT_IN / "tiny" / "llama"), "-o", out, "--preset", "llama", "--dtype", "bfloat16"]) == 0
    )
    manifest = json.loads((tmp_path / "a" / "b" / "manifest.json").read_text())
    assert (manifest["preset"], manifest["dtype"]) == ("llama", "bfloat16")
    assert main(["export", "torch.nn:Identity", "-o", str(tmp_path / "a" / "c")]) == 2
