"""Reading: from a query string or a JSON body to the spec that it means."""

import json
from collections import Counter
from collections.abc import Iterable

from weightwell_service.exceptions import InvalidSpec, MalformedBody, TooLarge
from weightwell_service.spec import Spec
from weightwell_service.wire.link import unpack
from weightwell_service.wire.manifest import read_manifest, read_single
from weightwell_service.wire.models import SINGLES, GainQuery, of_scheme, validate

# What only a manifest says.
_MANIFEST = ("tensors", "rules", "preset")

# Bytes of the JSON in a URL: more than a model's URL of usual length unpacks to. A bomb can be a thousandth as long.
_MAX_LINKED = 2**20

# Objects, and lists: a tensor is an object with a list in it. What is read of each takes kilobytes, and millions of
# empty ones would take seconds in which nobody else is served.
_MAX_PARTS = 2**17


def read_query(items: Iterable[tuple[str, str]], *, max_manifest: int = _MAX_LINKED) -> Spec:
    """Return the spec that a query string means: of one tensor, or of a manifest of at most so many bytes, or 1 MiB.

    Raises ``InvalidSpec`` or ``InvalidSpecs`` if it means none, and ``TooLarge``.
    """
    fields = _once(items)
    if "manifest" in fields:
        return _read_linked(fields, max_manifest)
    return read_single(validate(of_scheme(fields, SINGLES), fields, strings=True))


def _read_linked(fields: dict[str, str], limit: int) -> Spec:
    packed = fields.pop("manifest")
    for field, value in fields.items():
        raise InvalidSpec(field, got=value, expected="absent beside a manifest, which says everything")
    try:
        return read_body(unpack(packed, limit=min(limit, _MAX_LINKED)))
    except MalformedBody as error:
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


def read_body(body: bytes) -> Spec:
    """Return the spec that a JSON body means.

    Raises ``MalformedBody``, ``InvalidSpec`` or ``InvalidSpecs`` if it means none, and ``TooLarge`` for too many
    tensors and for rules that take too long.
    """
    fields = _parse_json(body)
    if not isinstance(fields, dict):
        raise MalformedBody(f"the body must be a JSON object, got {_kind(fields)}")
    if any(field in fields for field in _MANIFEST):
        return read_manifest(fields)
    return read_single(validate(of_scheme(fields, SINGLES), fields))


def _parse_json(body: bytes) -> object:
    try:
        text = body.decode("utf-8-sig")
        if max(text.count("{"), text.count("[")) > _MAX_PARTS:
            raise TooLarge(f"the body holds more than {_MAX_PARTS} objects or lists; split the manifest")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"the body must be JSON (RFC 8259): {error}") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"each key must be given once, got {twice[:80]!r} twice")
    return fields


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number, and no parameter may have that value")


def _kind(value: object) -> str:
    return {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
