"""A server that counts what it sends, for tests of clients that must not transfer anything twice."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weightwell_service.app import create_app
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]


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


@contextmanager
def counting_server(serve: Serve, repositories: Path, max_shard: int) -> Iterator[Server]:
    """Serve the repositories of a folder, with weight files of at most some bytes."""
    server = Server()
    app = create_app(Settings(threads=2, repositories=repositories, max_shard_bytes=max_shard))
    app.add_middleware(_Counting, server=server)
    with serve(app) as server.url:
        yield server
