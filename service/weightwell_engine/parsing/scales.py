"""Scales: tensors that multiply the output of a layer, such as the weight of a norm.

A rule such as ``{"match": "*", "scheme": "normal", "std": 0.02}`` is written for matrices. If it also drew the weight
of a norm, or the magnitudes of a weight norm, the signal would be divided by fifty. So a rule with a random scheme must
name scales explicitly: by their ``module``, or by a pattern that does not match all other names.
"""

from collections.abc import Collection
from dataclasses import dataclass

from weightwell_engine.modules import MODULES

NORMS = frozenset(name for name in MODULES if "Norm" in name)

# A name that no tensor has. A pattern that also matches this name does not name the scale explicitly.
_ANY = "x"

# Leaves that many types of modules have.
_COMMON = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Scale:
    """A tensor that needs an explicit rule.

    ``words`` describe it. ``others`` are names that other tensors could have instead. A pattern that matches all of
    them does not name this tensor explicitly. ``cure`` is an example of an explicit rule.
    """

    words: str
    others: tuple[str, ...]
    cure: dict[str, object]


def scale_of(name: str, *, ndim: int, module: str | None, siblings: Collection[str]) -> Scale | None:
    """Return a ``Scale`` if the tensor is one, else None.

    ``module`` is its type of module, and ``siblings`` are the leaves in the same module. Scales are all tensors of
    torch's norms, and the scalars and vectors of other modules with "norm" in their names.
    """
    path, _, leaf = name.rpartition(".")
    if _has_direction(path, leaf, siblings):
        return Scale(f"the magnitude {leaf}", (_joined(path, _ANY),), {"match": f"*{leaf}", "scheme": "ones"})
    if module is None or not (module in NORMS or ("norm" in module.lower() and ndim <= 1)):
        return None
    others = [_joined(path.rpartition(".")[0], _ANY, leaf)]
    if leaf not in _COMMON:
        others.append(_joined(path, _ANY))
    scheme = "reset_parameters" if module in NORMS else "zeros" if "bias" in leaf else "ones"
    return Scale(f"the {leaf} of a {module}", tuple(others), {"module": module, "scheme": scheme})


def _has_direction(path: str, leaf: str, siblings: Collection[str]) -> bool:
    """Return whether a tensor is the magnitude of torch's weight norm, old or new. Its direction is then a sibling."""
    if leaf == "original0":
        return "original1" in siblings and "parametrizations" in path.split(".")
    return leaf.endswith("_g") and f"{leaf[:-2]}_v" in siblings


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
