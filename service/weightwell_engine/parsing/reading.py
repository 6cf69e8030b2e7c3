"""Reading: from a JSON document, or from the text fields of a query, to a spec."""

import json
from collections import Counter
from collections.abc import Mapping

from weightwell_engine.exceptions import MalformedDocument, TooLarge
from weightwell_engine.parsing.manifest import read_manifest, read_single
from weightwell_engine.parsing.models import SINGLES, of_scheme, validate
from weightwell_engine.spec import Spec

# Fields that only a manifest has.
_MANIFEST = ("tensors", "rules", "preset")

# The most objects, or lists, in a document. A tensor is an object with a list, and takes kilobytes to read. Millions of
# empty ones would take seconds.
_MAX_PARTS = 2**17


def read_document(text: bytes) -> Spec:
    """Return the spec of a JSON document: of one tensor, or of a manifest of many.

    Raises ``MalformedDocument``, ``InvalidSpec`` or ``InvalidSpecs`` if it has none, and ``TooLarge`` for too many
    tensors and for rules that take too long.
    """
    return read_fields(parse_object(text))


def read_fields(fields: Mapping[str, object]) -> Spec:
    """Return the spec of a parsed JSON object; raises as ``read_document``."""
    if any(field in fields for field in _MANIFEST):
        return read_manifest(fields)
    return read_single(validate(of_scheme(fields, SINGLES), fields))


def read_text_fields(fields: Mapping[str, str]) -> Spec:
    """Return the spec of one tensor whose fields are text, such as ``shape=512,784``; raises as ``read_document``."""
    return read_single(validate(of_scheme(fields, SINGLES), fields, strings=True))


def parse_object(text: bytes) -> dict[str, object]:
    """Return the fields of a JSON object; raise ``MalformedDocument``, or ``TooLarge`` for too many objects in it."""
    fields = _parse_json(text)
    if not isinstance(fields, dict):
        raise MalformedDocument(f"the body must be a JSON object, got {_kind(fields)}")
    return fields


def _parse_json(body: bytes) -> object:
    try:
        text = body.decode("utf-8-sig")
        if max(text.count("{"), text.count("[")) > _MAX_PARTS:
            raise TooLarge(f"the body holds more than {_MAX_PARTS} objects or lists; split the manifest")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedDocument(f"the body must be JSON (RFC 8259): {error}") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"each key must be given once, got {twice[:80]!r} twice")
    return fields


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number, and no parameter can have that value")


def _kind(value: object) -> str:
    return {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
