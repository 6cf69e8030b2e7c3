"""Options: a deployment's settings as options of uvicorn."""

from collections.abc import Callable
from functools import partial
from typing import Any

from weightwell_service.observation.log import logging_config
from weightwell_service.server.connections import Connections
from weightwell_service.server.protocol import LimitedProtocol
from weightwell_service.settings import Settings


def options_of(settings: Settings) -> dict[str, Any]:
    """Return the options that can be sent to another process."""
    return {
        "host": settings.host,
        "port": settings.port,
        "ws": "none",
        "timeout_graceful_shutdown": settings.shutdown_timeout,
        "timeout_keep_alive": settings.keep_alive,
        "timeout_notify": 0,  # the connections are checked at every notification, once a second
        "server_header": False,
        "ssl_certfile": settings.tls_certificate,
        "ssl_keyfile": settings.tls_key,
        "access_log": False,  # observation.requests has one with more in it
        "log_config": logging_config(settings.log_format),
    }


def connections_of(settings: Settings, clock: Callable[[], float]) -> dict[str, Any]:
    """Return the options that are for one process."""
    shared = Connections(settings, clock)
    return {"http": partial(LimitedProtocol, shared=shared), "callback_notify": shared.sweep}
