"""Workers: several processes that serve one port, under a supervisor which replaces those that die.

The processes share the listening socket, so connections that no process has accepted yet outlive a process. Each has
its part of the settings' limits. They share the metrics, the usage of clients and the load, in files of one folder.
"""

import logging
import os
import socket
import time
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from weightwell_service.app import check, create_app
from weightwell_service.server.options import check_tls, connections_of, options_of
from weightwell_service.settings import Settings

# The variable by which prometheus_client knows that several processes have metrics.
_METRICS = "PROMETHEUS_MULTIPROC_DIR"

# Seconds in which a new process must be ready, and in which a process must answer its supervisor.
_PATIENCE = 60

log = logging.getLogger(__name__)


def part_of(settings: Settings, workers: int) -> Settings:
    """Return the settings of one of several processes: equal parts of what all may use together."""
    bodies = settings.max_total_request_bytes // workers
    return settings.model_copy(
        update={
            "threads": ceil(settings.threads / workers),
            "max_resident_bytes": ceil(settings.max_resident_bytes / workers),
            "max_total_request_bytes": max(bodies, settings.max_request_bytes),
            "max_responses": ceil(settings.max_responses / workers),
            "max_connections": ceil(settings.max_connections / workers),
        }
    )


class Worker(uvicorn.Config):
    """The configuration of one process, which makes its application when it is loaded."""

    def __init__(self, settings: Settings, folder: Path):
        super().__init__(
            "weightwell_service",
            workers=settings.workers,
            timeout_worker_healthcheck=_PATIENCE,
            **options_of(settings),
        )
        self._settings = part_of(settings, settings.workers)
        self._folder = folder

    def load(self) -> None:
        """Make the application, and the limits of its connections."""
        app: Any = create_app(self._settings, shared=self._folder)
        options = connections_of(self._settings, time.monotonic)
        service = app.state.service
        sweep = options["callback_notify"]

        async def notified() -> None:
            await sweep()
            await service.metrics.mirror()
            service.saturation.publish()

        self.app, self.http, self.callback_notify = app, options["http"], notified
        super().load()


class Supervisor(Multiprocess):
    """Replaces processes that die, and all of them on SIGHUP, unless a file of the settings is invalid."""

    def __init__(self, settings: Settings, config: uvicorn.Config, listener: socket.socket):
        super().__init__(config, [listener])
        self._settings = settings

    def handle_hup(self) -> None:
        """Replace all processes one by one."""
        try:
            check_tls(self._settings)
            check(self._settings)
        except ValueError as error:
            log.error("%s; the processes are not replaced", error)  # noqa: TRY400  # the operator needs no traceback
        else:
            super().handle_hup()


def serve(settings: Settings) -> None:
    """Serve in several processes until stopped."""
    with TemporaryDirectory(prefix="weightwell-") as folder:
        os.environ[_METRICS] = str(Path(folder, "metrics"))
        for name in ("metrics", "usage", "load"):
            Path(folder, name).mkdir()
        config = Worker(settings, Path(folder))
        listener = _listener(settings)
        try:
            Supervisor(settings, config, listener).run()
        finally:
            listener.close()


def _listener(settings: Settings) -> socket.socket:
    """Return the socket that all processes accept connections from."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    listener.set_inheritable(True)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if settings.tls_certificate else "http"
    log.info("serving on %s://%s:%d in %d processes", scheme, shown, port, settings.workers)
    return listener
