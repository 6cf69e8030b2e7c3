"""Warnings: valid requests that are likely mistakes.

Each warning has its own category, so you can ignore it or turn it into an error with a filter.
"""

import json
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any


class RepeatedStreamWarning(UserWarning):
    """The same seed and name were drawn before with another shape or scheme, so the two tensors are correlated."""


class UnusedRuleWarning(UserWarning):
    """A rule, or a scheme for a type of module, matches no tensor."""


class UnfilledWarning(UserWarning):
    """Some weights of a module are not drawn and keep their values."""


def caution(category: type[UserWarning], message: str) -> None:
    """Warn at the line that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "weightwell":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def caution_unused(rules: Sequence[Mapping[str, Any]], listed: str) -> None:
    """Warn of the rules that match no tensor, as the server lists them: ``rules.0, rules.2``."""
    if not listed:
        return
    places = [int(place) for place in re.findall(r"rules\.(\d+)", listed)]
    if unused := [json.dumps(rules[place], ensure_ascii=False) for place in places if place < len(rules)]:
        caution(
            UnusedRuleWarning,
            f"no tensor uses the rule {' or '.join(unused)}: it matches no name, or earlier rules match first. "
            "Correct it. If one list serves several models, ignore weightwell.UnusedRuleWarning",
        )
