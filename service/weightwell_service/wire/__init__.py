"""The wire: what a query string or a JSON body may say, and the spec that it means.

Pydantic lives here and in ``settings`` only.

    fields      what a name, a shape, a seed or a slice can be
    models      what a tensor, a rule and a manifest may say; a model for every scheme
    rules       which tensors a rule is for
    manifest    from models to specs
    link        a manifest in a URL, and back
    reading     from queries and bodies to specs
"""

from weightwell_service.wire.fields import (
    DEFAULT_DTYPE,
    DEFAULT_NAME,
    DEFAULT_SEED,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_SEED,
    MAX_SIZE,
)
from weightwell_service.wire.link import MAX_URL, link, pack, unpack
from weightwell_service.wire.models import ENTRIES, RULES, SINGLES, Alias, Entry, GainQuery, Manifest, schema_of
from weightwell_service.wire.reading import read_body, read_gain_query, read_query

__all__ = [
    "DEFAULT_DTYPE",
    "DEFAULT_NAME",
    "DEFAULT_SEED",
    "ENTRIES",
    "MAX_DIMENSIONS",
    "MAX_NAME",
    "MAX_SEED",
    "MAX_SIZE",
    "MAX_URL",
    "RULES",
    "SINGLES",
    "Alias",
    "Entry",
    "GainQuery",
    "Manifest",
    "link",
    "pack",
    "read_body",
    "read_gain_query",
    "read_query",
    "schema_of",
    "unpack",
]
