"""Queries: from query strings to specs, and to the parameters of ``/gain`` and ``/signal``."""

from collections.abc import Iterable
from urllib.parse import parse_qsl

from weightwell_engine.exceptions import InvalidSpec, MalformedDocument
from weightwell_engine.parsing import GainQuery, read_document, read_gain, read_signal, read_text_fields
from weightwell_engine.spec import Spec
from weightwell_engine.stack import Stack
from weightwell_service.links import MAX_LINKED, unpack

# The most fields of a query, which is many more than any scheme has. Each unknown field is compared with all known
# names, to make a suggestion.
MAX_FIELDS = 100


def split_query(query: bytes) -> list[tuple[str, str]]:
    """Return the fields of a query string, in order; raise ``InvalidSpec`` for more than ``MAX_FIELDS``."""
    if (count := query.count(b"&") + 1) > MAX_FIELDS:
        raise InvalidSpec("query", got=count, expected=f"a query of at most {MAX_FIELDS} fields")
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


def read_query(items: Iterable[tuple[str, str]], *, max_manifest: int = MAX_LINKED) -> Spec:
    """Return the spec of a query string, for one tensor or for a manifest. ``max_manifest`` limits its JSON in bytes.

    Raises ``InvalidSpec`` or ``InvalidSpecs`` for an invalid query, and ``TooLarge``.
    """
    fields = _once(items)
    if "manifest" in fields:
        return _read_linked(fields, max_manifest)
    return read_text_fields(fields)


def _read_linked(fields: dict[str, str], limit: int) -> Spec:
    packed = fields.pop("manifest")
    for field, value in fields.items():
        raise InvalidSpec(field, got=value, expected="absent if there is a manifest, which contains all fields")
    try:
        return read_document(unpack(packed, limit=min(limit, MAX_LINKED)))
    except MalformedDocument as error:
        expected = "a spec in JSON, compressed with zlib, in base64url"
        raise InvalidSpec("manifest", got=packed, expected=expected, detail=f"manifest: {error}") from None


def read_gain_query(items: Iterable[tuple[str, str]]) -> GainQuery:
    """Return the parameters of a query to ``/gain``; raises as ``read_query``."""
    return read_gain(_once(items), strings=True)


def read_signal_query(items: Iterable[tuple[str, str]]) -> Stack:
    """Return the stack of equal layers in a query to ``/signal``; raises as ``read_query``."""
    return read_signal(_once(items), strings=True)


def _once(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in items:
        if key in fields:
            raise InvalidSpec(key, got=[fields[key], value], expected="given once", detail=f"{key} is given twice")
        fields[key] = value
    return fields
