"""Requests to a server: method, path, query and body. No I/O is done here."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

# Well under the 8 KiB line that common proxies accept, and far beyond any spec written by hand.
MAX_QUERY = 4096

# Characters of a manifest in a URL. With the path it has the length that RFC 9110, section 4.1, recommends to support.
MAX_MANIFEST = 7936


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a GET with query parameters, or a POST of the same fields in JSON."""

    path: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    method: str = "GET"

    @property
    def message(self) -> dict[str, Any]:
        """The request as arguments of ``httpx.Client.stream``."""
        body = {"params": self.fields} if self.method == "GET" else {"json": self.fields}
        return {"method": self.method, "url": self.path, **body}


def asking(path: str, /, **fields: Any) -> Request:
    """Return the request for ``path`` with those of the fields that are not None.

    It is a GET, which caches may answer and whose answer can be resumed, unless its query would be too long.
    Sequences are joined by commas in a query: ``shape=512,784``.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    query = {name: _query_text(value) for name, value in given.items()}
    if len(urlencode(query)) <= MAX_QUERY:
        return Request(path, query)
    return Request(path, given, method="POST")


def asking_for_manifest(path: str, manifest: Mapping[str, Any]) -> Request:
    """Return the request for the file of a manifest: a GET with the compressed manifest, or a POST if it is too long.

    A GET can be resumed, split into parallel ranges, and cached.
    """
    packed = packed_manifest(manifest)
    if len(packed) <= MAX_MANIFEST:
        return Request(path, {"manifest": packed})
    return Request(path, manifest, method="POST")


def packed_manifest(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as text for a query: its JSON, compressed by zlib, in base64url without padding.

    Raises ValueError for infinities and NaN, which JSON does not have.
    """
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).rstrip(b"=").decode()


def _query_text(value: Any) -> str:
    """Return a field as text for a query; the text of a float parses to the same float."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)
