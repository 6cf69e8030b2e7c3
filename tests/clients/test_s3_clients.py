"""Clients of S3 download what our own client draws, and do not download again what they have."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.clients.conftest import Run, digests
from tests.clients.environments import Client, clients
from tests.counting import Server

CLIENTS = [*clients("s3_files.py"), *clients("s3_command.py")]
(STREAMER,) = clients("streamer.py")

FEW = 1000


@pytest.fixture(scope="module", params=CLIENTS, ids=lambda client: client.name)
def run(
    request: pytest.FixtureRequest,
    installed: Callable[[Client], Client],
    counting: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    client = installed(request.param)
    return Run.of(client, counting, tmp_path_factory.mktemp("home"), AWS_EC2_METADATA_DISABLED="true")


def test_the_client_has_the_pinned_version(run: Run) -> None:
    assert run.client.version.startswith(run.found["version"])


def test_a_file_is_downloaded_once_and_is_what_our_client_draws(run: Run, drawn: Callable[[str, int], Path]) -> None:
    folder = drawn("tiny/gpt2", run.seed)
    assert run.found["weights"] == [*digests(folder).values()] * 2
    assert run.sent.nbytes("/gpt2@", "/model.safetensors") == (folder / "model.safetensors").stat().st_size


def test_a_pattern_selects_files_which_are_what_our_client_draws(run: Run, drawn: Callable[[str, int], Path]) -> None:
    folder = drawn("acme/sharded", run.seed)
    assert len(run.found["snapshot"]) > 1
    assert run.found["snapshot"] == digests(folder)
    assert run.sent.of("/sharded@") == sorted(run.found["snapshot"])
    assert set(run.found["snapshot"]) < set(run.found["listed"])
    for name in run.found["snapshot"]:
        assert run.sent.nbytes(name) == (folder / name).stat().st_size


def test_a_range_is_not_the_whole_file(run: Run, drawn: Callable[[str, int], Path]) -> None:
    if run.found["range"] is None:
        pytest.skip(f"{run.client.name} reads no ranges")
    content = (drawn("tiny/llama", run.seed) / "model.safetensors").read_bytes()
    assert run.found["range"] == content[8:24].decode()
    assert 16 <= run.sent.nbytes("/llama@") < FEW < len(content)


def test_what_is_not_there_is_not_found(run: Run) -> None:
    assert set(run.found["errors"]) == {"not found"}


def test_the_model_streamer_streams_the_tensors_that_our_client_draws(
    installed: Callable[[Client], Client],
    counting: Server,
    drawn: Callable[[str, int], Path],
    tmp_path: Path,
) -> None:
    client = installed(STREAMER)
    settings = {"AWS_ENDPOINT_URL": f"{counting.url}/s3", "RUNAI_STREAMER_S3_ENDPOINT": f"{counting.url}/s3"}
    settings |= {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0", "AWS_EC2_METADATA_DISABLED": "true"}
    settings |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
    run = Run.of(client, counting, tmp_path, **settings)
    folder = drawn("acme/sharded", run.seed)
    expected = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert run.found["version"] == client.version
    assert [Path(path).name for path in run.found["paths"]] == list(digests(folder))
    assert run.found["tensors"] == {
        name: hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in expected.items()
    }
