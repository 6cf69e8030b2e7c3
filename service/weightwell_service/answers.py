"""Answers in JSON that only HTTP has, and how any answer is written. The engine has the others.

An answer is a frozen dataclass: its type in code, the ``response_model`` of its route, and its schema in OpenAPI.
"""

from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal

from fastapi.responses import Response
from pydantic import Field, TypeAdapter

from weightwell_engine.description import FileDescription
from weightwell_engine.spec import Spec
from weightwell_service.links import address


@dataclass(frozen=True)
class Address:
    """Where a file can be fetched."""

    url: Annotated[str | None, Field(description="path and query of the file; null if that would be too long")]
    url_note: Annotated[str | None, Field(description="what to do where there is no url")]
    refusal: Annotated[str | None, Field(description="why this server would not draw the file; null if it would")]


@dataclass(frozen=True)
class PlanAnswer(FileDescription, Address):
    """Where a file can be fetched, and what it holds."""

    @classmethod
    def of(cls, spec: Spec, described: FileDescription, refusal: str | None) -> "PlanAnswer":
        """Return the answer for a spec whose file is described."""
        url, note = address(spec)
        known = {each.name: getattr(described, each.name) for each in fields(described)}
        return cls(**known, url=url, url_note=note, refusal=refusal)


@dataclass(frozen=True, slots=True)
class Live:
    """The process runs."""

    status: Literal["live"] = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Requests are served; ``generators`` has their identities, by name."""

    status: Literal["ready"] = "ready"
    version: str
    device: str
    generators: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """Requests should be sent elsewhere, for this ``reason``."""

    status: Literal["not ready"] = "not ready"
    reason: str
    version: str
    device: str
    generators: dict[str, str]


def json_answer(answer: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return the response that carries an answer.

    It is a ``Response``, so FastAPI does not validate the answer again: for a plan of thousands of tensors that would
    take longer than to make it.
    """
    kind: Any = type(answer)
    return Response(_adapter(kind).dump_json(answer), status, headers, media_type="application/json")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
