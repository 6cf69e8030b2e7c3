"""Statistics of every call of the modules of a model, forward and backward, by hooks.

A full backward hook of a module puts a function of its own around the module, and fails where the next module works in
place. A hook of a tensor does not: it gets the gradient of the value that the tensor had when it was registered.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from weightwell.models.modules import torch_type
from weightwell.propagation.names import row_name
from weightwell.propagation.outputs import called, replaced, signals_in
from weightwell.propagation.preserved import preserved
from weightwell.propagation.statistics import forward_statistics, rms

Row = dict[str, Any]

# Modules of torch with a known channel axis; others have that of the module before.
_LAST = ("Linear", "Bilinear", "LayerNorm", "RMSNorm", "Embedding", "RNN", "LSTM", "GRU", "Multihead", "Transformer")
_SECOND = ("Conv", "BatchNorm", "SyncBatchNorm", "InstanceNorm", "GroupNorm", "LocalResponseNorm", "MaxPool", "AvgPool")


def measured(
    model: nn.Module,
    batch: Any,
    names: dict[nn.Module, str],
    *,
    output: Callable[[Any], Any] | None,
    backward: bool,
    seed: int,
) -> list[Row]:
    """Return a row for each tensor that a call of a module in ``names`` returned, in the order in which calls end."""
    measurement = _Measurement(names, backward=backward)
    with preserved(model, seed), measurement.hooked(model), torch.set_grad_enabled(backward):
        answer = called(model, replaced(batch, measurement.input))
        measurement.recording = False
        if backward:
            _differentiate([each for _, each in signals_in(answer if output is None else output(answer))], seed)
    return measurement.rows


class _Attached(torch.autograd.Function):
    """A copy of a tensor that requires a gradient."""

    @staticmethod
    def forward(_context: Any, tensor: torch.Tensor, _source: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    @staticmethod
    def backward(_context: Any, *_gradients: Any) -> Any:
        return None, torch.zeros(())


class _Measurement:
    """The rows of one forward and one backward pass."""

    def __init__(self, names: dict[nn.Module, str], *, backward: bool):
        self.rows: list[Row] = []
        # Checkpointed modules are called again in the backward pass. These calls have no rows.
        self.recording = True
        self._names = names
        self._backward = backward
        self._source = torch.zeros((), requires_grad=True)
        self._calls: Counter[nn.Module] = Counter()
        self._axes: dict[int, int] = {}
        self._before: tuple[weakref.ref[torch.Tensor], int, list[Row]] | None = None
        # Rows of calls without gradients: reentrant checkpoints calculate them in the backward pass.
        self._without: dict[tuple[nn.Module, str], list[list[Row]]] = {}

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Have hooks at every module within the context."""
        with ExitStack() as stack:
            for module in model.modules():
                stack.callback(module.register_forward_hook(self._after).remove)
            yield

    def input(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor of the batch that requires a gradient, or the tensor if it is not a signal."""
        if tensor.is_meta:
            raise ValueError("the batch has a tensor on the meta device, without values: give one on a real device")
        if tensor.is_inference():
            tensor = tensor.clone()
        return self._attached(tensor.detach())

    def _attached(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.requires_grad or not torch.is_grad_enabled() or not tensor.is_floating_point():
            return tensor
        attached: torch.Tensor = _Attached.apply(tensor, self._source)  # type: ignore[no-untyped-call]
        return attached

    def _after(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        """Record a call. If its output requires no gradient, return one that does."""
        if self._backward and torch.is_grad_enabled() and any(not each.requires_grad for _, each in signals_in(output)):
            output = replaced(output, self._attached)
        if not self.recording:
            self._recomputed(module, output)
            return output
        self._calls[module] += 1
        if module in self._names:
            for path, tensor in signals_in(output):
                self._record(module, path, tensor)
        return output

    def _record(self, module: nn.Module, path: str, tensor: torch.Tensor) -> None:
        axis = self._channel_axis(module, tensor.ndim)
        name, call = self._names[module], self._calls[module]
        row: Row = {
            "name": row_name(name, path, call),
            "module": name,
            "call": call,
            "output": path,
            "type": type(module).__name__,
            "shape": tuple(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "channel_axis": axis,
        }
        self.rows.append(row)
        before = self._before
        if before is not None and before[0]() is tensor and before[1] == tensor._version:
            # A container that returns what its last module returned.
            row |= {name: value for name, value in before[2][0].items() if name.startswith("forward.")}
            before[2].append(row)
            return
        row |= forward_statistics(tensor, axis)
        same = [row]
        self._before = (weakref.ref(tensor), tensor._version, same)
        if tensor.requires_grad:
            _record_gradient(tensor, same)
        elif self._backward:
            self._without.setdefault((module, path), []).append(same)

    def _recomputed(self, module: nn.Module, output: Any) -> None:
        """Record gradients of a reentrant checkpoint, if it is clear of which call they are."""
        for path, tensor in signals_in(output):
            rows = self._without.get((module, path), [])
            if len(rows) == 1 and tensor.requires_grad:
                _record_gradient(tensor, rows.pop())

    def _channel_axis(self, module: nn.Module, axes: int) -> int:
        """Return the axis of the channels of a tensor with so many axes that a module returns."""
        kind = torch_type(module) or ""
        if kind.startswith(_LAST):
            axis = axes - 1
        elif any(word in kind for word in _SECOND):
            axis = min(1, axes - 1)
        else:
            return self._axes.get(axes, 1 if axes > 3 else axes - 1)
        self._axes[axes] = axis
        return axis


def _record_gradient(tensor: torch.Tensor, rows: list[Row]) -> None:
    def record(gradient: torch.Tensor) -> None:
        size = rms(gradient)
        for row in rows:
            row["backward.rms"] = size

    tensor.register_hook(record)  # type: ignore[no-untyped-call]


def _differentiate(outputs: list[torch.Tensor], seed: int) -> None:
    """Compute gradients of the sum of the outputs, with random signs that are independent and have variance 1."""
    outputs = [each for each in outputs if each.requires_grad]
    if not outputs:
        return
    generator = torch.Generator().manual_seed(seed)
    cotangents = [_signs(each, generator) for each in outputs]
    leaves = _leaves(outputs)
    gradients = [leaf.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        # With the inputs of torch.autograd.grad, reentrant checkpoints would fail.
        torch.autograd.backward(outputs, cotangents)
    finally:
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient


def _signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return -1 and 1 in any floating-point type, the same on every device."""
    return torch.randint(0, 2, like.shape, generator=generator).mul_(2).sub_(1).to(like.device, like.dtype)


def _leaves(outputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the leaves of the autograd graph of some outputs: the tensors where gradients accumulate."""
    found, seen = [], set()
    nodes = [each.grad_fn for each in outputs]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                found.append(node.variable)
            nodes += [each for each, _ in node.next_functions]
    return found
