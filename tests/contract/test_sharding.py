"""Sharded checkpoints: the files that ``save_pretrained`` would write, by the client and by the service."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import torch
import transformers
from fastapi import FastAPI
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file

import weightwell
from weightwell import sharding
from weightwell.__main__ import main
from weightwell.files.part import Part
from weightwell_service.app import create_app
from weightwell_service.repositories import sharding as of_service
from weightwell_service.repositories.library import BUILT_IN
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
FILES = [*SHARDS, "model.safetensors.index.json"]
MANIFEST: dict[str, Any] = {
    "seed": 2**63 + 1,
    "dtype": "bfloat16",
    "preset": "torch",
    "rules": [{"match": "wte.*", "scheme": "normal", "std": 0.02, "dtype": "float32"}],
    "tensors": {
        "wte.weight": {"shape": [40, 8]},  # 1280 bytes
        "fc.weight": {"shape": [16, 8], "module": "Linear"},  # 256
        "embed.weight": {"shape": [30, 8], "scheme": "normal", "parts": [{"slice": "0:1", "scheme": "zeros"}]},  # 480
        "copy": {"shape": [4, 4], "scheme": "orthogonal", "stream": "other", "dtype": "float32"},  # 64
        "fc.bias": {"shape": [16], "module": "Linear"},  # 32, by the shape of fc.weight, in another file
        "slice": {"shape": [10, 4], "scheme": "trunc_normal", "slice": "0:5"},  # 40
        "lm_head.weight": {"alias": "wte.weight"},
    },
}
LIMIT = 650


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the files, by the index."""
    index = json.loads((folder / sharding.INDEX).read_text())
    found: dict[str, torch.Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        loaded = load_file(folder / file)
        assert {name for name, place in index["weight_map"].items() if place == file} == set(loaded)
        found |= loaded
    assert sum(each.nbytes for each in found.values()) == index["metadata"]["total_size"]
    return found


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are written, in order."""
    found: list[str] = []
    commit = Part.commit

    def counted(self: Part) -> None:
        commit(self)
        found.append(self._path.name)

    monkeypatch.setattr(Part, "commit", counted)
    return found


@pytest.fixture
def client(door: str) -> Any:
    with weightwell.Client(door) as client:
        yield client


# The rule ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [sharding, of_service], ids=["client", "service"])
@pytest.mark.parametrize("seed", range(20))
def test_the_rule_is_that_of_huggingface_hub(module: ModuleType, seed: int) -> None:
    chosen = random.Random(seed)  # noqa: S311 - test data
    sizes = [
        (f"t{place}", chosen.choice([1, 300, 399, 400, 699, 700, 701, 5000])) for place in range(chosen.randint(1, 30))
    ]
    state = {name: torch.zeros(size, dtype=torch.uint8) for name, size in sizes}
    expected = split_torch_state_dict_into_shards(state, max_shard_size=700)
    files = module.divided(sizes, 700)
    named = dict(zip(module.file_names(len(files)), files, strict=True))
    assert named == expected.filename_to_tensors
    total = sum(size for _, size in sizes)
    index = json.loads(module.index(list(named.items()), total))
    assert index["weight_map"] == expected.tensor_to_filename
    assert index["metadata"]["total_size"] == expected.metadata["total_size"]
    assert module.index(list(named.items()), total) == of_service.index(list(named.items()), total)


@pytest.mark.parametrize(
    ("size", "nbytes"), [(1, 1), ("5GB", 5 * 10**9), ("1.5 kb", 1500), ("7B", 7), ("2TB", 2 * 10**12)]
)
def test_a_size_is_a_number_or_text(size: int | str, nbytes: int) -> None:
    assert sharding.bytes_of(size) == nbytes


@pytest.mark.parametrize("size", [0, -1, True, "", "5", "5GiB", "-5GB", "0GB", "GB"])
def test_other_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="such as '5GB'"):
        sharding.bytes_of(size)


# Files ---------------------------------------------------------------------------------------------------------------


def test_the_files_have_the_tensors_of_the_manifest(client: weightwell.Client, tmp_path: Path) -> None:
    client.save(tmp_path / "new" / "model", MANIFEST, max_shard_size=LIMIT)
    assert names(tmp_path / "new" / "model") == FILES
    found, expected = tensors(tmp_path / "new" / "model"), client.init_state_dict(MANIFEST, framework="torch")
    assert found.keys() == expected.keys() - {"lm_head.weight"}
    assert all(torch.equal(each, expected[name]) for name, each in found.items())
    assert {name: each.dtype for name, each in found.items()} == {name: expected[name].dtype for name in found}
    assert all(client.verify(tmp_path / "new" / "model" / name).same for name in SHARDS)


def test_a_small_model_is_one_file_with_the_bytes_of_a_plain_save(client: weightwell.Client, tmp_path: Path) -> None:
    client.save(tmp_path / "plain.safetensors", MANIFEST)
    client.save(tmp_path / "model", MANIFEST, max_shard_size="5GB")
    assert names(tmp_path / "model") == ["model.safetensors"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


def test_one_tensor_is_one_file(client: weightwell.Client, tmp_path: Path) -> None:
    for generator in (None, "torch"):
        fields: Any = {"seed": 3, "generator": generator, "a": 0.2}
        client.save(tmp_path / "plain.safetensors", (20, 10), "kaiming_normal", **fields)
        client.save(tmp_path / "model", (20, 10), "kaiming_normal", max_shard_size=10, **fields)
        there = (tmp_path / "model" / "model.safetensors").read_bytes()
        assert there == (tmp_path / "plain.safetensors").read_bytes()


def test_an_asynchronous_client_writes_the_same_files(door: str, tmp_path: Path) -> None:
    async def save() -> None:
        async with weightwell.AsyncClient(door) as client:
            await client.save(tmp_path / "b", MANIFEST, max_shard_size=LIMIT)

    asyncio.run(save())
    with weightwell.Client(door) as client:
        client.save(tmp_path / "a", MANIFEST, max_shard_size=LIMIT)
    assert names(tmp_path / "a") == names(tmp_path / "b")
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in FILES)


def test_the_files_are_those_of_a_repository(serve: Serve, tmp_path: Path) -> None:
    limit = 100_000
    source = BUILT_IN / "tiny" / "llama"
    with (
        serve(create_app(Settings(threads=2, max_shard_bytes=limit))) as url,
        weightwell.Client(url) as client,
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        client.save(tmp_path, weightwell.Manifest.from_file(source / "manifest.json"), max_shard_size=limit)
        assert len(names(tmp_path)) > 3
        for name in names(tmp_path):
            assert (tmp_path / name).read_bytes() == http.get(f"/tiny/llama/resolve/main/{name}").content


def test_transformers_loads_the_folder(tmp_path: Path) -> None:
    source = BUILT_IN / "tiny" / "gpt2"  # with tied weights
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    with weightwell.local(threads=2) as client:
        client.save(
            tmp_path, weightwell.Manifest.from_file(source / "manifest.json"), max_shard_size="100KB", verify=True
        )
        loader: Any = transformers.AutoModelForCausalLM
        model = loader.from_pretrained(tmp_path)
        config = transformers.AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            other = loader.from_config(config)
        client.init_module_(other, seed=0, device="cpu")
    assert len(names(tmp_path)) > 4
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(torch.equal(each, other.state_dict()[name]) for name, each in model.state_dict().items())


# Saving again --------------------------------------------------------------------------------------------------------


def test_complete_files_are_kept_and_others_are_drawn(
    client: weightwell.Client, tmp_path: Path, written: list[str]
) -> None:
    client.save(tmp_path, MANIFEST, max_shard_size=LIMIT)
    assert written == SHARDS
    content = {name: (tmp_path / name).read_bytes() for name in FILES}
    (tmp_path / SHARDS[0]).unlink()
    (tmp_path / SHARDS[1]).write_bytes(content[SHARDS[1]][:-1])
    written.clear()
    client.save(tmp_path, MANIFEST, max_shard_size=LIMIT)
    assert written == SHARDS[:2]
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == content
    written.clear()
    client.save(tmp_path, MANIFEST, max_shard_size=LIMIT, verify=True)
    assert written == SHARDS


@pytest.mark.parametrize("limit", [LIMIT, 10_000])
@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"dtype": "float16"}, {"rules": [{"match": "wte.*", "scheme": "normal", "std": 0.03}]}]
)
def test_files_of_another_manifest_are_drawn_again(
    tmp_path: Path, written: list[str], changed: dict[str, Any], limit: int
) -> None:
    with weightwell.local(threads=1) as client:
        client.save(tmp_path, {**MANIFEST, "dtype": "float32"}, max_shard_size=limit)
    written.clear()
    with weightwell.local(threads=1) as client:
        client.save(tmp_path, {**MANIFEST, "dtype": "float32", **changed}, max_shard_size=limit)
        assert written
        assert all(client.verify(each).same for each in tmp_path.glob("*.safetensors"))
        expected = client.init_state_dict({**MANIFEST, "dtype": "float32", **changed}, framework="torch")
    for each in tmp_path.glob("*.safetensors"):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(each).items())


def test_weight_files_of_an_earlier_checkpoint_are_removed(client: weightwell.Client, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_text("mine")
    others = ["adapter_model.safetensors", "config.json"]
    client.save(tmp_path, MANIFEST, max_shard_size="5GB")
    client.save(tmp_path, MANIFEST, max_shard_size=LIMIT)
    assert names(tmp_path) == [*others, *FILES]
    client.save(tmp_path, MANIFEST, max_shard_size="5GB")
    assert names(tmp_path) == [*others, "model.safetensors"]


def test_an_interrupted_checkpoint_has_no_index_and_is_continued(
    client: weightwell.Client, tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Part.commit

    def interrupted(self: Part) -> None:
        if self._path.name == SHARDS[1]:
            raise KeyboardInterrupt
        commit(self)

    monkeypatch.setattr(Part, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.save(tmp_path, MANIFEST, max_shard_size=LIMIT)
    monkeypatch.setattr(Part, "commit", commit)
    assert written == SHARDS[:1]
    assert sharding.INDEX not in names(tmp_path)
    client.save(tmp_path, MANIFEST, max_shard_size=LIMIT)
    assert written == SHARDS
    assert names(tmp_path) == FILES


# One task a file -----------------------------------------------------------------------------------------------------


def test_tasks_write_one_file_each_and_the_last_save_the_index(
    client: weightwell.Client, tmp_path: Path, written: list[str]
) -> None:
    assert client.shards(MANIFEST, max_shard_size=LIMIT) == SHARDS
    for name in SHARDS[::-1][:2]:
        client.save(tmp_path / "a", MANIFEST, max_shard_size=LIMIT, shard=name)
    assert written == names(tmp_path / "a")[::-1] == SHARDS[::-1][:2]
    client.save(tmp_path / "a", MANIFEST, max_shard_size=LIMIT)
    assert written == SHARDS[::-1]
    client.save(tmp_path / "b", MANIFEST, max_shard_size=LIMIT)
    assert names(tmp_path / "a") == names(tmp_path / "b")
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in FILES)


def test_an_asynchronous_task_writes_the_same_file(door: str, tmp_path: Path) -> None:
    async def save() -> list[str]:
        async with weightwell.AsyncClient(door) as client:
            await client.save(tmp_path, MANIFEST, max_shard_size=LIMIT, shard=SHARDS[1])
            return await client.shards(MANIFEST, max_shard_size=LIMIT)

    assert asyncio.run(save()) == SHARDS
    assert names(tmp_path) == [SHARDS[1]]


def test_one_tensor_has_one_file(client: weightwell.Client, tmp_path: Path) -> None:
    assert client.shards((20, 10), "kaiming_normal", max_shard_size=10) == ["model.safetensors"]
    client.save(tmp_path, (20, 10), "kaiming_normal", max_shard_size=10, shard="model.safetensors")
    assert names(tmp_path) == ["model.safetensors"]


# The configuration ---------------------------------------------------------------------------------------------------

CONFIG = {"model_type": "gpt2", "torch_dtype": "float32"}


@pytest.mark.parametrize("kind", [dict, str, Path, transformers.GPT2Config])
@pytest.mark.parametrize("limit", [LIMIT, 10_000])
def test_the_configuration_says_the_dtype_of_the_weights(tmp_path: Path, kind: type, limit: int) -> None:
    config: Any = CONFIG if kind is dict else transformers.GPT2Config(n_layer=3)
    if kind in {str, Path}:
        (tmp_path / "gpt2.json").write_text(json.dumps(CONFIG))
        config = kind(tmp_path / "gpt2.json")
    with weightwell.local(threads=1) as client:
        client.save(tmp_path / "model", MANIFEST, max_shard_size=limit, config=config)
    found = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (found["model_type"], found["dtype"]) == ("gpt2", "bfloat16")
    assert found.get("torch_dtype", "bfloat16") == "bfloat16"
    assert kind is not transformers.GPT2Config or found["n_layer"] == 3


def test_an_asynchronous_client_writes_the_configuration(door: str, tmp_path: Path) -> None:
    async def save() -> None:
        async with weightwell.AsyncClient(door) as client:
            await client.save(tmp_path, MANIFEST, max_shard_size=LIMIT, config=CONFIG)

    asyncio.run(save())
    assert names(tmp_path) == ["config.json", *FILES]


# Errors --------------------------------------------------------------------------------------------------------------


def test_an_unused_rule_is_said_once(client: weightwell.Client, tmp_path: Path) -> None:
    manifest = {**MANIFEST, "rules": [*MANIFEST["rules"], {"match": "none", "scheme": "ones"}]}
    with pytest.warns(weightwell.UnusedRuleWarning, match="none") as caught:
        client.save(tmp_path, manifest, max_shard_size=LIMIT)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_folder_is_needed(client: weightwell.Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        client.save(tmp_path / "file", MANIFEST, max_shard_size=LIMIT)
    with (tmp_path / "file").open("wb") as file, pytest.raises(TypeError, match="path of a folder"):
        client.save(file, MANIFEST, max_shard_size=LIMIT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": SHARDS[0]}, "shard= needs max_shard_size="),
        ({"config": {}}, "config= needs max_shard_size="),
        ({"max_shard_size": LIMIT, "shard": SHARDS[0], "config": {}}, "which comes last"),
        ({"max_shard_size": LIMIT, "shard": "model.safetensors"}, f"a name from {SHARDS[0]} to {SHARDS[2]}; got 'mod"),
        ({"max_shard_size": LIMIT, "config": [1]}, r"config must be a dict, .* got \[1\]"),
    ],
)
def test_wrong_arguments_are_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with weightwell.local(threads=1) as client, pytest.raises((TypeError, ValueError), match=message):
        client.save(tmp_path / "model", MANIFEST, **options)
    assert not list(tmp_path.rglob("model*.safetensors"))


def test_the_command_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    save = ["--local", "save", str(tmp_path / "manifest.json"), "--max-shard-size"]
    assert main([*save, "0.65KB", "-o", str(tmp_path / "model")]) == 0
    assert names(tmp_path / "model") == FILES
    (tmp_path / "gpt2.json").write_text(json.dumps(CONFIG))
    config = ["--config", str(tmp_path / "gpt2.json")]
    assert main([*save, "0.65KB", "-o", str(tmp_path / "model"), *config]) == 0
    assert names(tmp_path / "model") == ["config.json", *FILES]
    assert main([*save[:3], "-o", str(tmp_path / "file"), *config]) == 2
    assert "--config needs --max-shard-size" in capsys.readouterr().err
    assert main([*save, "650"]) == 2
    assert "needs a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*save, "many", "-o", str(tmp_path / "model")])
    assert "such as '5GB'" in capsys.readouterr().err
