"""Shards: the part of a DTensor that this rank holds, as a slice of the whole."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, cast

from weightwell.slices import Bounds, chunk

if TYPE_CHECKING:
    import torch
    from torch.distributed.tensor import Placement


def is_sharded(tensor: "torch.Tensor") -> bool:
    """Whether a tensor is a DTensor; asked of every tensor, so that torch.distributed need not be imported."""
    return hasattr(tensor, "device_mesh")


def bounds_of_shard(name: str, tensor: "torch.Tensor") -> Bounds | None:
    """Return ``(start, stop)`` in each dimension of the part that this rank holds; None where that is all of it.

    Raises ValueError, with the ``name``, for a part that is no slice of the whole.
    """
    if not is_sharded(tensor):
        return None
    dtensor: Any = tensor
    mesh, placements, shape = dtensor.device_mesh, dtensor.placements, tuple(tensor.shape)
    bounds = part_of(shape, placements, mesh.shape, mesh.get_coordinate())
    if bounds is None or tuple(stop - start for start, stop in bounds) != local_of(tensor).shape:
        raise ValueError(f"{name} is placed as {placements}, and this rank's part of that is no slice of the whole")
    return None if bounds == tuple((0, size) for size in shape) else bounds


def part_of(
    shape: tuple[int, ...],
    placements: "Sequence[Placement]",
    mesh: tuple[int, ...],
    coordinate: Sequence[int] | None,
) -> Bounds | None:
    """Return the part of a tensor of this shape that is at a coordinate of a mesh; None where that is no slice.

    Placements are applied from the first to the last. A strided one, as FSDP makes of a dimension that is sharded
    already, comes after all of those behind it that shard the same dimension, if its ``split_factor`` says so.
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
    """Return the tensor that this rank holds, sharing its memory, without its history."""
    held = tensor.detach()
    return cast("torch.Tensor", held.to_local()) if is_sharded(tensor) else held  # type: ignore[attr-defined]


def with_local(tensor: "torch.Tensor", local: "torch.Tensor") -> "torch.Tensor":
    """Return a tensor placed as ``tensor`` is, of which this rank holds ``local``."""
    if not is_sharded(tensor):
        return local
    from torch.distributed.tensor import DTensor

    dtensor: Any = tensor
    mesh, placements = dtensor.device_mesh, dtensor.placements
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())
