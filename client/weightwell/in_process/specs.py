"""Specs: the engine's reading of a request."""

import json
from typing import Any

from weightwell.request import Request
from weightwell_engine.parsing import read_document, read_fields
from weightwell_engine.spec import Spec


def spec_of(request: Request) -> Spec:
    """Return the spec of the file that answers a request; raise the engine's errors."""
    if request.is_manifest:
        return read_document(json_of(request))
    return read_fields(
        {name: list(each) if isinstance(each, tuple) else each for name, each in request.document.items()}
    )


def json_of(request: Request) -> bytes:
    """Return the document of a request as JSON, so that the engine parses the same text as in a server."""
    return json.dumps(request.document, ensure_ascii=False, allow_nan=False, default=_refuse).encode()


def _refuse(value: object) -> Any:
    raise TypeError(f"{value!r:.80} is not JSON")
