"""Unfilled weights: quantized weights, which filling does not change."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from weightwell.models.modules import Slot, torch_type
from weightwell.models.names import joined, owners

if TYPE_CHECKING:
    from torch import nn

# Names in a message; there may be thousands.
NAMED = 5


def unfilled(module: "nn.Module", slots: Iterable[Slot], prefix: str) -> list[str]:
    """Return the names of weights in a module that are not drawn.

    These are integer parameters; matrices of small integers among the buffers of modules outside torch; and saved
    objects that are neither parameters nor buffers, such as packed weights.
    """
    return [slot.name for slot in slots if _holds_weights(slot)] + [*_packed(module, prefix)]


def named(names: list[str]) -> str:
    """Return some names for a message."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _holds_weights(slot: Slot) -> bool:
    if slot.is_drawn or slot.is_part:
        return False
    return not slot.is_buffer or (slot.persistent and torch_type(slot.owner) is None and _is_quantized(slot.tensor))


def _is_quantized(tensor: Any) -> bool:
    """Whether a buffer looks like quantized weights. Booleans are masks, and 64-bit integers are indices."""
    import torch

    whole = not (tensor.is_floating_point() or tensor.is_complex())
    return whole and tensor.dtype not in {torch.bool, torch.int64} and tensor.ndim > 1


def _packed(module: "nn.Module", prefix: str) -> Iterator[str]:
    from torch import jit, nn

    for owner in owners(module, prefix.removesuffix(".")):
        holder = owner.module
        if type(holder)._save_to_state_dict is nn.Module._save_to_state_dict or isinstance(holder, jit.ScriptModule):
            continue
        saved: dict[str, Any] = {}
        holder._save_to_state_dict(saved, "", True)
        for key, value in saved.items():
            if key not in {*holder._parameters, *holder._buffers, "_extra_state"} and _is_packed(value):
                yield joined(owner.path, key)


def _is_packed(value: Any) -> bool:
    """Whether an object saved by a module may hold weights: anything except numbers and types."""
    import torch

    return value.ndim > 0 if isinstance(value, torch.Tensor) else not isinstance(value, torch.dtype | int | float | str)
