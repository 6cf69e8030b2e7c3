"""Filling: writes the data of a file into a torch module, in place if possible.

``filling_of`` checks the module and the manifest before the request is sent. A tensor on the meta device, or one that
is not contiguous, is received into new memory. The new memory replaces the tensor when the file is complete.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weightwell.models.modules import Slot, slots_of, tied_to
from weightwell.models.pieces import Piece, Pieces
from weightwell.models.places import Place, in_place_of
from weightwell.models.reparametrized import Reparametrization
from weightwell.models.shards import bounds_of_shard, is_sharded, local_of, with_local
from weightwell.models.tensors import check_memory, contiguous
from weightwell.safetensors import PREFIX, read_header
from weightwell.slices import text_of
from weightwell.spec import ManifestSpec, Stored
from weightwell.transfers.destinations import DataDestination

if TYPE_CHECKING:
    import torch
    from torch import nn

M = TypeVar("M", bound="nn.Module")
Reset = Callable[["nn.Module"], object]
Numbers = Callable[[], Any]


class Filling(DataDestination, Generic[M]):
    """The destination of a file's data in a module. ``commit`` puts the received tensors into the module.

    ``slots`` maps the names in the file to the tensors of the module. ``ties`` maps them to all slots that share the
    same tensor.
    """

    parallel = True

    def __init__(
        self,
        module: M,
        slots: Mapping[str, Slot],
        ties: Mapping[str, Sequence[Slot]],
        device: Any,
        computed: "Mapping[str, tuple[Slot, Numbers]]",
    ):
        self._module = module
        self._slots = slots
        self._ties = ties
        self._device = device
        self._computed = computed
        self._targets: dict[str, torch.Tensor] = {}
        self._memory: dict[str, torch.Tensor] = {}
        self._pieces = Pieces(())

    def open(self, head: bytes, _size: int, _etag: str | None) -> tuple[()]:
        """Allocate memory for the tensors of a file with this head, which has been checked."""
        if not self._targets:  # a new attempt uses the same memory
            self._targets = {name: _target(slot, self._device) for name, slot in self._slots.items()}
            self._memory = {name: contiguous(target) for name, target in self._targets.items()}
        entries = read_header(head[PREFIX:]).entries.items()
        self._pieces = Pieces(Piece(entry.start, entry.stop, self._memory[name]) for name, entry in entries)
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield writable memory for the data bytes ``[start, stop)``, in order."""
        return self._pieces.buffers(start, stop)

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":
        """Return the memory of a GPU for the data bytes ``[start, stop)`` of one tensor, or None."""
        return self._pieces.on_device(start, stop)

    def commit(self) -> M:
        """Put every received tensor into the module, and return the module.

        Raises ValueError if a parametrization cannot produce the drawn value.
        """
        import torch

        with torch.no_grad():
            for name, slot in self._slots.items():
                self._complete(slot, self._targets[name], self._memory[name])
            for name, slot in self._slots.items():
                if slot.source is not None:
                    _assign(slot, slot.source, self._targets[name])
                elif slot.tensor.is_meta:
                    self._materialize(slot, self._targets[name])
            for slot, numbers in self._computed.values():
                self._compute(slot, numbers())
        return self._module

    def _compute(self, slot: Slot, whole: "torch.Tensor") -> None:
        """Give a tensor the numbers that the model's code computes."""
        bounds = bounds_of_shard(slot.name, slot.tensor)
        part = whole if bounds is None else whole[tuple(slice(*each) for each in bounds)]
        target = _target(slot, self._device)
        target.copy_(part)
        if slot.source is not None:
            _assign(slot, slot.source, target)
        elif slot.tensor.is_meta:
            self._materialize(slot, target)

    def _complete(self, slot: Slot, target: "torch.Tensor", memory: "torch.Tensor") -> None:
        """Copy the received value to the target if needed, and tell autograd that the tensor has changed."""
        import torch

        if memory is not target:
            target.copy_(memory)
        _clear_padding(slot, target)
        if not slot.tensor.is_meta:
            torch.autograd.graph.increment_version(slot.tensor)

    def _materialize(self, slot: Slot, target: "torch.Tensor") -> None:
        """Replace a tensor on the meta device, under all of its names."""
        tensor = in_place_of(slot.tensor, with_local(slot.tensor, target))
        for tied in self._ties[slot.name]:
            if tied.persistent:
                # One module at a time, because names in the state dict of the whole model contain names of wrappers.
                tied.owner.load_state_dict({tied.leaf: tensor}, strict=False, assign=True)
            else:
                tied.owner._buffers[tied.leaf] = tensor


def filling_of(
    module: M,
    spec: ManifestSpec,
    *,
    device: Any = None,
    reset_buffers: Reset | None = None,
    prefix: str = "",
    numbers: "Mapping[str, Numbers] | None" = None,
) -> tuple[ManifestSpec, Filling[M]]:
    """Return the spec with the module's dtypes, and the filling of the module.

    The names in the spec are canonical names with the ``prefix``. ``numbers`` are functions that compute tensors by
    name: parameters that are not in the spec, and buffers on the meta device. Other buffers on the meta device are
    computed here by their modules. Raises ValueError, with the name of a tensor, if the module and the manifest do not
    match.
    """
    slots = {slot.name: slot for slot in slots_of(module, prefix)}
    first = tied_to(list(slots.values()))
    asked = _asked(spec, {name: slot for name, slot in slots.items() if slot.persistent}, first)
    given = {_key(slot.place) for slot in asked.values() if slot.source is None}
    for name, slot in asked.items():
        _check_fit(slot, spec.stored[name], spec)
        if slot.source is not None:
            _check_source(slot, slot.source, given)
            given |= {_key(place) for place in (*slot.source.originals, *slot.source.computed)}
    covered = {first[name] for name in asked}
    missing = [slot for slot in slots.values() if first[slot.name] not in covered and _key(slot.place) not in given]
    computed = {
        slot.name: (slot, numbers[slot.name])
        for slot in missing
        if numbers and slot.name in numbers and (not slot.is_buffer or (slot.tensor.is_meta and reset_buffers is None))
    }
    known = {first[name] for name in computed}
    left = _left_on_meta(slots.values(), [slot for slot in missing if first[slot.name] not in known], device)
    _compute_buffers(left, device, reset_buffers)
    named = (*asked, *computed)
    ties = {name: [other for other in slots.values() if first[other.name] == first[name]] for name in named}
    stored = {name: Stored(spec.stored[name].extent, slot.dtype) for name, slot in asked.items()}
    return replace(spec, stored=stored), Filling(module, asked, ties, device, computed)


# Checks --------------------------------------------------------------------------------------------------------------


def _asked(spec: ManifestSpec, slots: Mapping[str, Slot], first: Mapping[str, str]) -> dict[str, Slot]:
    """Return the slots of a file's tensors; raise ValueError for a missing tensor and for different ties."""
    if unknown := [name for name in spec.names if name not in slots]:
        raise ValueError(_unknown(unknown[0], slots))
    for alias, target in spec.aliases.items():
        if first[alias] != first[target]:
            raise ValueError(f"{alias} is an alias of {target} in the manifest, but not tied to it in the module")
    taken: dict[str, str] = {}
    for name in spec.stored:
        if (other := taken.setdefault(first[name], name)) != name:
            raise ValueError(
                f"{name} is tied to {other} in the module; in the manifest, make it {{'alias': {other!r}}}"
            )
    return {name: slots[name] for name in spec.stored}


def _unknown(name: str, slots: Mapping[str, Slot]) -> str:
    """Return the error message for an unknown name."""
    for slot in slots.values():
        if slot.torch_name == name:
            return f"{name!r} contains the name of a wrapper; the name in a manifest is {slot.name!r}"
    return f"the module has no tensor named {name!r}; it has {', '.join([*slots][:5])}, ..."


def _check_fit(slot: Slot, expected: Stored, spec: ManifestSpec) -> None:
    """Raise ValueError if the shape, slice or dtype of a tensor does not match its slot."""
    fields = spec.document["tensors"][slot.name]
    dtype = fields.get("dtype", spec.document["dtype"])
    shard = slot.dtype.elements_of(bounds_of_shard(slot.name, slot.tensor))
    tensor = local_of(slot.tensor)
    if (extent := slot.dtype.elements(tensor.shape)) != expected.extent:
        raise ValueError(
            f"{slot.name} has shape {list(extent)} in the module, but {list(expected.extent)} in the manifest"
        )
    if shard is not None and text_of(shard) != fields.get("slice"):
        raise ValueError(
            f"{slot.name} is {text_of(shard)} of the whole on this rank, but the manifest has another slice"
        )
    if slot.dtype.name != dtype:
        raise ValueError(
            f"{slot.name} is {slot.dtype.name} in the module, but {dtype} in the manifest; filling does not change "
            f"dtypes: use module.to(torch.{dtype})"
        )
    check_memory(slot.name, tensor)


def _check_source(slot: Slot, source: Reparametrization, given: Collection[object]) -> None:
    """Raise ValueError for a computed tensor that cannot be set, or whose originals are in the manifest too."""
    if any(_key(place) in given for place in source.originals):
        raise ValueError(f"the manifest has both {slot.name} and a tensor that it is computed from; remove one of them")
    try:
        source.check()
    except ValueError as error:
        raise ValueError(f"{slot.name} is computed by {source.kind}: {error}") from None


def _left_on_meta(slots: Iterable[Slot], missing: Iterable[Slot], device: Any) -> list[Slot]:
    """Return the missing buffers that are on the meta device; raise ValueError for missing parameters on it."""
    import torch

    meta = [slot for slot in slots if slot.tensor.is_meta]
    if meta and (device is None or torch.device(device).type == "meta"):
        raise ValueError(f"{meta[0].name} is on the meta device; give its new device: device='cpu' or device='cuda'")
    left = [slot for slot in missing if slot.tensor.is_meta and slot.source is None]
    for slot in left:
        if not slot.is_buffer:
            raise ValueError(f"{slot.name} is on the meta device, but not in the manifest: add it")
    return left


def _compute_buffers(left: Sequence[Slot], device: Any, reset_buffers: Reset | None) -> None:
    """Allocate buffers and let their modules compute them; raise ValueError if a module cannot."""
    import torch

    owners = {id(slot.owner): slot.owner for slot in left}.values()
    resets = [reset_buffers or getattr(type(owner), "reset_parameters", None) for owner in owners]
    if not all(resets):
        names = ", ".join(slot.name for slot in left if not hasattr(slot.owner, "reset_parameters"))
        raise ValueError(
            f"the buffers {names} are computed by the constructors of their modules, which does not happen on the meta "
            "device: give reset_buffers=, a function that takes such a module and fills its buffers"
        )
    for slot in left:
        slot.owner._buffers[slot.leaf] = torch.empty_like(slot.tensor, device=device)
    with torch.no_grad():
        for owner, reset in zip(owners, resets, strict=True):
            reset(owner)  # type: ignore[misc]


# Tensors -------------------------------------------------------------------------------------------------------------


def _target(slot: Slot, device: Any) -> "torch.Tensor":
    """Return this rank's part of a tensor, in new memory on ``device`` if it is on the meta device or not dense."""
    import torch

    local = local_of(slot.tensor)
    if slot.source is not None:
        return torch.empty(local.shape, dtype=local.dtype, device=device if local.is_meta else local.device)
    return torch.empty_like(local, device=device) if local.is_meta else local


def _assign(slot: Slot, source: Reparametrization, value: "torch.Tensor") -> None:
    """Set a computed tensor; raise ValueError if its parametrization cannot produce the value."""
    try:
        source.assign(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{slot.name} is computed by {source.kind}, which cannot produce the drawn value: {error}. Use another "
            "scheme, or fill the module before it is parametrized. Other tensors of the module have been filled"
        ) from error


def _key(place: Place) -> tuple[int, str]:
    """Return a hashable key for a place."""
    owner, leaf = place
    return id(owner), leaf


def _clear_padding(slot: Slot, memory: "torch.Tensor") -> None:
    """Zero the padding row of an embedding, as torch does. It gets no gradient, so it stays zero."""
    from torch import nn

    if not isinstance(slot.owner, nn.Embedding | nn.EmbeddingBag) or slot.owner.padding_idx is None:
        return
    bounds = bounds_of_shard(slot.name, slot.tensor) if is_sharded(slot.tensor) else None
    row = slot.owner.padding_idx - (bounds[0][0] if bounds else 0)
    if 0 <= row < len(memory):
        memory[row] = 0
