"""The door of the Hub: its routes, header fields and errors, and the repositories behind them."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.numpy
from fastapi import FastAPI

from weightwell_service.app import create_app
from weightwell_service.repositories import sharding
from weightwell_service.repositories.library import BUILT_IN, InvalidRepository, library
from weightwell_service.repositories.revision import Revision
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

MANIFEST: dict[str, Any] = {
    "dtype": "float32",
    "rules": [{"match": "*.bias", "scheme": "zeros"}, {"match": "*", "scheme": "normal", "std": 0.02}],
    "tensors": {
        "wte.weight": {"shape": [40, 8]},
        "norm.weight": {"shape": [8], "scheme": "ones", "dtype": "float32"},
        "fc.weight": {"shape": [16, 8]},
        "fc.bias": {"shape": [16]},
        "lm_head.weight": {"alias": "wte.weight"},
    },
}
DIGEST = "0123456789abcdef012345"


def write(folder: Path, manifest: Any = MANIFEST, **files: str) -> None:
    """Write a repository."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture(scope="module")
def hub(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service with a repository of one file, and weight files of at most 600 bytes."""
    folder = tmp_path_factory.mktemp("repositories")
    write(folder / "acme" / "model", config__json='{"model_type": "gpt2", "torch_dtype": "float16"}', README__md="Hi\n")
    (folder / "acme" / "model" / "data").mkdir()
    (folder / "acme" / "model" / "data" / "words.txt").write_text("a b c")
    settings = Settings(threads=2, repositories=folder, max_shard_bytes=600)
    with serve(create_app(settings)) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


# Revisions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("main", Revision()),
        ("HEAD", Revision()),
        ("seed-0", Revision()),
        ("seed-42", Revision(42)),
        ("seed-18446744073709551615", Revision(2**64 - 1)),
        ("seed-42-bfloat16", Revision(42, "bfloat16")),
    ],
)
def test_a_revision_is_a_seed_and_a_dtype_and_its_commit_says_the_same(name: str, revision: Revision) -> None:
    assert Revision.of(name, DIGEST) == revision
    commit = revision.commit(DIGEST)
    assert len(commit) == 40
    assert Revision.of(commit, DIGEST) == revision
    assert Revision.of(revision.name, DIGEST) == revision


@pytest.mark.parametrize(
    "name",
    [
        *("", "master", "seed-", "seed--1", "seed-01", "seed-18446744073709551616", "seed-1-int64", "seed-1-"),
        *("0" * 39, "0" * 40, f"{0:016x}ff{DIGEST}", f"{0:016x}00{DIGEST}".upper()),
    ],
)
def test_other_names_are_no_revisions(name: str) -> None:
    assert Revision.of(name, DIGEST) is None


def test_a_commit_changes_with_every_file_of_the_repository(tmp_path: Path) -> None:
    commits = set()
    for text, shard in (("{}", 10), ("{ }", 10), ("{}", 20)):
        write(tmp_path / "a" / "b", config__json=text)
        repository = library(tmp_path, shard)["a/b"]
        commits.add(repository.commit(Revision()))
    assert len(commits) == 3


# Shards --------------------------------------------------------------------------------------------------------------


def test_tensors_are_divided_as_transformers_divides_them() -> None:
    hub = pytest.importorskip("huggingface_hub")
    sizes = [("a", 300), ("b", 300), ("c", 300), ("d", 2000), ("e", 10), ("f", 690), ("g", 1)]
    torch = pytest.importorskip("torch")
    state = {name: torch.zeros(size, dtype=torch.uint8) for name, size in sizes}
    expected = hub.split_torch_state_dict_into_shards(state, max_shard_size=700)
    files = sharding.divided(sizes, 700)
    names = sharding.file_names(len(files))
    assert dict(zip(names, files, strict=True)) == expected.filename_to_tensors
    index = json.loads(sharding.index(list(zip(names, files, strict=True)), 3601))
    assert index["weight_map"] == expected.tensor_to_filename
    assert index["metadata"]["total_size"] == expected.metadata["total_size"]


def test_the_law_of_a_tensor_may_depend_on_one_in_another_file(tmp_path: Path) -> None:
    linear = {"fc.weight": {"shape": [16, 8], "module": "Linear"}, "fc.bias": {"shape": [16], "module": "Linear"}}
    write(tmp_path / "a" / "b", {"preset": "torch", "tensors": linear})
    repository = library(tmp_path, 100)["a/b"]
    whole = library(tmp_path, 10**9)["a/b"]
    files = repository.checkpoint(Revision(3)).weights
    assert len(files) == 2
    found = [each for file in files.values() for each in repository.spec(file, Revision(3)).tensors]
    (single,) = whole.checkpoint(Revision(3)).weights.values()
    assert found == [*whole.spec(single, Revision(3)).tensors]


# Routes --------------------------------------------------------------------------------------------------------------


def test_a_model_has_a_commit_and_its_files(hub: httpx.Client) -> None:
    model = hub.get("/api/models/acme/model/revision/seed-7").json()
    assert model["id"] == "acme/model"
    assert model["sha"].startswith(f"{7:016x}00")
    assert [each["rfilename"] for each in model["siblings"]] == [
        "README.md",
        "config.json",
        "data/words.txt",
        "manifest.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    assert model["config"] == {"model_type": "gpt2"}
    assert hub.get(f"/api/models/acme/model/revision/{model['sha']}").json()["sha"] == model["sha"]


def test_models_are_listed_by_author_and_text(hub: httpx.Client) -> None:
    def names(**query: str) -> list[str]:
        return [each["id"] for each in hub.get("/api/models", params=query).json()]

    assert names(author="acme") == ["acme/model"]
    assert names(search="GPT") == ["tiny/gpt2"]
    assert names(author="nobody") == []
    assert len(names(limit="2")) == 2


def test_a_tree_has_folders_unless_it_is_recursive(hub: httpx.Client) -> None:
    top = {each["path"]: each for each in hub.get("/api/models/acme/model/tree/main").json()}
    assert (top["data"]["type"], top["config.json"]["type"]) == ("directory", "file")
    assert "data/words.txt" not in top
    assert all("lfs" not in each for each in top.values())
    deep = hub.get("/api/models/acme/model/tree/main", params={"recursive": "true"}).json()
    assert "data/words.txt" in {each["path"] for each in deep}
    assert [each["path"] for each in hub.get("/api/models/acme/model/tree/main/data").json()] == ["data/words.txt"]


def test_expanded_entries_have_the_commit_of_the_revision(hub: httpx.Client) -> None:
    url = "/api/models/acme/model"
    rows = hub.get(f"{url}/tree/seed-7", params={"expand": "True"}).json()
    [commit] = hub.get(f"{url}/commits/seed-7").json()
    sha = hub.get(f"{url}/revision/seed-7").json()["sha"]
    last = {"id": sha, "title": "The weights of seed-7", "date": "1980-01-01T00:00:00.000Z"}
    assert commit == {**last, "message": "", "authors": []}
    assert {each["type"] for each in rows} == {"file", "directory"}
    assert all(each["lastCommit"] == last for each in rows)
    assert [{**each, "lastCommit": last} for each in hub.get(f"{url}/tree/seed-7").json()] == rows
    for form in ({"json": {"paths": ["data"], "expand": True}}, {"data": {"paths": ["data"], "expand": True}}):
        body: Any = form
        assert hub.post(f"{url}/paths-info/seed-7", **body).json() == [each for each in rows if each["path"] == "data"]


@pytest.mark.parametrize("form", ["json", "data"])
def test_some_paths_are_described(hub: httpx.Client, form: str) -> None:
    paths = ["config.json", "data", "nothing", "model-00001-of-00003.safetensors"]
    body: Any = {form: {"paths": paths}}
    found = hub.post(f"/api/models/acme/model/paths-info/seed-{len(form)}", **body).json()  # not planned before
    assert [each["path"] for each in found] == [paths[0], paths[1], paths[3]]


def test_every_file_has_the_size_that_is_listed_and_ranges(hub: httpx.Client) -> None:
    commit = hub.get("/api/models/acme/model").json()["sha"]
    for entry in hub.get("/api/models/acme/model/tree/main", params={"recursive": "1"}).json():
        url = f"/acme/model/resolve/{commit}/{entry['path']}"
        head, whole, part = hub.head(url), hub.get(url), hub.get(url, headers={"Range": "bytes=0-0"})
        assert int(head.headers["content-length"]) == len(whole.content) == entry["size"]
        assert head.headers["etag"] == whole.headers["etag"] == f'"{entry["oid"]}"'
        assert head.headers["x-repo-commit"] == commit
        assert "immutable" in head.headers["cache-control"]
        assert (part.status_code, part.content) == (206, whole.content[:1])
        assert part.headers["content-range"] == f"bytes 0-0/{entry['size']}"
        again = hub.get(url, headers={"If-None-Match": head.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert hub.get(url.replace("/resolve/", "/raw/")).content == whole.content
        beyond = hub.get(url, headers={"Range": f"bytes={entry['size']}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{entry['size']}")


def test_a_name_of_a_revision_is_asked_for_again(hub: httpx.Client) -> None:
    assert hub.head("/acme/model/resolve/main/config.json").headers["cache-control"] == "no-cache"


def tensors(hub: httpx.Client, revision: str) -> dict[str, Any]:
    """The tensors of a revision, by the index of its files."""
    index = hub.get(f"/acme/model/resolve/{revision}/model.safetensors.index.json").json()
    found: dict[str, Any] = {}
    for file in sorted(set(index["weight_map"].values())):
        loaded = safetensors.numpy.load(hub.get(f"/acme/model/resolve/{revision}/{file}").content)
        assert {name for name, place in index["weight_map"].items() if place == file} == set(loaded)
        found |= loaded
    assert sum(each.nbytes for each in found.values()) == index["metadata"]["total_size"]
    return found


def test_the_shards_are_the_manifest_of_the_seed(hub: httpx.Client) -> None:
    found = tensors(hub, "seed-7")
    answer = hub.post("/init", json={**MANIFEST, "seed": 7})
    expected = safetensors.numpy.load(answer.content)
    assert found.keys() == expected.keys()
    assert all((found[name] == each).all() for name, each in expected.items())


def test_a_dtype_is_that_of_all_tensors_and_of_the_configuration(hub: httpx.Client) -> None:
    assert {each.dtype.name for each in tensors(hub, "seed-7-float16").values()} == {"float16"}
    config = hub.get("/acme/model/resolve/seed-7-float16/config.json").json()
    assert config == {"model_type": "gpt2", "torch_dtype": "float16", "dtype": "float16"}
    assert hub.get("/acme/model/resolve/seed-7/config.json").json()["dtype"] == "float32"


def test_tied_names_of_a_single_file_are_in_its_metadata(http: httpx.Client) -> None:
    head = http.get("/tiny/gpt2/resolve/main/model.safetensors").content
    length = int.from_bytes(head[:8], "little")
    metadata = json.loads(head[8 : 8 + length])["__metadata__"]
    assert metadata["lm_head.weight"] == "transformer.wte.weight"
    assert metadata["format"] == "pt"


def test_a_thousand_ranges_plan_a_file_once(hub: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightwell_engine.engine import Engine

    planned = []
    plan = Engine.plan

    def counted(self: Engine, *args: Any, **options: Any) -> Any:
        planned.append(1)
        return plan(self, *args, **options)

    monkeypatch.setattr(Engine, "plan", counted)
    url = "/acme/model/resolve/seed-99/model-00001-of-00003.safetensors"
    whole = hub.get(url).content
    for start in range(1000):
        at = start % (len(whole) - 1)
        assert hub.get(url, headers={"Range": f"bytes={at}-{at + 1}"}).content == whole[at : at + 2]
    assert len(planned) == 1


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/acme/other", "RepoNotFound"),
        ("/acme/other/resolve/main/config.json", "RepoNotFound"),
        ("/api/models/acme/model/revision/v2", "RevisionNotFound"),
        ("/acme/model/resolve/seed-1-int8/config.json", "RevisionNotFound"),
        (f"/acme/model/resolve/{'0' * 40}/config.json", "RevisionNotFound"),
        ("/acme/model/resolve/main/pytorch_model.bin", "EntryNotFound"),
        ("/acme/model/resolve/main/../../secret", "RepoNotFound"),
        ("/api/models/acme/model/tree/main/nothing", "EntryNotFound"),
        ("/api/datasets/acme/data", "RepoNotFound"),
        ("/api/spaces/acme/app", "RepoNotFound"),
    ],
)
def test_what_is_not_there_is_said_in_the_form_of_the_hub(hub: httpx.Client, path: str, code: str) -> None:
    answer = hub.get(path)
    assert answer.status_code == 404
    if "secret" not in path:  # httpx resolves the dots
        assert answer.headers["x-error-code"] == code
        assert answer.headers["x-error-message"]
        assert answer.json()["error"]
        assert hub.head(path).headers["x-error-code"] == code


@pytest.mark.parametrize("path", ["/api/repos/create", "/api/models/acme/model/commit/main", "/api/validate-yaml"])
def test_what_would_change_something_is_refused(hub: httpx.Client, path: str) -> None:
    answer = hub.post(path, json={})
    assert (answer.status_code, "read-only" in answer.json()["error"]) == (403, True)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"paths": 3', b"{}", b"[" * 100_000, b"x" * (2**20 + 1)])
def test_a_body_that_cannot_be_read_is_refused(hub: httpx.Client, body: bytes) -> None:
    answer = hub.post("/api/models/acme/model/paths-info/main", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_other_routes_are_as_before(hub: httpx.Client) -> None:
    assert hub.get("/nothing").json()["status"] == 404
    assert hub.get("/health/live").json() == {"status": "live"}
    assert hub.get("/acme/model").json()["status"] == 404


# Redirects -----------------------------------------------------------------------------------------------------------


def test_weights_may_be_redirected_and_small_files_are_not(serve: Serve, hub: httpx.Client) -> None:
    there = str(hub.base_url).rstrip("/")
    with (
        serve(create_app(Settings(threads=1, data_url=there))) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        head = client.head("/tiny/gpt2/resolve/seed-3/model.safetensors")
        assert head.status_code == 302
        assert head.headers["location"].startswith(f"{there}/init?manifest=")
        whole = httpx.get(head.headers["location"], trust_env=False)
        assert whole.headers["etag"] == head.headers["x-linked-etag"]
        assert len(whole.content) == int(head.headers["x-linked-size"])
        assert client.get("/tiny/gpt2/resolve/seed-3/config.json").status_code == 200


# Folders -------------------------------------------------------------------------------------------------------------


def test_the_repositories_that_come_with_the_service_are_whole() -> None:
    found = library(None, 5 * 10**9)
    assert sorted(found) == ["tiny/bert", "tiny/gpt2", "tiny/llama", "tiny/qwen3-moe", "tiny/vit"]
    assert all({"config.json", "manifest.json"} <= set(each.files) for each in found.values())
    assert sum(len(content) for each in found.values() for content in each.files.values()) < 100_000
    assert BUILT_IN.is_dir()


def test_a_folder_may_replace_a_repository_that_comes_with_the_service(tmp_path: Path) -> None:
    write(tmp_path / "tiny" / "gpt2")
    assert set(library(tmp_path, 1000)["tiny/gpt2"].files) == {"manifest.json"}


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ("{", "model: Expecting"),
        ("[]", r"manifest\.json: expected a JSON object, got a list"),
        ("{}", r"manifest\.json: expected tensors by name"),
        ({"tensors": {}}, r"manifest\.json: expected tensors by name"),
        ({"tensors": {"w": {"shape": [3]}}}, "model: .*w"),
        ({"tensors": {"w": {"shape": [3], "scheme": "norml"}}}, "did you mean normal"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_an_error_with_its_path(tmp_path: Path, manifest: Any, problem: str) -> None:
    write(tmp_path / "acme" / "model", manifest)
    with pytest.raises(InvalidRepository, match=problem) as caught:
        library(tmp_path, 1000)
    assert str(tmp_path / "acme" / "model") in str(caught.value)


def test_other_folders_that_cannot_be_used_are_errors_with_their_paths(tmp_path: Path) -> None:
    with pytest.raises(InvalidRepository, match="must be a folder of owner/name folders"):
        library(tmp_path / "none", 1000)
    (tmp_path / "acme" / "model").mkdir(parents=True)
    with pytest.raises(InvalidRepository, match=r"manifest\.json: there is none; `weightwell export` writes one"):
        library(tmp_path, 1000)
    write(tmp_path / "acme" / "model", config__json="[]")
    with pytest.raises(InvalidRepository, match=r"config\.json: expected a JSON object"):
        library(tmp_path, 1000)
    write(tmp_path / "acme" / "model", config__json="{}", model__safetensors="")
    with pytest.raises(InvalidRepository, match=r"model\.safetensors: weights are drawn"):
        library(tmp_path, 1000)
    (tmp_path / "acme" / "model" / "model.safetensors").unlink()
    (tmp_path / "acme" / "a b").mkdir()
    with pytest.raises(InvalidRepository, match="a b: the names of owners and repositories"):
        library(tmp_path, 1000)
