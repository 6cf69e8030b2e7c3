"""Warnings: what is drawn as it was asked for, and may be not what was meant.

Each has a category of its own, so that a filter can silence it or make it an error.
"""

import json
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any


class RepeatedStreamWarning(UserWarning):
    """The same seed and name were drawn with another shape or law: numbers that are correlated with earlier ones."""


class UnusedRuleWarning(UserWarning):
    """No tensor takes a rule, or the scheme of a type of module."""


class UnfilledWarning(UserWarning):
    """A module has weights that are not drawn, and that keep their values."""


def caution(category: type[UserWarning], message: str) -> None:
    """Warn whoever called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "weightwell":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def caution_unused(rules: Sequence[Mapping[str, Any]], listed: str) -> None:
    """Warn of those rules of a manifest that a server lists because no tensor takes them: ``rules.0, rules.2``."""
    places = [int(place) for place in re.findall(r"rules\.(\d+)", listed)]
    if unused := [json.dumps(rules[place], ensure_ascii=False) for place in places if place < len(rules)]:
        caution(
            UnusedRuleWarning,
            f"no tensor takes the rule {' or '.join(unused)}: no name matches, or a rule before takes all that do. "
            "Correct it; or, where one list is for several models, ignore weightwell.UnusedRuleWarning",
        )
