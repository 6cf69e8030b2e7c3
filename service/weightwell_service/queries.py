"""Queries: what a query string asks for."""

from collections.abc import Iterable
from typing import Annotated, Literal
from urllib.parse import parse_qsl

from pydantic import Field

from weightwell_engine.exceptions import InvalidSpec, MalformedDocument
from weightwell_engine.parsing import Model, read_document, read_text_fields, validate
from weightwell_engine.spec import Spec
from weightwell_service.links import MAX_LINKED, unpack

# Fields of a query: many more than any scheme has. Unknown ones would be compared with all known names.
MAX_FIELDS = 100


class GainQuery(Model):
    """A question for a gain."""

    nonlinearity: Annotated[
        str | None, Field(description="whose gain; without it, the whole table", examples=["relu"])
    ] = None
    param: Annotated[float | None, Field(description="its parameter, such as the negative slope of leaky_relu")] = None
    source: Annotated[
        Literal["torch", "quadrature"],
        Field(description="torch: the value that torch recommends; quadrature: what a normal input measures"),
    ] = "torch"


def split_query(query: bytes) -> list[tuple[str, str]]:
    """Return the fields of a query string, in order; raise ``InvalidSpec`` for more than ``MAX_FIELDS``."""
    if (count := query.count(b"&") + 1) > MAX_FIELDS:
        raise InvalidSpec("query", got=count, expected=f"a query of at most {MAX_FIELDS} fields")
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


def read_query(items: Iterable[tuple[str, str]], *, max_manifest: int = MAX_LINKED) -> Spec:
    """Return the spec that a query string means: of one tensor, or of a manifest of at most so many bytes, or 1 MiB.

    Raises ``InvalidSpec`` or ``InvalidSpecs`` if it means none, and ``TooLarge``.
    """
    fields = _once(items)
    if "manifest" in fields:
        return _read_linked(fields, max_manifest)
    return read_text_fields(fields)


def _read_linked(fields: dict[str, str], limit: int) -> Spec:
    packed = fields.pop("manifest")
    for field, value in fields.items():
        raise InvalidSpec(field, got=value, expected="absent beside a manifest, which says everything")
    try:
        return read_document(unpack(packed, limit=min(limit, MAX_LINKED)))
    except MalformedDocument as error:
        expected = "a spec in JSON, compressed with zlib, in base64url"
        raise InvalidSpec("manifest", got=packed, expected=expected, detail=f"manifest: {error}") from None


def read_gain_query(items: Iterable[tuple[str, str]]) -> GainQuery:
    """Return the question that a query string asks of ``/gain``; raises as ``read_query``."""
    query = validate(GainQuery, _once(items), strings=True)
    if query.nonlinearity is None and query.param is not None:
        raise InvalidSpec("param", got=query.param, expected="given beside the nonlinearity that it belongs to")
    return query


def _once(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in items:
        if key in fields:
            raise InvalidSpec(key, got=[fields[key], value], expected="given once", detail=f"{key} is given twice")
        fields[key] = value
    return fields
