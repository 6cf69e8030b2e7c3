"""Options: a deployment's settings as options of uvicorn."""

import ssl
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


class InvalidTls(ValueError):
    """The certificate or its key cannot be used."""


def check_tls(settings: Settings) -> None:
    """Raise ``InvalidTls`` unless the certificate and its key can be used, or there are none."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if (certificate is None) != (key is None):
        raise InvalidTls("WEIGHTWELL_TLS_CERTIFICATE and WEIGHTWELL_TLS_KEY belong together, got one of them")
    if certificate is None or key is None:
        return
    try:
        # An empty password, so that nothing asks for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise InvalidTls(f"{certificate} and {key} cannot be used: {error.strerror or error}") from None
