"""Parsing: from JSON, or from the text fields of a query, to a spec, with pydantic.

fields      the values of a name, a shape, a seed, a slice or a list of axes
models      the fields of a tensor, a rule and a manifest; a model for every scheme and every preset
rules       which tensors a rule matches
scales      tensors, such as norm weights, that a rule for all tensors must not draw at random
manifest    from models to specs
reading     from documents to specs
gain        questions for gains
signal      questions for signals
"""

from weightwell_engine.parsing.fields import (
    DEFAULT_DTYPE,
    DEFAULT_NAME,
    DEFAULT_SEED,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_SEED,
    MAX_SIZE,
    MAX_VALUES,
    is_name,
)
from weightwell_engine.parsing.gain import GainQuery, read_gain
from weightwell_engine.parsing.models import (
    ENTRIES,
    PARTS,
    RULES,
    SINGLES,
    Alias,
    Entry,
    Manifest,
    Model,
    schema_of,
    validate,
)
from weightwell_engine.parsing.reading import read_document, read_fields, read_text_fields
from weightwell_engine.parsing.signal import EQUAL_LAYERS, LAYER_ENTRIES, LayerList, read_signal, read_signal_document

__all__ = [
    "DEFAULT_DTYPE",
    "DEFAULT_NAME",
    "DEFAULT_SEED",
    "ENTRIES",
    "EQUAL_LAYERS",
    "LAYER_ENTRIES",
    "MAX_DIMENSIONS",
    "MAX_NAME",
    "MAX_SEED",
    "MAX_SIZE",
    "MAX_VALUES",
    "PARTS",
    "RULES",
    "SINGLES",
    "Alias",
    "Entry",
    "GainQuery",
    "LayerList",
    "Manifest",
    "Model",
    "is_name",
    "read_document",
    "read_fields",
    "read_gain",
    "read_signal",
    "read_signal_document",
    "read_text_fields",
    "schema_of",
    "validate",
]
