"""Doors: the ways to an engine. A client makes calls, and its door answers them.

``http_door`` asks a server. ``in_process`` draws in this process. Each is imported when a client needs it: httpx and
the engine take a third of a second each.
"""

import os
from importlib.util import find_spec
from typing import Any, Protocol

from weightwell.calls import Call, Caller
from weightwell.exceptions import MissingFramework
from weightwell.files.remote import OpenFile
from weightwell.spec import ManifestSpec, TensorSpec
from weightwell.transfers.progress import Progress
from weightwell.transfers.retry import Retry

DEFAULT_URL = "http://127.0.0.1:8000"

# Seconds without a byte, for httpx: to connect, to read, to write, and to wait for a connection. The largest orthogonal
# matrices take minutes before their first byte is sent.
TIMEOUT = (5.0, 600.0, 600.0, 600.0)

# Connections for one long file. Four connections double the rate where the network limits each connection. They cost
# nothing on loopback (benchmarks/connections.py).
CONNECTIONS = 4

_LOCAL = "local:"

# What the engine needs. ``numba`` is imported when the first large tensor is drawn.
_NEEDED = ("ml_dtypes", "numba", "numpy", "pydantic", "re2", "threadpoolctl")


class Door(Protocol):
    """Answers the calls of a synchronous client. Any number of threads may use it."""

    @property
    def address(self) -> str:
        """Its address, without credentials."""

    def url(self, path: str | None) -> str | None:
        """Return the absolute address of a path, if there is a server."""

    def answer(self, call: Call[Any], progress: Progress, seconds: float) -> str:
        """Bring the answer of a call to its destination within some seconds, or raise.

        Return the rules that no tensor uses, as in ``rules.0, rules.2``.
        """

    def open(self, spec: TensorSpec | ManifestSpec, make: Caller) -> OpenFile:
        """Return a file object of the file of a spec; ``make`` makes a call, and returns its result."""

    def close(self) -> None:
        """Release what this process holds."""


class AsyncDoor(Protocol):
    """Answers the calls of an asynchronous client."""

    @property
    def address(self) -> str:
        """Its address, without credentials."""

    def url(self, path: str | None) -> str | None:
        """Return the absolute address of a path, if there is a server."""

    async def answer(self, call: Call[Any], progress: Progress, seconds: float) -> str:
        """Bring the answer of a call to its destination within some seconds, or raise."""

    async def aclose(self) -> None:
        """Release what the running event loop holds."""


def door_to(base_url: str | None, *, wait: float | None, connections: int, **options: Any) -> Door:
    """Return the door to an address; ``options`` are those of httpx. Raises TypeError or ValueError."""
    url = _url(base_url)
    if url.startswith(_LOCAL):
        _require_engine()
        from weightwell.in_process.door import LocalDoor

        return LocalDoor(url)
    from weightwell.connection import Settings
    from weightwell.http_door import HttpDoor

    return HttpDoor(Settings.of(url, **options), Retry(wait), connections)


def async_door_to(base_url: str | None, *, wait: float | None, connections: int, **options: Any) -> AsyncDoor:
    """Return the door of an asynchronous client; arguments and errors as of ``door_to``."""
    url = _url(base_url)
    if url.startswith(_LOCAL):
        _require_engine()
        from weightwell.in_process.door import AsyncLocalDoor

        return AsyncLocalDoor(url)
    from weightwell.connection import Settings
    from weightwell.http_door import AsyncHttpDoor

    return AsyncHttpDoor(Settings.of(url, **options), Retry(wait), connections)


def _url(base_url: str | None) -> str:
    return base_url or os.environ.get("WEIGHTWELL_URL") or DEFAULT_URL


def _require_engine() -> None:
    """Raise ``MissingFramework`` if a package that the engine needs is not installed."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise MissingFramework(
            f"drawing in this process needs {', '.join(missing)}, not installed here: pip install 'weightwell[local]'"
        )
