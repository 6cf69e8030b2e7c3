"""The JSON answers that only the service needs, and the function that writes any answer. The engine has the others.

Each answer is a frozen dataclass. The same class is the type in code, the ``response_model`` of its route, and the
schema in OpenAPI.
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
    """The address of a file."""

    url: Annotated[str | None, Field(description="path and query of the file; null if that would be too long")]
    url_note: Annotated[str | None, Field(description="what to do if url is null")]
    refusal: Annotated[str | None, Field(description="the reason why this server would refuse the file, or null")]


@dataclass(frozen=True)
class PlanAnswer(FileDescription, Address):
    """The address and the content of a file."""

    @classmethod
    def of(cls, spec: Spec, described: FileDescription, refusal: str | None) -> "PlanAnswer":
        """Return the answer for a spec and the description of its file."""
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
    """Return the response with an answer.

    It is a ``Response``, so FastAPI does not validate the answer again. For a plan of thousands of tensors, this would
    take longer than the plan.
    """
    return Response(json_bytes(answer), status, headers, media_type="application/json")


def json_bytes(answer: object) -> bytes:
    """Return an answer in JSON."""
    kind: Any = type(answer)
    return _adapter(kind).dump_json(answer)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
