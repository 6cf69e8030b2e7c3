"""Places: a module and the name of a parameter or buffer in it; get and set the tensor."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

Place = tuple["nn.Module", str]


def tensor_at(place: Place) -> "torch.Tensor":
    """Return the parameter or the buffer at a place; raise KeyError if there is none."""
    owner, leaf = place
    for tensors in (owner._parameters, owner._buffers):
        if (found := tensors.get(leaf)) is not None:
            return found
    raise KeyError(leaf)


def put(place: Place, value: "torch.Tensor") -> None:
    """Set the tensor at a place: in place, or in new memory if it is on the meta device."""
    (owner, leaf), old = place, tensor_at(place)
    if not old.is_meta:
        old.copy_(value)
    else:
        tensors = owner._parameters if leaf in owner._parameters else owner._buffers
        tensors[leaf] = in_place_of(old, value.clone())  # type: ignore[assignment]


def in_place_of(old: "torch.Tensor", new: "torch.Tensor") -> "torch.Tensor":
    """Return a tensor as a parameter or buffer, with the properties of the old one."""
    from torch import nn

    if not isinstance(old, nn.Parameter):
        return new
    parameter = nn.Parameter(new, requires_grad=old.requires_grad)
    vars(parameter).update(vars(old))
    return parameter
