"""Settings: the address of the server and the options of httpx, which can be sent to other processes."""

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from weightwell.version import installed_version

# Random numbers cannot be compressed.
_HEADERS = {"Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of both clients. ``headers`` are sent with every request.

    ``transport`` is an httpx transport, which works only in the process that made it; or a function that returns a
    transport; or None.
    """

    base_url: str
    timeout: Any
    headers: Mapping[str, str] = field(repr=False)
    auth: Any = field(repr=False)
    transport: Any

    @classmethod
    def of(
        cls,
        url: str,
        *,
        timeout: Any,
        headers: Mapping[str, str] | None,
        auth: Any,
        transport: Any,
        token: str | None = None,
    ) -> "Settings":
        """Read the arguments of a client; raise TypeError or ValueError for one that cannot be used."""
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, or be local:, got {url!r}")
        all_headers = {
            "User-Agent": f"weightwell/{installed_version()}",
            **_HEADERS,
            **({} if auth else _bearer(token)),
            **(headers or {}),
        }
        settings = cls(url, timeout, all_headers, auth, transport)
        if settings.travels and not (transport is None or callable(transport)):
            raise TypeError(f"transport must be one of httpx, or a function that returns one, got {transport!r}")
        httpx.Client(base_url=url, timeout=timeout, headers=all_headers, auth=auth, transport=httpx.BaseTransport())
        return settings

    @property
    def travels(self) -> bool:
        """Whether another process can open its own connections with these settings."""
        return not isinstance(self.transport, httpx.BaseTransport | httpx.AsyncBaseTransport)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of ``httpx.Client`` and ``httpx.AsyncClient``."""
        make: Callable[[], Any] | None = self.transport if self.travels else None
        return {
            "base_url": self.base_url,
            "timeout": self.timeout,
            "headers": self.headers,
            "auth": self.auth,
            "transport": make() if make else self.transport,
        }

    def tls(self) -> ssl.SSLContext:
        """Return a TLS context. For http:// it has no certificate authorities, because loading them takes 0.1 s."""
        if self.base_url.startswith("https://"):
            return httpx.create_ssl_context()
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def address(self, path: str) -> str:
        """Return the absolute URL of a path on the server."""
        base, relative = httpx.URL(self.base_url), httpx.URL(path)
        return str(base.copy_with(raw_path=base.raw_path.rstrip(b"/") + b"/" + relative.raw_path.lstrip(b"/")))


def _bearer(token: str | None) -> Mapping[str, str]:
    """Return the header with a token, by default ``$WEIGHTWELL_TOKEN``; raise ValueError without showing it."""
    token = os.environ.get("WEIGHTWELL_TOKEN", "").strip() if token is None else token
    if not token:
        return {}
    if not re.fullmatch("[!-~]+", token):
        raise ValueError("a token has visible ASCII characters only; is there a space or a line break in it?")
    return {"Authorization": f"Bearer {token}"}


def without_credentials(url: httpx.URL | str) -> str:
    """Return an address without user and password."""
    return str(httpx.URL(url).copy_with(username=None, password=None)).rstrip("/")
