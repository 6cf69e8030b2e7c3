"""The server: uvicorn, told what this service needs of it."""

import asyncio
import logging
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from weightwell_service.settings import Settings

log = logging.getLogger(__name__)


def make_server(app: FastAPI, settings: Settings, **options: Any) -> uvicorn.Server:
    """Return a server for an application; ``options`` are uvicorn's own and come before the settings."""
    config: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": _protocol(settings.stall_timeout),
        "ws": "none",
        "timeout_graceful_shutdown": settings.shutdown_timeout,
        "timeout_keep_alive": settings.keep_alive,
        "server_header": False,
    }
    return uvicorn.Server(uvicorn.Config(app, **config | options))


def _protocol(patience: float) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with an end to its patience: a reader who takes nothing for so long is cut off.

    Closing politely would wait for the reader to take what is in the buffers, which is what it does not do.
    """

    class Protocol(HttpToolsProtocol):
        _stall: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stall = asyncio.get_running_loop().call_later(patience, self._give_up)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._calm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._calm()
            super().connection_lost(exc)

        def _calm(self) -> None:
            if self._stall is not None:
                self._stall.cancel()

        def _give_up(self) -> None:
            log.warning("a reader took nothing for %g s and was given up", patience)
            self.transport.abort()

    return Protocol
