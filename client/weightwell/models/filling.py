"""Filling: the data of a file on its way into a torch module, in place where it can be.

Whatever can be wrong with a module and a manifest is found by ``filling_of``, before anything is asked for. What is on
the meta device, or not contiguous, gets memory of its own, which is put in its place when the file is complete.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weightwell.models.modules import Slot, slots_of, tied_to
from weightwell.models.pieces import Piece, Pieces
from weightwell.models.places import Place, in_place_of
from weightwell.models.reparametrized import Reparametrization
from weightwell.models.shards import bounds_of_shard, is_sharded, local_of, with_local
from weightwell.safetensors import PREFIX, read_header
from weightwell.slices import text_of
from weightwell.spec import ManifestSpec, Stored

if TYPE_CHECKING:
    import torch
    from torch import nn

M = TypeVar("M", bound="nn.Module")
Reset = Callable[["nn.Module"], object]


class Filling(Generic[M]):
    """Where the data of a file goes in a module; ``commit`` makes it the module's.

    ``slots`` are the places of the file's tensors, by name, and ``ties`` all slots that have the same tensor.
    """

    parallel = True

    def __init__(self, module: M, slots: Mapping[str, Slot], ties: Mapping[str, Sequence[Slot]], device: Any):
        self._module = module
        self._slots = slots
        self._ties = ties
        self._device = device
        self._targets: dict[str, torch.Tensor] = {}
        self._memory: dict[str, torch.Tensor] = {}
        self._pieces = Pieces(())

    def open(self, head: bytes, _size: int, _etag: str | None) -> tuple[()]:
        """Find memory for the tensors of a file with this head, which has been checked."""
        if not self._targets:  # starting over must not take the memory twice
            self._targets = {name: _target(slot, self._device) for name, slot in self._slots.items()}
            self._memory = {name: _contiguous(target) for name, target in self._targets.items()}
        entries = read_header(head[PREFIX:]).entries.items()
        self._pieces = Pieces(Piece(entry.start, entry.stop, self._memory[name]) for name, entry in entries)
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield writable memory for the data bytes ``[start, stop)``, in order."""
        return self._pieces.buffers(start, stop)

    def commit(self) -> M:
        """Return the module, with every tensor that has arrived in its place.

        Raises ValueError for a tensor that is computed, where it cannot be what was drawn.
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
        return self._module

    def _complete(self, slot: Slot, target: "torch.Tensor", memory: "torch.Tensor") -> None:
        """Make what was received the target's, and let autograd know of a tensor that has changed."""
        import torch

        if memory is not target:
            target.copy_(memory)
        _clear_padding(slot, target)
        if not slot.tensor.is_meta:
            torch.autograd.graph.increment_version(slot.tensor)

    def _materialize(self, slot: Slot, target: "torch.Tensor") -> None:
        """Put a tensor in the place of one on the meta device, under all of its names."""
        tensor = in_place_of(slot.tensor, with_local(slot.tensor, target))
        for tied in self._ties[slot.name]:
            # Each module by itself, as names in the state dict of the whole have the parts that wrappers put there.
            tied.owner.load_state_dict({tied.leaf: tensor}, strict=False, assign=True)


def filling_of(
    module: M, spec: ManifestSpec, *, device: Any = None, reset_buffers: Reset | None = None, prefix: str = ""
) -> tuple[ManifestSpec, Filling[M]]:
    """Return the spec with the module's own dtypes, and how the file of it fills the module.

    The names in the spec are canonical, behind ``prefix``. Buffers on the meta device that are not asked for are
    computed here, by the modules that they belong to. Raises ValueError, with the name of a tensor, where the module
    and the manifest do not fit.
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
    left = _left_on_meta(slots.values(), missing, device)
    _compute_buffers(left, device, reset_buffers)
    ties = {name: [other for other in slots.values() if first[other.name] == first[name]] for name in asked}
    stored = {name: Stored(spec.stored[name].extent, slot.dtype) for name, slot in asked.items()}
    return replace(spec, stored=stored), Filling(module, asked, ties, device)


# What can be wrong ---------------------------------------------------------------------------------------------------


def _asked(spec: ManifestSpec, slots: Mapping[str, Slot], first: Mapping[str, str]) -> dict[str, Slot]:
    """Return the slots of a file's tensors; raise ValueError where they are not there, or tied in another way."""
    if unknown := [name for name in spec.names if name not in slots]:
        raise ValueError(_unknown(unknown[0], slots))
    for alias, target in spec.aliases.items():
        if first[alias] != first[target]:
            raise ValueError(f"{alias} is an alias of {target} in the manifest, and in the module it is not tied to it")
    taken: dict[str, str] = {}
    for name in spec.stored:
        if (other := taken.setdefault(first[name], name)) != name:
            raise ValueError(f"{name} is tied to {other} in the module; in the manifest make it {{'alias': {other!r}}}")
    return {name: slots[name] for name in spec.stored}


def _unknown(name: str, slots: Mapping[str, Slot]) -> str:
    """Return what is wrong about a name that no tensor has."""
    for slot in slots.values():
        if slot.torch_name == name:
            return f"{name!r} has the name of a wrapper in it: in a manifest that tensor is {slot.name!r}"
    return f"the module has no tensor named {name!r}; it has {', '.join([*slots][:5])}, ..."


def _check_fit(slot: Slot, expected: Stored, spec: ManifestSpec) -> None:
    """Raise ValueError unless a tensor of the file can be put into its slot."""
    fields = spec.document["tensors"][slot.name]
    dtype = fields.get("dtype", spec.document["dtype"])
    shard, tensor = bounds_of_shard(slot.name, slot.tensor), local_of(slot.tensor)
    if tuple(tensor.shape) != expected.extent:
        raise ValueError(f"{slot.name} is {list(tensor.shape)} in the module, and {list(expected.extent)} is asked for")
    if shard is not None and text_of(shard) != fields.get("slice"):
        raise ValueError(f"{slot.name} is {text_of(shard)} of the whole on this rank, and another slice is asked for")
    if slot.dtype.name != dtype:
        raise ValueError(
            f"{slot.name} is {slot.dtype.name} in the module, and {dtype} is asked for; a module keeps its dtypes: "
            f"change them by module.to(torch.{dtype})"
        )
    _check_memory(slot.name, tensor)


def _check_source(slot: Slot, source: Reparametrization, given: Collection[object]) -> None:
    """Raise ValueError for a tensor that is computed and cannot be given a value, or whose originals are given one."""
    if any(_key(place) in given for place in source.originals):
        raise ValueError(f"the manifest has {slot.name}, and what that is computed from as well; take one of them away")
    try:
        source.check()
    except ValueError as error:
        raise ValueError(f"{slot.name} is computed by {source.kind}: {error}") from None


def _check_memory(name: str, tensor: "torch.Tensor") -> None:
    """Raise ValueError for a tensor that has no memory of its own for each of its elements."""
    import torch

    if hasattr(tensor, "__tensor_flatten__") or tensor.layout != torch.strided:
        kind = f"{type(tensor).__name__} ({tensor.layout})"
        cure = "fill the module before it is quantized or made sparse"
        raise ValueError(f"{name} is a {kind}; only plain tensors are filled: {cure}")
    if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise ValueError(f"{name} is an expanded tensor, whose elements share memory: make it contiguous first")


def _left_on_meta(slots: Iterable[Slot], missing: Iterable[Slot], device: Any) -> list[Slot]:
    """Return the buffers on the meta device among what is not asked for; raise ValueError for parameters."""
    import torch

    meta = [slot for slot in slots if slot.tensor.is_meta]
    if meta and (device is None or torch.device(device).type == "meta"):
        raise ValueError(f"{meta[0].name} is on the meta device; say where it shall be: device='cpu', device='cuda'")
    left = [slot for slot in missing if slot.tensor.is_meta and slot.source is None]
    for slot in left:
        if not slot.is_buffer:
            raise ValueError(f"{slot.name} is on the meta device, and the manifest does not ask for it: add it there")
    return left


def _compute_buffers(left: Sequence[Slot], device: Any, reset_buffers: Reset | None) -> None:
    """Give buffers memory and let their modules compute what is in them; raise ValueError where a module cannot."""
    import torch

    owners = {id(slot.owner): slot.owner for slot in left}.values()
    resets = [reset_buffers or getattr(type(owner), "reset_parameters", None) for owner in owners]
    if not all(resets):
        names = ", ".join(slot.name for slot in left if not hasattr(slot.owner, "reset_parameters"))
        raise ValueError(
            f"what belongs into the buffers {names} is computed when their modules are made, which does not happen on "
            "the meta device: give reset_buffers=, a function that takes such a module and fills its buffers"
        )
    for slot in left:
        slot.owner._buffers[slot.leaf] = torch.empty_like(slot.tensor, device=device)
    with torch.no_grad():
        for owner, reset in zip(owners, resets, strict=True):
            reset(owner)  # type: ignore[misc]


# Tensors -------------------------------------------------------------------------------------------------------------


def _target(slot: Slot, device: Any) -> "torch.Tensor":
    """Return what this rank holds of a tensor, with memory on ``device`` where it had none, or none of its own."""
    import torch

    local = local_of(slot.tensor)
    if slot.source is not None:
        return torch.empty(local.shape, dtype=local.dtype, device=device if local.is_meta else local.device)
    return torch.empty_like(local, device=device) if local.is_meta else local


def _assign(slot: Slot, source: Reparametrization, value: "torch.Tensor") -> None:
    """Give a tensor that is computed its value; raise ValueError where it cannot have it."""
    try:
        source.assign(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{slot.name} is computed by {source.kind}, and cannot be what was drawn: {error}. Draw it from another "
            "law, or fill the module before it is parametrized. Other tensors of the module have been filled"
        ) from error


def _key(place: Place) -> tuple[int, str]:
    """Return what tells places apart."""
    owner, leaf = place
    return id(owner), leaf


def _contiguous(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return a tensor that bytes can be received into: itself, or memory of its own."""
    import torch

    return tensor if tensor.is_contiguous() else torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _clear_padding(slot: Slot, memory: "torch.Tensor") -> None:
    """Zero the row of an embedding that stands for padding, as torch does; it takes no gradient, and so stays zero."""
    from torch import nn

    if not isinstance(slot.owner, nn.Embedding | nn.EmbeddingBag) or slot.owner.padding_idx is None:
        return
    bounds = bounds_of_shard(slot.name, slot.tensor) if is_sharded(slot.tensor) else None
    row = slot.owner.padding_idx - (bounds[0][0] if bounds else 0)
    if 0 <= row < len(memory):
        memory[row] = 0
