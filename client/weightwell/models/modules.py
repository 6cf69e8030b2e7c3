"""Modules: the tensors of a torch module, each under its canonical name.

torch is imported only when there is a module.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weightwell.dtypes import DType, dtype_of
from weightwell.models.names import Owner, joined, owners, wrapped_name
from weightwell.models.places import Place, tensor_at
from weightwell.models.reparametrized import Reparametrization, reparametrizations_of
from weightwell.models.shards import is_sharded

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Slot:
    """One canonical name: a parameter, a buffer or a computed tensor, and its module.

    ``torch_name`` is the name in the state dict, with the names of wrappers. ``source`` is the parametrization of a
    computed tensor, else None. ``is_part``: another tensor is computed from this one.
    """

    name: str
    torch_name: str
    leaf: str
    owner: "nn.Module"
    tensor: "torch.Tensor"
    persistent: bool = True
    source: Reparametrization | None = None
    is_part: bool = False

    @property
    def place(self) -> Place:
        """The place of the tensor, if it is not computed."""
        return self.owner, self.leaf

    @property
    def is_buffer(self) -> bool:
        """Whether it is a buffer, and not a parameter."""
        owner, leaf = self.source.originals[-1] if self.source else self.place
        return leaf in owner._buffers

    @property
    def is_drawn(self) -> bool:
        """Whether it is drawn: a floating-point parameter, or a saved buffer of one of torch's own modules."""
        if self.is_part:
            return False
        if self.is_buffer:
            return self.persistent and torch_type(self.owner) is not None
        return self.tensor.is_floating_point() or self.tensor.is_complex()

    @property
    def dtype(self) -> DType:
        """The tensor's dtype; raises ValueError if servers do not support it."""
        try:
            return dtype_of(self.tensor.dtype)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be drawn: {error}") from None


def slots_of(module: "nn.Module", prefix: str = "") -> list[Slot]:
    """Return the tensors of a module in the order of its state dict, each under every canonical name that it has.

    Computed tensors come before the parameters of their module. ``prefix`` and a dot are put before all names. Raises
    ValueError for a tensor without a shape, for flat parameters, and for two tensors with the same name.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be the beginning of names, such as 'encoder', got {prefix!r}")
    found: dict[str, Slot] = {}
    for slot in _slots(module, prefix.removesuffix(".")):
        if (other := found.setdefault(slot.name, slot)) is not slot:
            raise ValueError(
                f"{other.torch_name} and {slot.torch_name} are both named {slot.name} without the names of wrappers; "
                "rename one of them"
            )
    return [*found.values()]


def _slots(module: "nn.Module", prefix: str) -> Iterator[Slot]:
    parts: set[tuple[int, str]] = set()
    for owner in owners(module, prefix):
        _check_gathered(owner)
        for source in reparametrizations_of(owner.module):
            places = (*source.originals, *source.computed, *source.kept)
            parts.update((id(holder), leaf) for holder, leaf in places)
            yield _slot(owner, source.leaf, _template(owner, source), source=source)
        yield from _own_slots(owner, parts)


def _own_slots(owner: Owner, parts: set[tuple[int, str]]) -> Iterator[Slot]:
    """Yield the parameters and buffers of a module."""
    from torch.nn.parameter import is_lazy

    holder = owner.module
    hidden = holder._non_persistent_buffers_set
    for leaf, tensor in (*holder._parameters.items(), *holder._buffers.items()):
        if tensor is None:
            continue
        if is_lazy(tensor):
            raise ValueError(
                f"{joined(owner.path, leaf)} has no shape yet, because {type(holder).__name__} takes it from its "
                "first input: run a forward pass of the module once, then fill it"
            )
        is_part = (id(holder), leaf) in parts
        yield _slot(owner, leaf, tensor, persistent=leaf not in hidden, is_part=is_part)


def _slot(owner: Owner, leaf: str, tensor: "torch.Tensor", **fields: Any) -> Slot:
    return Slot(joined(owner.path, leaf), joined(owner.torch_path, leaf), leaf, owner.module, tensor, **fields)


def _template(owner: Owner, source: Reparametrization) -> "torch.Tensor":
    try:
        return source.template()
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{joined(owner.path, source.leaf)} is computed by {source.kind}, which fails: {error}"
        ) from error


def _check_gathered(owner: Owner) -> None:
    """Raise ValueError for an FSDP1 module that holds its parameters as one flat shard."""
    if (inner := wrapped_name(owner.module)) != "_fsdp_wrapped_module":
        return
    handle, wrapped = getattr(owner.module, "_handle", None), owner.module._modules[inner]
    flat = wrapped is not None and "_flat_param" in wrapped._parameters
    if flat or (handle is not None and handle.is_sharded(handle.flat_param)):
        raise ValueError(
            f"the parameters of {owner.torch_path or 'the module'} are shards of one flat parameter "
            "(FullyShardedDataParallel): fill the model inside `with FullyShardedDataParallel.summon_full_params("
            "model):`, or before it is wrapped, or use fully_shard"
        )


def torch_type(module: "nn.Module") -> str | None:
    """Return the name of a module's nearest type in ``torch.nn``, its own or inherited; None if it has none."""
    for each in type(module).__mro__:
        if each.__module__.startswith("torch.nn.modules.") and each.__name__ != "Module":
            return each.__name__
    return None


def is_foreign(module: "nn.Module") -> bool:
    """Whether a module is of a type that is neither torch's nor inherits from a layer of torch."""
    return torch_type(module) is None and not type_name(module, full=True).startswith("torch.")


def is_layer(module: "nn.Module") -> bool:
    """Whether a module is a layer of torch with its own parameters, such as a Linear, and not a model of layers."""
    return torch_type(module) is not None and bool(module._parameters)


def type_name(module: "nn.Module", *, full: bool = False) -> str:
    """Return the name of a module's nearest type in ``torch.nn``, or else of its own type, perhaps its ``full`` name.

    torch creates new types for sharded and parametrized modules. For these the original type counts.
    """
    made = ("torch.distributed.", "torch.nn.utils.parametrize")
    own = (each for each in type(module).__mro__ if not each.__module__.startswith(made))
    kind = next(own)
    return f"{kind.__module__}.{kind.__qualname__}" if full else torch_type(module) or kind.__name__


def tied_to(slots: Sequence[Slot]) -> dict[str, str]:
    """Map every name to the first name of its tensor. Names of untied tensors map to themselves.

    Raises ValueError for a computed tensor if another module shares a tensor that it is computed from.
    """
    plain = {_memory(slot.tensor): slot.name for slot in slots if not (slot.source or slot.is_part)}
    first: dict[object, str] = {}
    return {slot.name: first.setdefault(_identity(slot, plain), slot.name) for slot in slots}


def _identity(slot: Slot, plain: Mapping[object, str]) -> object:
    """Return a key that tied tensors share: their memory, or the memory of all tensors they are computed from."""
    if slot.source is None:
        return _memory(slot.tensor)
    originals = [_memory(tensor_at(place)) for place in slot.source.originals]
    if shared := next((plain[each] for each in originals if each in plain), None):
        raise ValueError(
            f"{slot.name} is computed by {slot.source.kind} from a tensor that is tied to {shared}: untie them, or "
            "fill the module before it is parametrized"
        )
    return tuple(originals)


def _memory(tensor: "torch.Tensor") -> object:
    """Return a key that tied tensors share: the object, or all of its memory."""
    import torch

    if tensor.is_meta or tensor.layout != torch.strided or is_sharded(tensor) or not tensor.numel():
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
