"""The loaders of vLLM and SGLang make these calls. The engines themselves need a GPU; their calls do not.

vLLM: DefaultModelLoader._prepare_weights in vllm/model_executor/model_loader/default_loader.py, and weight_utils.py
next to it. SGLang: python/sglang/srt/model_loader/weight_utils.py, which first looks for the snapshot of a commit in
the cache.
"""

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

import weightwell
from pytest_weightwell.redirection import redirected
from tests.counting import Serve, Server, counting_server
from weightwell_service.repositories.library import BUILT_IN

INDEX = "model.safetensors.index.json"
LLAMA = BUILT_IN / "tiny" / "llama"

# Most bytes of a weight file: acme/sharded (float64) has two, and tiny/llama (float32) has one.
LIMIT = 600_000


def manifest() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((LLAMA / "manifest.json").read_text())
    return {**document, "dtype": "float64"}


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the sharded model, which huggingface_hub in this process loads from."""
    folder = tmp_path_factory.mktemp("repositories")
    (folder / "acme" / "sharded").mkdir(parents=True)
    (folder / "acme" / "sharded" / "manifest.json").write_text(json.dumps(manifest()))
    (folder / "acme" / "sharded" / "config.json").write_bytes((LLAMA / "config.json").read_bytes())
    home = tmp_path_factory.mktemp("home")
    with counting_server(serve, folder, LIMIT) as server, redirected(server.url, home):
        yield server


def chosen(model: str, revision: str) -> list[str]:
    """Return the patterns of the files that vLLM downloads: those of the index, or the first kind that is there."""
    if fnmatch.filter(list_repo_files(repo_id=model, revision=revision), "consolidated*.safetensors"):
        return ["consolidated*.safetensors"]
    files: Any = HfFileSystem().ls(model, detail=False, revision=revision)
    if f"{model}/{INDEX}" in files:
        index = Path(hf_hub_download(repo_id=model, filename=INDEX, revision=revision))
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return next([pattern] for pattern in ("*.safetensors", "*.bin") if fnmatch.filter(files, pattern))


def weight_files(model: str, revision: str) -> list[Path]:
    """Download the weights as vLLM does, and return the files that the index names."""
    patterns = chosen(model, revision)
    folder = Path(
        snapshot_download(model, allow_patterns=patterns, ignore_patterns=["original/**/*"], revision=revision)
    )
    found = sorted(folder.glob("*.safetensors"))
    try:
        index = Path(hf_hub_download(repo_id=model, filename=INDEX, revision=revision))
    except EntryNotFoundError:
        return found
    listed = set(json.loads(index.read_text())["weight_map"].values())
    return [path for path in found if path.name in listed]


def weights(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors as ``safetensors_weights_iterator`` does."""
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                yield name, file.get_tensor(name)


@pytest.mark.parametrize(
    ("model", "revision", "dtype", "count"),
    [
        ("acme/sharded", "seed-42", "float64", 2),
        ("acme/sharded", "seed-42-bfloat16", "bfloat16", 1),
        ("tiny/llama", "seed-42", "float32", 1),
    ],
)
def test_the_loader_of_vllm_gets_the_tensors_that_a_client_draws(
    server: Server, model: str, revision: str, dtype: str, count: int
) -> None:
    begin = len(server.sent)
    files = weight_files(model, revision)
    assert len(files) == count
    found = dict(weights(files))
    with weightwell.local(threads=2) as client:
        expected = client.init_state_dict({**manifest(), "seed": 42, "dtype": dtype}, framework="torch")
    assert found.keys() == expected.keys()
    assert all(torch.equal(each, expected[name]) for name, each in found.items())
    assert {each.dtype for each in found.values()} == {getattr(torch, dtype)}
    sent = server.since(begin)
    for path in files:
        assert sent.nbytes("/resolve", path.name) == path.stat().st_size


def test_loading_again_transfers_no_weights(server: Server) -> None:
    files = weight_files("acme/sharded", "seed-43")
    begin = len(server.sent)
    assert weight_files("acme/sharded", "seed-43") == files
    assert server.since(begin).of("/resolve") == []


def test_the_loader_of_sglang_finds_the_snapshot_of_a_commit(server: Server) -> None:
    commit = HfApi().model_info("acme/sharded", revision="seed-44").sha
    assert commit is not None
    files = weight_files("acme/sharded", commit)
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    folder = cache / "models--acme--sharded" / "snapshots" / commit
    assert sorted(folder.glob("*.safetensors")) == files
    listed = json.loads((folder / INDEX).read_text())["weight_map"].values()
    assert all((folder / name).exists() for name in listed)
    begin = len(server.sent)
    offline: Any = {"local_files_only": True, "allow_patterns": ["*.safetensors"]}
    assert Path(snapshot_download("acme/sharded", revision=commit, **offline)) == folder
    assert server.sent[begin:] == []


def test_files_are_found_by_patterns_with_their_sizes(server: Server) -> None:
    del server
    files: Any = HfFileSystem()
    found = files.glob("acme/sharded@seed-45/*.safetensors", detail=True)
    info = HfApi().model_info("acme/sharded", revision="seed-45", files_metadata=True)
    sizes = {each.rfilename: each.size for each in info.siblings or () if each.rfilename.endswith(".safetensors")}
    assert {Path(name).name: each["size"] for name, each in found.items()} == sizes
    assert len(sizes) == 2
    assert all(each.lfs is None for each in info.siblings or ())
    assert str(files.modified("acme/sharded@seed-45/config.json")) == "1980-01-01 00:00:00+00:00"
    assert HfApi().get_safetensors_metadata("acme/sharded", revision="seed-45").parameter_count.keys() == {"F64"}
