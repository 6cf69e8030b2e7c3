"""Pinned clients, each in its own environment: ``make test-clients``.

A client that cannot be installed is a skipped test with the reason. Unless pytest is told to test this folder, it tests
none of it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import weightwell
from tests.clients.environments import Client, NotInstalled, all_clients
from weightwell_service.app import create_app
from weightwell_service.repositories.library import BUILT_IN
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

# The most bytes of a weight file: acme/sharded has several files, and the tiny models have one.
LIMIT = 600_000

# The seed of each client begins here, so that no client finds what another has asked for.
SEED = 1000


@dataclass
class Server:
    """A server that counts what it sends. ``sent`` are the path and the bytes of each answer that is not an error.

    An answer of one byte counts as none: huggingface.js asks for a byte to learn the size of a file.
    """

    url: str = ""
    sent: list[tuple[str, int]] = field(default_factory=list)

    def since(self, count: int) -> "Server":
        """Return what was sent after the first answers."""
        return Server(self.url, self.sent[count:])

    def nbytes(self, *texts: str) -> int:
        """Return the bytes of all answers for paths that have these texts."""
        return sum(nbytes for path, nbytes in self.sent if all(text in path for text in texts))

    def of(self, text: str) -> list[str]:
        """Return the names of the files of which bytes were sent, for paths that have this text."""
        return sorted({path.rpartition("/")[2] for path, nbytes in self.sent if nbytes and text in path})


class _Counting:
    """An ASGI middleware that notes the bytes of each answer."""

    def __init__(self, app: ASGIApp, server: Server):
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        status = nbytes = 0

        async def counting(message: Message) -> None:
            nonlocal status, nbytes
            status = message.get("status", status)
            nbytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            if status < 400 and nbytes > 1:
                self._server.sent.append((scope["path"], nbytes))


@pytest.fixture(scope="session")
def counting(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the tiny repositories and a sharded one, acme/sharded."""
    folder = tmp_path_factory.mktemp("repositories")
    (folder / "acme" / "sharded").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / "acme" / "sharded" / name).write_bytes((BUILT_IN / "tiny" / "gpt2" / name).read_bytes())
    (folder / "acme" / "sharded" / "manifest.json").write_text(json.dumps(document("acme/sharded")))
    server = Server()
    app = create_app(Settings(threads=2, repositories=folder, max_shard_bytes=LIMIT))
    app.add_middleware(_Counting, server=server)
    with serve(app) as server.url:
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
