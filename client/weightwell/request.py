"""Requests: what a client asks for, and the HTTP message that says it. No I/O is done here."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

# Well under the 8 KiB line that common proxies accept, and far beyond any spec written by hand.
MAX_QUERY = 4096

# Characters of a manifest in a URL. With the path it has the length that RFC 9110, section 4.1, recommends to support.
MAX_MANIFEST = 7936


@dataclass(frozen=True)
class Request:
    """One request: a path, and the ``document`` with its fields, as JSON has them. ``is_manifest``: of many tensors.

    ``options`` are fields of the query of any method, which are not part of the document.

    ``is_posted``: the fields have no form for a query.

    Over HTTP it is a GET, which caches may answer and whose answer can be resumed and split into ranges; or a POST of
    the document, if the query of the GET would be too long.
    """

    path: str
    document: Mapping[str, Any]
    is_manifest: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    is_posted: bool = False

    @property
    def method(self) -> str:
        """The HTTP method: GET or POST."""
        return self._sent[0]

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of the query of a GET, or of the body of a POST."""
        return self._sent[1]

    @property
    def message(self) -> dict[str, Any]:
        """The request as arguments of ``httpx.Client.stream``."""
        if self.method == "GET":
            return {"method": "GET", "url": self.path, "params": {**self.fields, **self.options}}
        options = {"params": self.options} if self.options else {}
        return {"method": "POST", "url": self.path, "json": self.fields, **options}

    @cached_property
    def _sent(self) -> tuple[str, Mapping[str, Any]]:
        if self.is_manifest:
            packed = packed_manifest(self.document)
            return ("GET", {"manifest": packed}) if len(packed) <= MAX_MANIFEST else ("POST", self.document)
        if self.is_posted:
            return "POST", self.document
        query = {name: _query_text(value) for name, value in self.document.items()}
        return ("GET", query) if len(urlencode(query)) <= MAX_QUERY else ("POST", self.document)


def asking(path: str, /, **fields: Any) -> Request:
    """Return the request for ``path`` with those of the fields that are not None.

    Sequences are joined by commas in a query: ``shape=512,784``.
    """
    return Request(path, {name: value for name, value in fields.items() if value is not None})


def asking_for_manifest(path: str, manifest: Mapping[str, Any]) -> Request:
    """Return the request for the file of a manifest."""
    return Request(path, manifest, is_manifest=True)


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
