"""A few steps of training, and the size of the output of each module before and after each step."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from weightwell.propagation.names import Selection, row_name, selected
from weightwell.propagation.outputs import called, signals_in
from weightwell.propagation.preserved import seeded
from weightwell.propagation.statistics import forward_statistics, mean_size

_OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def sizes_of(
    build: Callable[[int], nn.Module],
    width: int,
    batch: Any,
    seed: int,
    optimizer: str | Callable[[nn.Module], torch.optim.Optimizer],
    lr: float | None,
    loss: Callable[..., Any] | None,
    nsteps: int,
    modules: Selection,
) -> list[dict[str, Any]]:
    """Return the rows of one width and one seed, in the order of the steps and of the calls."""
    rows: list[dict[str, Any]] = []
    with torch.inference_mode(mode=False), torch.enable_grad(), seeded(seed):
        model = build(width)
        if not isinstance(model, nn.Module):
            raise TypeError(f"build must return a torch.nn.Module, got {type(model).__name__} for width {width}")
        names = selected(model, modules)
        steps = optimizer(model) if callable(optimizer) else _OPTIMIZERS[optimizer](model.parameters(), lr=lr)
        for step in range(nsteps + 1):
            pass_ = _Pass(names, {"width": width, "seed": seed, "step": step})
            value = pass_.loss(model, batch, loss)
            rows += pass_.rows
            if step < nsteps:
                steps.zero_grad()
                torch.autograd.backward(value)
                steps.step()
    return rows


@dataclass
class _Pass:
    """The rows of one forward pass. ``fields`` are the same in all rows."""

    names: dict[nn.Module, str]
    fields: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    calls: Counter[nn.Module] = field(default_factory=Counter)

    def loss(self, model: nn.Module, batch: Any, loss: Callable[..., Any] | None) -> torch.Tensor:
        """Call the model and return its loss."""
        with ExitStack() as stack:
            for module in self.names:
                stack.callback(module.register_forward_hook(self._after).remove)
            if isinstance(batch, Mapping):
                output = called(model, batch)
                return loss(output) if loss is not None else _own_loss(output)
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise TypeError(
                    "batch must be (input, target), or a mapping of arguments with which the model returns a loss, "
                    f"got {type(batch).__name__}"
                )
            output = called(model, batch[0])
        return loss(output, batch[1]) if loss is not None else _default_loss(output, batch[1])

    def _after(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self.calls[module] += 1
        for path, tensor in signals_in(output):
            self.rows.append(
                {
                    "name": row_name(self.names[module], path, self.calls[module]),
                    "type": type(module).__name__,
                    **self.fields,
                    "size": mean_size(tensor) if tensor.numel() else 0.0,
                    "std": forward_statistics(tensor, -1).get("forward.std"),
                }
            )


def _own_loss(output: Any) -> torch.Tensor:
    value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(value, torch.Tensor):
        return value
    raise ValueError("the model returned no loss: put labels into the batch, or give loss=, a function of its output")


def _default_loss(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy over the last axis for a target of integers, else the mean squared error."""
    _, first = next(signals_in(output))
    if target.is_floating_point():
        return functional.mse_loss(first, target)
    return functional.cross_entropy(first.flatten(0, -2), target.flatten())
