"""What both clients are made of: where the server is, and how to speak with it."""

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"

# Whole matrices (orthogonal) are drawn before their first byte is sent, and that takes minutes for the largest.
TIMEOUT = httpx.Timeout(600.0, connect=5.0)

# How many connections one long file may take at most: what browsers and package managers allow themselves.
CONNECTIONS = 8

# The bytes are wanted as they are: compressing random numbers is work for nothing.
_HEADERS = {"Accept-Encoding": "identity"}


def http_options(
    base_url: str | None, *, timeout: Any, headers: Mapping[str, str] | None, auth: Any, transport: Any
) -> dict[str, Any]:
    """Return the keyword arguments of ``httpx.Client`` and ``httpx.AsyncClient``; raise ValueError for no HTTP URL."""
    url = base_url or os.environ.get("WEIGHTWELL_URL") or DEFAULT_URL
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"base_url must begin with http:// or https://, got {url!r}")
    return {
        "base_url": url,
        "timeout": timeout,
        "headers": {
            "User-Agent": f"weightwell/{installed_version()}",
            **_HEADERS,
            **(headers or {}),
        },
        "auth": auth,
        "transport": transport,
    }


def without_credentials(url: httpx.URL | str) -> str:
    """Return an address that may be shown: without the user and the password that may stand in it."""
    return str(httpx.URL(url).copy_with(username=None, password=None)).rstrip("/")


def installed_version() -> str:
    """Return the version of this package, "0" where it runs from a source tree that was never installed."""
    try:
        return version("weightwell")
    except PackageNotFoundError:
        return "0"
