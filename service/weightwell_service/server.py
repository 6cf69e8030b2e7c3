"""The server: uvicorn, told what this service needs of it."""

import asyncio
import logging
from copy import deepcopy
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from weightwell_service.settings import Settings

log = logging.getLogger(__name__)

# Bytes before the body of a request, after the first that are received. Uvicorn itself would keep any number of them.
MAX_HEAD = 2**16


def logging_config() -> dict[str, Any]:
    """Return uvicorn's configuration of logging, with the time in every line, and for this package as well."""
    config = deepcopy(LOGGING_CONFIG)
    for formatter in config["formatters"].values():
        formatter |= {"fmt": f"%(asctime)s {formatter['fmt']}", "datefmt": "%Y-%m-%dT%H:%M:%S%z"}
    ours = {"handlers": ["default"], "level": "INFO", "propagate": False}
    config["loggers"] |= {"weightwell_service": ours, "py.warnings": ours}
    return config


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
        "log_config": logging_config(),
    }
    return uvicorn.Server(uvicorn.Config(app, **config | options))


def _protocol(patience: float) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with an end to its patience.

    A reader who takes nothing for so long is cut off: closing politely would wait for the reader to take what is in the
    buffers, which is what it does not do. So is whoever sends a head without an end.
    """

    class Protocol(HttpToolsProtocol):
        _watch: asyncio.TimerHandle | None = None
        _in_head = False
        _head_nbytes = 0

        def data_received(self, data: bytes) -> None:
            # Where a head begins, what was received may hold the end of a body as well, so that is not counted.
            began_before = self._in_head
            super().data_received(data)
            self._head_nbytes = self._head_nbytes + len(data) if began_before and self._in_head else 0
            if self._head_nbytes > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response(f"The URL and the headers have more than {MAX_HEAD} bytes.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head = True

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self._in_head = False

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_from(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_watching()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watching()
            super().connection_lost(exc)

        def _watch_from(self, size: int) -> None:
            self._watch = asyncio.get_running_loop().call_later(patience, self._look, size)

        def _look(self, size: int) -> None:
            left = self.transport.get_write_buffer_size()
            if left < size:
                self._watch_from(left)
            else:
                log.warning("closed a stalled connection: no progress for %g s", patience)
                self.transport.abort()

        def _stop_watching(self) -> None:
            if self._watch is not None:
                self._watch.cancel()

    return Protocol
