"""Tensors that exist: a torch tensor, a parameter, a shard or a numpy array, which is filled or changed in place."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weightwell.dtypes import BY_CODE, DType, dtype_of
from weightwell.models.pieces import Piece, Pieces
from weightwell.models.shards import bounds_of_shard, local_of
from weightwell.safetensors import PREFIX, Entry, read_header
from weightwell.slices import Bounds
from weightwell.transfers.destinations import DataDestination
from weightwell.transfers.spans import Span

if TYPE_CHECKING:
    import numpy as np
    import torch

_KINDS = "a torch.Tensor or a numpy.ndarray"


class InPlace(DataDestination, ABC):
    """A tensor that exists, and the destination of its data. ``commit`` returns the tensor, which is then complete.

    ``shape``: the shape of the whole tensor, in elements. ``extent``: that of the part that is here. ``bounds``: the
    position of this part in the whole, for a shard; None for the whole.
    """

    parallel = True
    needs_head = False
    shape: tuple[int, ...]
    extent: tuple[int, ...]
    bounds: Bounds | None
    dtype: DType
    step = (1 << 15) - 64  # elements that are changed at once: for 2^15, torch starts threads that wait for one another

    @abstractmethod
    def commit(self) -> Any:
        """Return the tensor with the received values."""

    @abstractmethod
    def flat(self) -> Any:
        """Return the part that is here: of one dimension if it is contiguous, else with its own shape."""


class TorchInPlace(InPlace):
    """A torch tensor. Contiguous memory is filled directly, other memory by one copy from new memory."""

    def __init__(self, tensor: "torch.Tensor"):
        self._tensor = tensor
        self._local = local_of(tensor)
        _check_torch(tensor, self._local)
        self.dtype = dtype_of(tensor.dtype)
        self.shape, self.extent = map(self.dtype.elements, (tensor.shape, self._local.shape))
        self.bounds = self.dtype.elements_of(bounds_of_shard("the tensor", tensor))
        if tensor.device.type != "cpu":
            self.step = 1 << 20  # a kernel is launched for each
        self._memory: torch.Tensor | None = None
        self._pieces = Pieces(())

    def open(self, _head: bytes, size: int, _etag: str | None) -> Sequence[Span]:
        """Allocate memory if the tensor's own cannot be filled; a new attempt uses the same memory."""
        if self._memory is None:
            self._memory = contiguous(self._local)
            self._pieces = Pieces([Piece(0, size, self._memory)])
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the memory of the range, or host memory that is copied to the device."""
        return self._pieces.buffers(start, stop)

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":
        """Return the memory of a GPU for the range, or None."""
        return self._pieces.on_device(start, stop)

    def commit(self) -> "torch.Tensor":
        """Copy the values if needed, tell autograd that the tensor has changed, and return it."""
        import torch

        if self._memory is not None and self._memory is not self._local:
            with torch.no_grad():
                self._local.copy_(self._memory)
        torch.autograd.graph.increment_version(self._tensor)
        return self._tensor

    def flat(self) -> "torch.Tensor":
        """Return the part that is here: of one dimension if it is contiguous, else with its own shape."""
        return self._local.view(-1) if self._local.is_contiguous() else self._local


class NumpyInPlace(InPlace):
    """A numpy array. Contiguous memory is filled directly, other memory by one copy from new memory."""

    bounds = None

    def __init__(self, array: "np.ndarray[Any, Any]"):
        import numpy as np

        if not array.flags.writeable:
            raise ValueError("the array is read-only: pass a writable array, such as array.copy()")
        if array.size and any(step == 0 and size > 1 for step, size in zip(array.strides, array.shape, strict=True)):
            raise ValueError("the array is broadcast, so that its elements share memory: pass array.copy()")
        self._array = array
        self._here = np.asarray(array)
        self.shape = self.extent = array.shape
        self.dtype = dtype_of(array.dtype)
        if self.dtype.packed > 1:
            raise ValueError(
                f"an array of {array.dtype} has one element in a byte, and files have {self.dtype.packed}: use "
                "init(..., framework='numpy'), which unpacks them, or a torch tensor"
            )
        self._memory: np.ndarray[Any, Any] | None = None

    def open(self, _head: bytes, _size: int, _etag: str | None) -> Sequence[Span]:
        """Allocate memory if the array's own cannot be filled; a new attempt uses the same memory."""
        import numpy as np

        if self._memory is None:
            own = self._is_plain()
            self._memory = self._here if own else np.empty(self.shape, self._here.dtype.newbyteorder("="))
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the memory of the range."""
        if self._memory is not None and start < stop:
            memory: Any = self._memory.reshape(-1).view("u1")
            yield memoryview(memory)[start:stop]

    def commit(self) -> "np.ndarray[Any, Any]":
        """Copy the values if needed, and return the array."""
        if self._memory is not None and self._memory is not self._here:
            self._here[...] = self._memory
        return self._array

    def flat(self) -> "np.ndarray[Any, Any]":
        """Return the array: of one dimension if it is contiguous, else with its own shape."""
        return self._here.reshape(-1) if self._is_plain() else self._here

    def _is_plain(self) -> bool:
        """Whether the memory of the array is that of the data in a file."""
        return self._here.flags.c_contiguous and self._here.dtype.isnative


class InTensors(DataDestination):
    """New torch tensors on a device, by name, which are allocated when the header of the file has been checked."""

    parallel = True

    def __init__(self, device: object):
        self.tensors: dict[str, torch.Tensor] = {}
        self._device: Any = device
        self._entries: Mapping[str, Entry] = {}
        self._pieces = Pieces(())

    def open(self, head: bytes, _size: int, _etag: str | None) -> Sequence[Span]:
        """Allocate the tensors, or keep those of an earlier attempt."""
        entries = read_header(head[PREFIX:]).entries
        if entries != self._entries:
            self.tensors = {name: self._new(entry) for name, entry in entries.items()}
            self._entries = entries
            self._pieces = Pieces(Piece(entry.start, entry.stop, self.tensors[name]) for name, entry in entries.items())
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield host memory, which is copied to the device when it is full."""
        return self._pieces.buffers(start, stop)

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":
        """Return the memory of a GPU for the range, or None."""
        return self._pieces.on_device(start, stop)

    def _new(self, entry: Entry) -> "torch.Tensor":
        import torch

        dtype = BY_CODE[entry.dtype]
        return torch.empty(dtype.of_torch(entry.shape), dtype=getattr(torch, dtype.name), device=self._device)


class InTargets(DataDestination):
    """Torch tensors that exist, by their names in the file. ``commit`` completes them.

    A tensor is filled directly if it is contiguous and has the dtype of the file, else by one copy from new memory.
    Tensors of the file that have no target are received and dropped. Raises ValueError, with the name, for a tensor
    that cannot be filled.
    """

    parallel = True

    def __init__(self, targets: "Mapping[str, torch.Tensor]"):
        for name, target in targets.items():
            if target.is_meta:
                raise ValueError(f"{name} is on the meta device and has no memory: use module.to_empty(device='cpu')")
            check_memory(name, target)
        self._targets = targets
        self._memory: dict[str, torch.Tensor] = {}
        self._pieces = Pieces(())

    def open(self, head: bytes, _size: int, _etag: str | None) -> Sequence[Span]:
        """Allocate memory for tensors whose own cannot be filled; a new attempt uses the same memory."""
        entries = read_header(head[PREFIX:]).entries
        if not self._memory:
            self._memory = {name: self._room(name, entry) for name, entry in entries.items()}
        self._pieces = Pieces(Piece(entry.start, entry.stop, self._memory[name]) for name, entry in entries.items())
        return ()

    def buffers(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the memory of the range, or host memory that is copied to the device."""
        return self._pieces.buffers(start, stop)

    def on_device(self, start: int, stop: int) -> "Iterator[torch.Tensor] | None":
        """Return the memory of a GPU for the range, or None."""
        return self._pieces.on_device(start, stop)

    def commit(self) -> None:
        """Copy the values where needed, and tell autograd that the tensors have changed."""
        import torch

        with torch.no_grad():
            for name, target in self._targets.items():
                if self._memory[name] is not target:
                    target.copy_(self._memory[name])
                torch.autograd.graph.increment_version(target)

    def _room(self, name: str, entry: Entry) -> "torch.Tensor":
        """Return contiguous memory for a tensor of the file: that of its target if possible."""
        import torch

        stored = BY_CODE[entry.dtype]
        dtype = getattr(torch, stored.name)
        target = self._targets.get(name)
        if target is not None and target.dtype == dtype:
            return contiguous(target)
        shape = stored.of_torch(entry.shape)
        return torch.empty(shape, dtype=dtype, device=None if target is None else target.device)


def destination_of(tensor: object) -> InPlace:
    """Return the destination for the data of a tensor; raise TypeError or ValueError if it cannot be filled."""
    if _is(tensor, "torch", "Tensor"):
        return TorchInPlace(tensor)  # type: ignore[arg-type]
    if _is(tensor, "numpy", "ndarray"):
        return NumpyInPlace(tensor)  # type: ignore[arg-type]
    raise TypeError(f"expected {_KINDS} to fill, got {type(tensor).__name__}: {tensor!r:.80}")


def is_tensor(value: object) -> bool:
    """Whether a value is a torch tensor or a numpy array, and not a shape: integers, of one dimension."""
    if _is(value, "torch", "Tensor"):
        integers = not (value.is_floating_point() or value.is_complex())  # type: ignore[attr-defined]
    elif _is(value, "numpy", "ndarray"):
        integers = value.dtype.kind in "iu"  # type: ignore[attr-defined]
    else:
        return False
    return not integers or value.ndim != 1  # type: ignore[attr-defined]


def check_memory(name: str, tensor: "torch.Tensor") -> None:
    """Raise ValueError for a tensor without separate memory for each element."""
    import torch

    if hasattr(tensor, "__tensor_flatten__") or tensor.layout != torch.strided:
        kind = f"{type(tensor).__name__} ({tensor.layout})"
        cure = "fill it before it is quantized or made sparse"
        raise ValueError(f"{name} is a {kind}; only plain tensors are filled: {cure}")
    if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise ValueError(f"{name} is an expanded tensor, whose elements share memory: make it contiguous first")


def contiguous(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return a contiguous tensor to receive bytes: the tensor itself, or new memory."""
    import torch

    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _check_torch(tensor: "torch.Tensor", local: "torch.Tensor") -> None:
    """Raise an error for a tensor that cannot be filled in place; torch's own for an inference tensor."""
    import torch

    if tensor.is_meta:
        raise ValueError(
            "the tensor is on the meta device and has no memory: use the result of init(shape, ..., device='cpu'), or "
            "init_module_(module, device='cpu') for a whole module"
        )
    check_memory("the tensor", local)
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        with torch.no_grad():
            tensor.copy_(tensor)  # raises torch's RuntimeError


def _is(value: object, module: str, kind: str) -> bool:
    """Whether a value is an instance of a class of a module, which this does not import."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], kind))
