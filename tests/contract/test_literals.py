"""The values in the client's types are those of the server."""

from typing import Any, Literal, get_args, get_origin

import pytest

from weightwell import literals
from weightwell.dtypes import DTYPES as CLIENT_DTYPES
from weightwell.frameworks import VIEWERS
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.mean_field import Stability
from weightwell_engine.parsing import GainQuery
from weightwell_engine.presets import PRESETS
from weightwell_engine.schemes import ALIASES, SCHEMES
from weightwell_engine.spec import GENERATORS


def choices(parameter: str) -> set[str]:
    """The words that a parameter may have in any scheme."""
    annotations = [
        each.annotation for scheme in SCHEMES.values() for each in scheme.parameters if each.name == parameter
    ]
    kinds = [each if get_origin(each) is Literal else get_args(each)[0] for each in annotations]
    return {word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)}


@pytest.mark.parametrize(
    ("literal", "words"),
    [
        (literals.SchemeName, set(ALIASES)),
        (literals.DTypeName, set(DTYPES)),
        (literals.DTypeName, set(CLIENT_DTYPES)),
        (literals.PresetName, set(PRESETS)),
        (literals.GeneratorName, set(GENERATORS)),
        (literals.FrameworkName, set(VIEWERS)),
        (literals.GainSource, set(get_args(GainQuery.model_fields["source"].annotation))),
        (literals.Stability, set(get_args(Stability))),
        (literals.Mode, choices("mode")),
        (literals.Distribution, choices("distribution")),
        (literals.Layout, choices("layout")),
    ],
)
def test_a_literal_has_the_words_that_there_are(literal: Any, words: set[str]) -> None:
    assert set(get_args(literal)) == words


def test_the_parameters_are_those_of_all_schemes() -> None:
    known = {parameter.name for scheme in SCHEMES.values() for parameter in scheme.parameters}
    assert literals.Parameters.__annotations__.keys() == known
