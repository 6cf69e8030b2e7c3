"""Requests: the questions that a server answers, before any of them is sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

# Well under the 8 KiB line that common proxies accept, and far beyond any spec written by hand.
MAX_QUERY = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a GET with query parameters, or a POST of the same fields in JSON."""

    path: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    method: str = "GET"

    @property
    def message(self) -> dict[str, Any]:
        """The request in the words of ``httpx.Client.stream``."""
        body = {"params": self.fields} if self.method == "GET" else {"json": self.fields}
        return {"method": self.method, "url": self.path, **body}


def asking(path: str, /, **fields: Any) -> Request:
    """Return the request for ``path`` with those of the fields that are not None.

    It is a GET, which caches may answer and whose answer can be resumed, unless its query would be too long.
    Sequences are joined by commas in a query: ``shape=512,784``.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    query = {name: _query_text(value) for name, value in given.items()}
    if len(str(httpx.QueryParams(query))) <= MAX_QUERY:
        return Request(path, query)
    return Request(path, given, method="POST")


def _query_text(value: Any) -> str:
    """Return a field as it stands in a query; the text of a float reads back as the same float."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)
