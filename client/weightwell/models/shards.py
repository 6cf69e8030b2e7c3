"""Shards: the part of a DTensor that this rank holds, as a slice of the whole."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, cast

from weightwell.slices import Bounds, chunk

if TYPE_CHECKING:
    import torch
    from torch.distributed.tensor import Placement


def is_sharded(tensor: "torch.Tensor") -> bool:
    """Whether a tensor is a DTensor. This does not import torch.distributed."""
    return hasattr(tensor, "device_mesh")


def bounds_of_shard(name: str, tensor: "torch.Tensor") -> Bounds | None:
    """Return ``(start, stop)`` in each dimension of this rank's part; None if this rank holds the whole tensor.

    Raises ValueError, with the ``name``, if the part is not a slice.
    """
    if not is_sharded(tensor):
        return None
    dtensor: Any = tensor
    mesh, placements, shape = dtensor.device_mesh, dtensor.placements, tuple(tensor.shape)
    bounds = part_of(shape, placements, mesh.shape, mesh.get_coordinate())
    if bounds is None or tuple(stop - start for start, stop in bounds) != local_of(tensor).shape:
        raise ValueError(f"this rank's part of {name}, which is placed as {placements}, is not a slice")
    return None if bounds == tuple((0, size) for size in shape) else bounds


def part_of(
    shape: tuple[int, ...],
    placements: "Sequence[Placement]",
    mesh: tuple[int, ...],
    coordinate: Sequence[int] | None,
) -> Bounds | None:
    """Return the part of a tensor of this shape at a coordinate of a mesh; None if the part is not a slice.

    Placements are applied from the first to the last. A strided placement (FSDP makes it if a dimension is already
    sharded) is applied after the later placements of the same dimension, as its ``split_factor`` demands.
    """
    sharded: dict[int, Any] = {axis: each for axis, each in enumerate(placements) if hasattr(each, "dim")}
    strided = [axis for axis, each in sharded.items() if hasattr(each, "split_factor")]
    if coordinate is None or any(each.is_partial() for each in placements):
        return None
    for axis in strided:
        behind = [mesh[other] for other, each in sharded.items() if other > axis and each.dim == sharded[axis].dim]
        if sharded[axis].split_factor != prod(behind):
            return None
    bounds = [(0, size) for size in shape]
    for axis in [axis for axis in sharded if axis not in strided] + strided[::-1]:
        start, stop = bounds[sharded[axis].dim]
        first, last = chunk(stop - start, mesh[axis], coordinate[axis])
        bounds[sharded[axis].dim] = (start + first, start + last)
    return tuple(bounds)


def local_of(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return this rank's local tensor, which shares memory and is detached from autograd."""
    held = tensor.detach()
    return cast("torch.Tensor", held.to_local()) if is_sharded(tensor) else held  # type: ignore[attr-defined]


def with_local(tensor: "torch.Tensor", local: "torch.Tensor") -> "torch.Tensor":
    """Return a DTensor with the placement of ``tensor`` and the local part ``local``."""
    if not is_sharded(tensor):
        return local
    from torch.distributed.tensor import DTensor

    dtensor: Any = tensor
    mesh, placements = dtensor.device_mesh, dtensor.placements
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())
