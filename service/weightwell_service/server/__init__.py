"""The server: uvicorn with a protocol class of this package, its limits and its log."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from weightwell_service.observation.log import logging_config
from weightwell_service.server.connections import Connections
from weightwell_service.server.protocol import LimitedProtocol
from weightwell_service.settings import Settings

__all__ = ["logging_config", "make_server"]

# uvicorn's ticks between two checks of all connections: a second.
_TICKS = 10


def make_server(
    app: FastAPI, settings: Settings, *, clock: Callable[[], float] = time.monotonic, **options: Any
) -> uvicorn.Server:
    """Return a server for an application. ``options`` are options of uvicorn, and override the settings."""
    shared = Connections(settings, clock)
    config: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": partial(LimitedProtocol, shared=shared),
        "ws": "none",
        "timeout_graceful_shutdown": settings.shutdown_timeout,
        "timeout_keep_alive": settings.keep_alive,
        "server_header": False,
        "ssl_certfile": settings.tls_certificate,
        "ssl_keyfile": settings.tls_key,
        "access_log": False,  # observation.requests has one with more in it
        "log_config": logging_config(settings.log_format),
    }
    return _Server(uvicorn.Config(app, **config | options), shared)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, shared: Connections):
        super().__init__(config)
        self._shared = shared

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:
            self._shared.sweep(self.server_state.connections)  # type: ignore[arg-type]
        return await super().on_tick(counter)
