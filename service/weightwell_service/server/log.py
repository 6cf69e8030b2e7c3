"""The log: the format of lines, client addresses and URLs."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from uvicorn.config import LOGGING_CONFIG

# The most characters of a URL in a log line.
_MAX_URL = 200


def logging_config() -> dict[str, Any]:
    """Return uvicorn's logging configuration, with the time in every line, and with a logger for this package."""
    config = deepcopy(LOGGING_CONFIG)
    for formatter in config["formatters"].values():
        formatter |= {"fmt": f"%(asctime)s {formatter['fmt']}", "datefmt": "%Y-%m-%dT%H:%M:%S%z"}
    ours = {"handlers": ["default"], "level": "INFO", "propagate": False}
    config["loggers"] |= {"weightwell_service": ours, "py.warnings": ours}
    return config


def address(client: tuple[str, int] | None) -> str:
    """Return a client's address for the log."""
    return "an unknown client" if client is None else f"{client[0]}:{client[1]}"


def request_line(scope: Mapping[str, Any]) -> str:
    """Return the method and the URL of a request, shortened, and in printable ASCII."""
    query = scope.get("query_string", b"")
    url = scope.get("raw_path", b"") + (b"?" + query if query else b"")
    text = f"{scope.get('method', '?')} {url.decode('latin-1')}"
    shown = text if len(text) <= _MAX_URL else text[:_MAX_URL] + "..."
    return shown.encode("unicode_escape").decode("ascii")
