"""Pinned clients, each in its own environment: ``make test-clients``.

A client that cannot be installed is a skipped test with the reason. Unless pytest is told to test this folder, it tests
none of it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import weightwell
from tests.clients.environments import Client, NotInstalled, all_clients
from tests.counting import Serve, Server, counting_server
from weightwell_service.repositories.library import BUILT_IN

# The most bytes of a weight file: acme/sharded has several files, and the tiny models have one.
LIMIT = 600_000

# The seed of each client begins here, so that no client finds what another has asked for.
SEED = 1000


@pytest.fixture(scope="session")
def counting(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the tiny repositories and a sharded one, acme/sharded."""
    folder = tmp_path_factory.mktemp("repositories")
    (folder / "acme" / "sharded").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / "acme" / "sharded" / name).write_bytes((BUILT_IN / "tiny" / "gpt2" / name).read_bytes())
    (folder / "acme" / "sharded" / "manifest.json").write_text(json.dumps(document("acme/sharded")))
    with counting_server(serve, folder, LIMIT) as server:
        yield server


@dataclass(frozen=True)
class Run:
    """What a client has found at a seed, and what the server has sent meanwhile."""

    client: Client
    seed: int
    found: dict[str, Any]
    sent: Server

    @classmethod
    def of(cls, client: Client, server: Server, home: Path, **settings: str) -> "Run":
        """Run the program of a client, which must be installed, with an empty home."""
        begin = len(server.sent)
        seed = SEED + [each.name for each in all_clients()].index(client.name)
        common = {"HOME": str(home), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        found = client.run(server.url, f"seed-{seed}", settings=common | settings)
        return cls(client, seed, found, server.since(begin))


@pytest.fixture(scope="session")
def installed() -> Callable[[Client], Client]:
    """Install a client; skip the test, with the reason, if that cannot be done."""

    def install(client: Client) -> Client:
        try:
            client.install()
        except NotInstalled as error:
            pytest.skip(f"{client.name} is not tested, because it cannot be installed: {error}")
        return client

    return install


def document(name: str) -> dict[str, Any]:
    """The manifest of a repository."""
    source = BUILT_IN / ("tiny/gpt2" if name == "acme/sharded" else name)
    manifest: dict[str, Any] = json.loads((source / "manifest.json").read_text())
    return {**manifest, "dtype": "float64"} if name == "acme/sharded" else manifest


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, int], Path]]:
    """The folder of the weight files of a repository at a seed, as our own client saves them without a server."""
    with weightwell.local(threads=2) as client:

        def save(name: str, seed: int) -> Path:
            folder = tmp_path_factory.mktemp("drawn")
            manifest = weightwell.Manifest.from_dict({**document(name), "seed": seed})
            client.save(folder, manifest, max_shard_size=LIMIT)
            return folder

        yield save


def digests(folder: Path) -> dict[str, str]:
    """The digests of the weight files of a folder, by name."""
    files = sorted(folder.glob("*.safetensors"))
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
