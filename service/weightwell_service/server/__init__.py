"""The server: uvicorn with a protocol class of this package, its limits and its log, in one process or several."""

import time
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from weightwell_service.observation.log import logging_config
from weightwell_service.server.options import connections_of, options_of
from weightwell_service.settings import Settings

__all__ = ["logging_config", "make_server"]


def make_server(
    app: FastAPI, settings: Settings, *, clock: Callable[[], float] = time.monotonic, **options: Any
) -> uvicorn.Server:
    """Return a server for an application. ``options`` are options of uvicorn, and override the settings."""
    return uvicorn.Server(uvicorn.Config(app, **options_of(settings) | connections_of(settings, clock) | options))
