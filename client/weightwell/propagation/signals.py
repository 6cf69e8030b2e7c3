"""Signals and gradients through a torch module as it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from weightwell.frameworks import imported
from weightwell.propagation.names import Selection, selected
from weightwell.propagation.table import Table

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class FirstNotFinite:
    """The first rows with a value that is not finite, in the order of computation, by name; None if there is none.

    ``backward``: gradients are computed from the last row to the first.
    """

    forward: str | None
    backward: str | None


@dataclass(frozen=True, repr=False)
class Signals(Table):
    """Statistics of each tensor that each call of a module returned, in the order in which the calls ended.

    Columns: ``name``, which no other row has: the module, the place of the tensor in what the module returned, and,
    after the first, the number of the call, as in ``lstm[1][0]`` and ``relu #2``. ``module``, ``call``, ``output``: the
    same apart. ``type``, ``shape``, ``dtype``, ``channel_axis``.

    ``forward.mean``, ``.std``, ``.rms`` (root mean square), ``.largest`` (absolute value); ``.zeros`` and
    ``.not_finite``: fractions in [0, 1]; ``.channel_squared_mean`` and ``.channel_variance``: the squared mean and the
    variance of each channel over all other axes, averaged over the channels (Brock et al. 2021, arXiv:2101.08692).

    ``backward.rms``: of the gradient with respect to this tensor, for gradients of random signs at the outputs of the
    model. None if no gradient arrives here. ``backward.ratio``: ``backward.rms`` divided by that of the last row that
    has one.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "name",
        "module",
        "call",
        "output",
        "type",
        "shape",
        "dtype",
        "channel_axis",
        "forward.mean",
        "forward.std",
        "forward.rms",
        "forward.largest",
        "forward.zeros",
        "forward.not_finite",
        "forward.channel_squared_mean",
        "forward.channel_variance",
        "backward.rms",
        "backward.ratio",
    )
    SHOWN: ClassVar[tuple[str, ...]] = (
        "name",
        "type",
        "forward.mean",
        "forward.std",
        "forward.rms",
        "forward.zeros",
        "backward.rms",
    )
    PLOTTED: ClassVar[tuple[str, ...]] = ("forward.rms", "backward.rms")
    X_LABEL: ClassVar[str] = "call of a module"

    @property
    def first_not_finite(self) -> FirstNotFinite:
        """The first rows with a value that is not finite."""
        forward = (row["name"] for row in self.rows if row.get("forward.not_finite"))
        backward = (row["name"] for row in reversed(self.rows) if not math.isfinite(row.get("backward.rms") or 0))
        return FirstNotFinite(next(forward, None), next(backward, None))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that name the first rows that are not finite, if there are any."""
        first = self.first_not_finite
        found = {"value": first.forward, "gradient": first.backward}
        return tuple(f"first {kind} that is not finite: {name}" for kind, name in found.items() if name is not None)


def signals(
    model: "nn.Module",
    batch: Any,
    *,
    modules: Selection = None,
    output: Callable[[Any], Any] | None = None,
    backward: bool = True,
    seed: int = 0,
) -> Signals:
    """Measure the signal and its gradient at the output of every module of a model, in one forward and one backward.

    ``batch``: ``model(batch)`` for a tensor, ``model(*batch)`` for a tuple or a list, ``model(**batch)`` for a mapping,
    such as the result of a tokenizer of transformers. It must be on the devices of the model.

    ``modules``: which modules get rows: a glob of names (``"transformer.h.*"``, where ``*`` also matches dots), a type,
    or several of both; all by default. ``output``: a function from what the model returns to the outputs from which
    gradients start, such as ``lambda answer: answer.logits``; all floating-point tensors by default. At these, the
    gradient is 1 or -1 for each element, with random signs by ``seed``: random numbers of mean 0 and variance 1.
    ``backward=False``: only the forward pass, without memory for gradients.

    Tensors of floating-point numbers in tuples, lists, mappings, dataclasses and outputs of transformers have rows.
    The model computes as it does otherwise, in its mode (``train`` or ``eval``) and under the ``torch.autocast`` of the
    caller. A caller's ``no_grad`` or ``inference_mode`` changes nothing. Random numbers of the model, such as those of
    dropout, are seeded by ``seed``. Afterwards the model and torch are as before: hooks, buffers, gradients and
    ``requires_grad`` of parameters, and the states of the random generators. While it runs, no other thread may use
    the model.

    Raises TypeError if the model or the batch is of another kind; ValueError for parameters on the meta device and for
    ``modules`` that match none; MissingFramework without torch; and what the model raises.
    """
    torch = imported("torch", extra="torch")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    from weightwell.propagation.hooks import measured
    from weightwell.propagation.preserved import check_values

    check_values(model)
    names = selected(model, modules)
    rows = measured(model, batch, names, output=output, backward=backward, seed=seed)
    arrived = [row["backward.rms"] for row in rows if "backward.rms" in row]
    for row in rows:
        if "backward.rms" in row:
            row["backward.ratio"] = row["backward.rms"] / arrived[-1] if arrived[-1] else math.nan
    return Signals(tuple(rows))
