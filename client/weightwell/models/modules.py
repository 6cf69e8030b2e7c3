"""Modules: what a torch module's state dict holds.

Nothing is imported from torch until there is a module to look at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weightwell.dtypes import DType, dtype_of
from weightwell.models.shards import is_sharded

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Slot:
    """One name of a state dict: a parameter or a buffer, and the module that it belongs to."""

    name: str
    leaf: str
    owner: "nn.Module"
    tensor: "torch.Tensor"
    persistent: bool = True

    @property
    def is_buffer(self) -> bool:
        """Whether it is no parameter."""
        return self.leaf in self.owner._buffers

    @property
    def is_drawn(self) -> bool:
        """Whether it is initialized: a parameter that can be trained, or a buffer that a module of torch's resets."""
        if self.is_buffer:
            return self.persistent and torch_type(self.owner) is not None
        return self.tensor.is_floating_point() or self.tensor.is_complex()

    @property
    def dtype(self) -> DType:
        """The row of the table for the tensor's dtype; ValueError where no server draws it."""
        try:
            return dtype_of(self.tensor.dtype)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be drawn: {error}") from None


def slots_of(module: "nn.Module") -> Iterator[Slot]:
    """Yield the parameters and buffers of a module in the order of its state dict, each under every name it has."""
    from torch.nn.parameter import is_lazy

    for path, owner in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        hidden = owner._non_persistent_buffers_set
        for leaf, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if is_lazy(tensor):
                raise ValueError(f"{prefix}{leaf} has no shape yet: run the module once, so that it can see its input")
            if tensor is not None:
                yield Slot(prefix + leaf, leaf, owner, tensor, leaf not in hidden)


def torch_type(module: "nn.Module") -> str | None:
    """Return the name of the type in ``torch.nn`` that a module is of, or inherits from; None where there is none."""
    for each in type(module).__mro__:
        if each.__module__.startswith("torch.nn.modules.") and each.__name__ != "Module":
            return each.__name__
    return None


def tied_to(slots: Sequence[Slot]) -> dict[str, str]:
    """Return for every name the first name of its tensor, which is its own unless it is tied."""
    first: dict[object, str] = {}
    return {slot.name: first.setdefault(_memory(slot.tensor), slot.name) for slot in slots}


def _memory(tensor: "torch.Tensor") -> object:
    """Return what two tensors have in common if they are one: themselves, or all of their memory."""
    import torch

    if tensor.is_meta or tensor.layout != torch.strided or is_sharded(tensor) or not tensor.numel():
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
