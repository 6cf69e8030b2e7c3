"""Clients of the Hub, older and newer ones, download what our own client draws, and each byte once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import Run, digests
from tests.clients.environments import Client, clients
from tests.counting import Server

CLIENTS = [*clients("hub.py"), *clients("hub.mjs")]

# A client may look at the beginning of a file before it reads a range.
FEW = 10_000


@pytest.fixture(scope="module", params=CLIENTS, ids=lambda client: client.name)
def run(
    request: pytest.FixtureRequest,
    installed: Callable[[Client], Client],
    counting: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    client = installed(request.param)
    home = tmp_path_factory.mktemp("home")
    settings = {"HF_ENDPOINT": counting.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return Run.of(client, counting, home, **settings, HF_HUB_DISABLE_TELEMETRY="1")


def test_the_client_has_the_pinned_version(run: Run) -> None:
    assert run.found["version"] == run.client.version


def test_it_finds_the_commit_and_the_files(run: Run) -> None:
    assert run.found["commit"].startswith(f"{run.seed:016x}")
    assert set(run.found["snapshot"]) < set(run.found["files"])
    assert set(run.found["listed"]) == set(run.found["files"])


def test_a_file_is_downloaded_once_and_is_what_our_client_draws(run: Run, drawn: Callable[[str, int], Path]) -> None:
    folder = drawn("tiny/gpt2", run.seed)
    assert run.found["weights"] == [*digests(folder).values()] * 2
    assert run.sent.nbytes("/gpt2/resolve", "/model.safetensors") == (folder / "model.safetensors").stat().st_size


def test_a_snapshot_is_downloaded_once_and_is_what_our_client_draws(
    run: Run, drawn: Callable[[str, int], Path]
) -> None:
    folder = drawn("acme/sharded", run.seed)
    assert len(run.found["snapshot"]) > 1
    assert run.found["snapshot"] == digests(folder)
    assert run.found["same"]
    for name in run.found["snapshot"]:
        assert run.sent.nbytes(name) == (folder / name).stat().st_size
    if run.client.kind == "pip":  # with a pattern, which huggingface.js does not have
        assert run.sent.of("/sharded/resolve") == sorted(run.found["snapshot"])


def test_a_range_is_not_the_whole_file(run: Run, drawn: Callable[[str, int], Path]) -> None:
    content = (drawn("tiny/llama", run.seed) / "model.safetensors").read_bytes()
    assert run.found["range"] == content[8:24].decode()
    assert 16 <= run.sent.nbytes("/llama/resolve") < FEW < len(content)


def test_what_is_not_there_is_the_error_that_the_client_knows(run: Run) -> None:
    if run.client.kind == "npm":
        assert run.found["errors"] == [404, 404]
        assert run.found["exists"] == [True, False]
        assert run.found["models"] == [["acme/sharded", "1980-01-01T00:00:00.000Z"]]
        assert set(run.found["dates"]) == {"1980-01-01T00:00:00.000Z"}
        return
    kinds = ("EntryNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError")
    assert all(name.endswith(kind) for name, kind in zip(run.found["errors"], kinds, strict=True))
