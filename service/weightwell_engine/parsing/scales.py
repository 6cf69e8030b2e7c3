"""Scales: tensors that multiply what a layer computes, and that a rule for any tensor must not draw at random.

A rule such as ``{"match": "*", "scheme": "normal", "std": 0.02}`` is written for matrices. The weight of a norm, or the
magnitudes of a weight norm, drawn by it would divide the signal by fifty. So a random scheme needs a rule that names
them: by their ``module``, or by a pattern that does not match any other name in their place.
"""

from collections.abc import Collection
from dataclasses import dataclass

from weightwell_engine.modules import MODULES

NORMS = frozenset(name for name in MODULES if "Norm" in name)

# Any name: what a pattern matches in the place of a scale's own name, it does not match because of that name.
_ANY = "x"

# The leaves that all kinds of modules have.
_COMMON = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Scale:
    """A tensor that must have a rule of its own.

    ``words`` say what it is. A pattern that matches every one of the ``others``, which are names that other tensors
    might have in its place, is not about it. ``cure`` is a rule of its own.
    """

    words: str
    others: tuple[str, ...]
    cure: dict[str, object]


def scale_of(name: str, *, ndim: int, module: str | None, siblings: Collection[str]) -> Scale | None:
    """Return what a tensor scales, or None if it is no scale.

    ``module`` is its type of module, and ``siblings`` are the leaves in the same module. Norms are those of torch, with
    all of their tensors, and modules with "norm" in their names, with their scalars and vectors.
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
    """Return whether a tensor is a magnitude of torch's weight norm, old or new, which has a direction beside it."""
    if leaf == "original0":
        return "original1" in siblings and "parametrizations" in path.split(".")
    return leaf.endswith("_g") and f"{leaf[:-2]}_v" in siblings


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
