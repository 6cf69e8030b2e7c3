"""torch.distributed.checkpoint: a manifest as a checkpoint, of which each rank draws its own slices.

from weightwell.torch.dcp import WeightwellReader

dcp.load(model.state_dict(), storage_reader=WeightwellReader(manifest))
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from weightwell import calls
from weightwell.client import Client, local
from weightwell.dtypes import dtype_of
from weightwell.forms import Described, manifest_of
from weightwell.models.shards import bounds_of_shard, is_sharded
from weightwell.slices import Bounds, text_of
from weightwell.spec import ManifestSpec

# Targets that have the same numbers: each with the item that it is read for.
Targets = list[tuple[ReadItem, torch.Tensor]]


class WeightwellReader(StorageReader):
    """A storage reader for ``dcp.load``: the tensors of a manifest, drawn straight into the tensors of a state dict.

    ``what``: a ``Manifest`` of the whole model, or a dict or a torch module that describes one.
    ``client``: the client that draws, by default ``weightwell.local()``.
    ``prefix``: the beginning of all names in the state dict: ``"model."`` for ``{"model": model.state_dict()}``.
    ``rename``: a function that returns the name in the state dict, before the prefix, of a name in the manifest.

    Each rank makes one request, for its slices of all tensors. Tied names are drawn once. Values are converted to the
    dtypes of the state dict, as by every reader; only tensors of the manifest's dtype are filled without a copy.

    Raises TypeError or ValueError for a manifest that has slices, and for two tensors with one name. ``dcp.load``
    raises ``CheckpointException``, which holds the errors of ``Client`` by rank, and ValueError for a tensor that
    cannot be filled or whose part on this rank is not a slice.
    """

    def __init__(
        self,
        what: Described,
        client: Client | None = None,
        *,
        prefix: str = "",
        rename: Callable[[str], str] | None = None,
    ):
        self._spec = ManifestSpec.of(manifest_of(what, {}).document())
        tensors = self._spec.document["tensors"]
        if sliced := [name for name, fields in tensors.items() if "slice" in fields]:
            raise ValueError(
                f"a checkpoint has whole tensors, and the manifest has the slice {tensors[sliced[0]]['slice']} of "
                f"{sliced[0]}: give the manifest of the whole model, made before it is sharded"
            )
        self._client = local() if client is None else client
        self._stored: dict[str, str] = {}  # names in the file of the manifest, by names in the state dict
        for name in self._spec.names:
            key = prefix + (name if rename is None else rename(name))
            if key in self._stored:
                raise ValueError(f"rename must return a different name for each tensor, got {key!r} for {name} too")
            self._stored[key] = self._spec.aliases.get(name, name)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Prepare for another load; raise ValueError for a ``checkpoint_id``, as the manifest is the checkpoint."""
        if checkpoint_id is not None:
            raise ValueError(
                f"a WeightwellReader loads its manifest, got checkpoint_id={str(checkpoint_id)!r:.80}: leave it out"
            )

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003 - torch's interface
        """Return False: a path is not a manifest."""
        return False

    def read_metadata(self, *_args: Any, **_options: Any) -> Metadata:
        """Return the names, shapes and dtypes of all tensors, each as one chunk."""
        dtypes = self._dtypes()
        found = {name: _metadata(self._spec.stored[name].extent, dtypes[name]) for name in self._spec.stored}
        return Metadata({key: found[name] for key, name in self._stored.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *_args: Any, **_options: Any) -> None:
        """Do nothing: a manifest is complete on every rank."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan of this rank as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans of all ranks as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Draw the slices of this rank into its tensors."""
        for request in self._requests(self._items(plan, planner), planner):
            wanted = {name: bounds for name, (bounds, _) in request.items()}
            targets = {name: each[0][1] for name, (_, each) in request.items()}
            self._client._call(calls.fill(self._sliced(wanted), targets))
            for _, each in request.values():
                _commit(each, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _items(self, plan: LoadPlan, planner: LoadPlanner) -> list[ReadItem]:
        """Return the items of a plan, with the parts of strided shards as FSDP makes them.

        Where a dimension is sharded by tensor parallelism and again by FSDP, and its size is uneven, torch's planner
        has other parts than the tensors (seen in torch 2.13: 7 rows on 3 x 2 ranks).
        """
        held: Mapping[str, Any] = getattr(planner, "state_dict", {})
        strided = {
            key: tensor
            for key, tensor in held.items()
            if key in self._stored and isinstance(tensor, torch.Tensor) and _is_strided(tensor)
        }
        items = [item for item in plan.items if item.dest_index.fqn not in strided]
        return [*items, *(item for key, tensor in strided.items() for item in _items_of_shard(key, tensor))]

    def _requests(self, items: Sequence[ReadItem], planner: LoadPlanner) -> list[dict[str, tuple[Bounds, Targets]]]:
        """Return the slices and the targets of each request, by name: one request, unless a tensor has many slices."""
        slices: dict[str, dict[Bounds, Targets]] = {}
        for item in items:
            key = item.storage_index.fqn
            if item.type is LoadItemType.BYTE_IO:
                raise ValueError(
                    f"{key} is not a tensor, and a manifest has only tensors: load it from its own checkpoint"
                )
            if key not in self._stored:
                raise ValueError(f"the manifest has no tensor named {key!r}: prefix= and rename= map names")
            target = planner.resolve_tensor(item).detach()
            slices.setdefault(self._stored[key], {}).setdefault(_bounds(item), []).append((item, target))
        requests: list[dict[str, tuple[Bounds, Targets]]] = []
        for name, each in slices.items():
            for place, part in enumerate(each.items()):
                if place == len(requests):
                    requests.append({})
                requests[place][name] = part
        return requests

    def _sliced(self, wanted: Mapping[str, Bounds]) -> ManifestSpec:
        """Return the spec of some slices. Tensors of generator=torch depend on all those before them."""
        document = self._spec.document
        every = document.get("generator") == "torch"
        tensors = {}
        for name, each in self._spec.stored.items():
            if every or name in wanted:
                bounds = wanted.get(name, tuple((0, 0) for _ in each.extent))
                fields = document["tensors"][name]
                whole = all(part == (0, size) for part, size in zip(bounds, each.extent, strict=True))
                tensors[name] = fields if whole else {**fields, "slice": text_of(bounds)}
        return ManifestSpec.of({**document, "tensors": tensors})

    def _dtypes(self) -> dict[str, str]:
        """Return the dtype of each tensor; the server says those that rules decide."""
        if all(each.dtype for each in self._spec.stored.values()):
            return {name: each.dtype.name for name, each in self._spec.stored.items() if each.dtype}
        planned = self._client._call(calls.plan(self._spec, lambda path: path)).tensors
        return {name: planned[name]["dtype"] for name in self._spec.stored}


def _metadata(shape: Sequence[int], dtype: str) -> TensorStorageMetadata:
    """Return the metadata of a tensor in one chunk."""
    if dtype_of(dtype).packed > 1:
        raise ValueError(f"torch.distributed.checkpoint reads no tensors of {dtype}: load them with init_state_dict")
    size = torch.Size(shape)
    chunk = ChunkStorageMetadata(torch.Size([0] * len(size)), size)
    return TensorStorageMetadata(TensorProperties(dtype=getattr(torch, dtype_of(dtype).name)), size, [chunk])


def _bounds(item: ReadItem) -> Bounds:
    """Return the slice of the whole tensor that an item reads; each tensor is one chunk, which begins at 0."""
    return tuple((start, start + length) for start, length in zip(item.storage_offsets, item.lengths, strict=True))


def _is_strided(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a DTensor with a dimension that is sharded twice, and this rank has a part of it."""
    if not is_sharded(tensor):
        return False
    dtensor: Any = tensor
    split = any(hasattr(each, "split_factor") for each in dtensor.placements)
    return split and dtensor.device_mesh.get_coordinate() is not None


def _items_of_shard(key: str, tensor: torch.Tensor) -> Iterator[ReadItem]:
    """Yield the item for this rank's part of a DTensor, unless the part is empty."""
    bounds = bounds_of_shard(key, tensor) or tuple((0, size) for size in tensor.shape)
    if any(start == stop for start, stop in bounds):
        return
    starts = torch.Size([start for start, _ in bounds])
    zeros = torch.Size([0] * len(bounds))
    yield ReadItem(
        type=LoadItemType.TENSOR,
        dest_index=MetadataIndex(key, starts),
        dest_offsets=zeros,
        storage_index=MetadataIndex(key, zeros),
        storage_offsets=starts,
        lengths=torch.Size([stop - start for start, stop in bounds]),
    )


def _commit(targets: Targets, planner: LoadPlanner) -> None:
    """Copy the values of the first target to the others, and tell the planner that all are complete."""
    first = targets[0][1]
    for item, target in targets:
        if target.data_ptr() != first.data_ptr() or target.stride() != first.stride():
            target.copy_(first)
        planner.commit_tensor(item, target)
