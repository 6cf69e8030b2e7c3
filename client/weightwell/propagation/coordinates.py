"""The coordinate check of muP: how the size of activations depends on the width of a model while it is trained.

Yang et al. 2022, Tensor Programs V, arXiv:2203.03466, appendix D.1; the package mup, ``mup.coord_check``.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from weightwell.frameworks import imported
from weightwell.problems import did_you_mean
from weightwell.propagation.names import Selection
from weightwell.propagation.table import Row, Table, new_axes

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from torch import nn

Verdict = Literal["stable", "grows", "vanishes", "not finite", "zero"]

LEARNING_RATES = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}  # those of mup


class Sizes(Table):
    """The measured sizes: a row for each tensor that a module returns, and each width, seed and step.

    ``step``: the number of steps of training before. ``size``: the mean absolute value. ``std``: the standard
    deviation.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("name", "type", "width", "seed", "step", "size", "std")
    SHOWN: ClassVar[tuple[str, ...]] = COLUMNS


@dataclass(frozen=True, repr=False)
class CoordinateCheck(Table):
    """Whether the output of each module grows or vanishes with the width of the model. A row for each tensor.

    Columns: ``name``, ``type``: as in ``Signals``. ``size.narrowest``, ``size.widest``: the mean absolute value after
    the last step, averaged over the seeds. ``slope.initial``, ``slope.final``: the slope of log(size) against
    log(width), before the first and after the last step; ``slope.largest``: the largest of all steps; None if a size is
    zero or not finite. ``verdict``: ``grows`` if ``slope.largest`` is above ``tolerance``; else ``vanishes`` if
    ``slope.final`` is below ``-tolerance``; else ``stable``. It is ``not finite`` if a size is not finite, and ``zero``
    if a size is zero after the last step.

    ``passed``: whether all verdicts are ``stable``. ``sizes``: the measured sizes, as a table.
    """

    sizes: Sizes
    tolerance: float

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "name",
        "type",
        "size.narrowest",
        "size.widest",
        "slope.initial",
        "slope.final",
        "slope.largest",
        "verdict",
    )
    SHOWN: ClassVar[tuple[str, ...]] = COLUMNS

    @property
    def passed(self) -> bool:
        """Whether every module is stable."""
        return all(row["verdict"] == "stable" for row in self.rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """The overall verdict, as a sentence."""
        if self.passed:
            return ("passed: no size depends on the width",)
        failed = [row["name"] for row in self.rows if row["verdict"] != "stable"]
        return (f"failed: {len(failed)} of {len(self.rows)} are not stable, first {failed[0]}",)

    def plot(
        self, *columns: str, ax: "Axes | None" = None, label: str | None = None, step: int | None = None, **options: Any
    ) -> "Axes":
        """Draw size against width, a line for each tensor, and return the axes of matplotlib.

        ``columns``: the names of the tensors; all by default. ``step``: the number of steps of training; the last by
        default. ``label`` is put in front of the names in the legend. ``options``: for ``Axes.plot``. Raises KeyError
        for a name that the table does not have, and MissingFramework without matplotlib.
        """
        for name in columns:
            if name not in self["name"]:
                raise KeyError(f"no row {name!r}; the rows are {', '.join(self['name'])}")
        axes = new_axes() if ax is None else ax
        step = max(self.sizes["step"]) if step is None else step
        widths = sorted(set(self.sizes["width"]))
        for name in columns or self["name"]:
            heights = [_mean(_sizes(self.sizes.rows, name, step, width)) for width in widths]
            axes.plot(widths, heights, label=" ".join(filter(None, (label, name))), **{"marker": "o", **options})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("width")
        axes.set_ylabel(f"mean absolute value after {step} steps")
        axes.legend()
        return axes


def coordinate_check(
    build: "Callable[[int], nn.Module]",
    widths: Iterable[int],
    batch: Any,
    *,
    optimizer: "str | Callable[[nn.Module], torch.optim.Optimizer]" = "sgd",
    lr: float | None = None,
    loss: Callable[..., Any] | None = None,
    nsteps: int = 3,
    nseeds: int = 1,
    modules: Selection = None,
    tolerance: float = 0.2,
) -> CoordinateCheck:
    """Train a model of each width for a few steps, and fit how the size of each module's output depends on the width.

    In the maximal update parametrization (muP), no size depends on the width. In the standard parametrization, sizes
    grow with it after the first step, so that a learning rate found for a narrow model is too large for a wide one.

    ``build(width)`` returns a model. torch's generator has the seed 0, 1, ... ``nseeds - 1`` before; a ``build`` that
    draws weights with this package can use ``torch.initial_seed()`` as its seed. ``widths``: two or more.

    ``batch``: ``(input, target)``, where the input is a tensor, a tuple or a mapping of the model's arguments; or a
    mapping of keyword arguments, with which the model returns an output with a ``loss``. It is used in every step.
    ``loss``: ``loss(output, target)``, or ``loss(output)`` for a mapping; by default the cross entropy for targets of
    integers, the mean squared error for others, and the ``loss`` of the output for a mapping.

    ``optimizer``: ``sgd``, ``adam`` or ``adamw`` with the learning rate ``lr`` (0.1 for sgd, 1e-3 for others), or a
    function from the model to an optimizer of torch. ``nsteps``: sizes are measured before the first and after each of
    so many steps. ``modules``: as in ``signals``. ``tolerance``: slopes in [-tolerance, tolerance] are stable.

    The states of torch's random generators are restored.

    Raises TypeError and ValueError for invalid arguments, ValueError if modules have other names in other widths, and
    MissingFramework without torch.
    """
    imported("torch", extra="torch")
    from weightwell.propagation.training import sizes_of

    wanted = sorted(set(widths))
    if len(wanted) < 2 or not all(isinstance(width, int) and width > 0 for width in wanted):
        raise ValueError(f"widths must be two or more different positive integers, got {wanted!r:.80}")
    if nsteps < 1 or nseeds < 1:
        raise ValueError(f"nsteps and nseeds must be at least 1, got {nsteps} and {nseeds}")
    if not callable(optimizer):
        if optimizer not in LEARNING_RATES:
            hint = did_you_mean(optimizer, LEARNING_RATES)
            raise ValueError(
                f"optimizer must be one of {', '.join(LEARNING_RATES)}, or a function, got {optimizer!r}{hint}"
            )
        lr = LEARNING_RATES[optimizer] if lr is None else lr
    elif lr is not None:
        raise ValueError(f"lr={lr} has no effect on an optimizer that is a function: set the rate in the function")
    rows: list[Row] = []
    for width in wanted:
        for seed in range(nseeds):
            found = sizes_of(build, width, batch, seed, optimizer, lr, loss, nsteps, modules)
            rows += found
    return _checked(rows, wanted, nsteps, tolerance)


def _checked(rows: list[Row], widths: Sequence[int], nsteps: int, tolerance: float) -> CoordinateCheck:
    """Fit the slopes of the measured sizes."""
    names = {width: {row["name"]: row["type"] for row in rows if row["width"] == width} for width in widths}
    for width in widths[1:]:
        if other := names[width].keys() ^ names[widths[0]].keys():
            raise ValueError(
                f"the model of width {width} has other outputs than that of width {widths[0]}: {min(other)}; widths "
                "must not change which modules a model has"
            )
    found = []
    for name, kind in names[widths[0]].items():
        slopes = [_slope(rows, name, step) for step in range(nsteps + 1)]
        fitted = [slope for slope in slopes if slope is not None]
        found.append(
            {
                "name": name,
                "type": kind,
                "size.narrowest": _mean(_sizes(rows, name, nsteps, widths[0])),
                "size.widest": _mean(_sizes(rows, name, nsteps, widths[-1])),
                "slope.initial": slopes[0],
                "slope.final": slopes[-1],
                "slope.largest": max(fitted, default=None),
                "verdict": _verdict([row["size"] for row in rows if row["name"] == name], slopes, tolerance),
            }
        )
    return CoordinateCheck(tuple(found), Sizes(tuple(rows)), tolerance)


def _verdict(sizes: Sequence[float], slopes: Sequence[float | None], tolerance: float) -> Verdict:
    if not all(map(math.isfinite, sizes)):
        return "not finite"
    if any(slope is not None and slope > tolerance for slope in slopes):
        return "grows"
    if slopes[-1] is None:
        return "zero"
    return "vanishes" if slopes[-1] < -tolerance else "stable"


def _slope(rows: Sequence[Row], name: str, step: int) -> float | None:
    """Return the least-squares slope of log(size) against log(width); None if a size has no logarithm."""
    points = [(row["width"], row["size"]) for row in rows if row["name"] == name and row["step"] == step]
    if not all(0 < size < math.inf for _, size in points):
        return None
    widths, sizes = ([math.log(number) for number in numbers] for numbers in zip(*points, strict=True))
    middle = _mean(widths)
    return sum((x - middle) * y for x, y in zip(widths, sizes, strict=True)) / sum((x - middle) ** 2 for x in widths)


def _sizes(rows: Sequence[Row], name: str, step: int, width: int) -> list[float]:
    return [row["size"] for row in rows if (row["name"], row["step"], row["width"]) == (name, step, width)]


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
