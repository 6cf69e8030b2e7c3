"""Twins: copies of modules whose tensors are on the meta device, so that initializers can run and nothing changes."""

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from weightwell.recorder.laws import Constant
from weightwell.recorder.mode import Recorder
from weightwell.recorder.storages import UNWRITTEN, Content, Fixed, Storage, Unknown

# Types that torch makes on the fly, of a module that is sharded.
_MADE = "torch.distributed."

_UNKNOWN = "no initializer writes it, and the constructor was not recorded: use Manifest.of or weightwell.recording()"

# What libraries note of modules that they have initialized.
_NOTES = ("_is_hf_initialized",)


def twin_of(module: nn.Module, recorder: Recorder) -> nn.Module:
    """Return a module with the same submodules, whose tensors are on the meta device and have not been written.

    The numbers of a tensor that is constant are known, as no initializer may write it. What else a tensor holds is
    ignored. While it is recorded, the module itself cannot be written.
    """
    twins = _Twins(recorder, module)
    for tensor in (*module.parameters(), *module.buffers()):
        twins.tensor(tensor)
        if type(tensor) in {torch.Tensor, nn.Parameter} and tensor.numel():
            recorder.protected.add(tensor.untyped_storage()._cdata)
    return twins.module(module)


class _Twins:
    def __init__(self, recorder: Recorder, whole: nn.Module):
        self._recorder = recorder
        self._own = {id(each) for each in whole.modules()}
        self._modules: dict[int, nn.Module] = {}
        self._tensors: dict[int, torch.Tensor] = {}

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) in self._modules:
            return self._modules[id(module)]
        kind = next(each for each in type(module).__mro__ if not each.__module__.startswith(_MADE))
        twin: nn.Module = object.__new__(kind)
        self._modules[id(module)] = twin
        fields: dict[str, Any] = {key: value for key, value in vars(module).items() if key not in _NOTES}
        for name in ("_parameters", "_buffers"):
            tensors = fields[name]
            fields[name] = type(tensors)(
                {leaf: each if each is None else self.tensor(each) for leaf, each in tensors.items()}
            )
        children = fields["_modules"]
        fields["_modules"] = type(children)(
            {leaf: each if each is None else self.module(each) for leaf, each in children.items()}
        )
        made = ("_parameters", "_buffers", "_modules")
        fields = {key: value if key in made else self.value(value) for key, value in fields.items()}
        twin.__dict__.update(fields)
        return twin

    def value(self, value: Any) -> Any:
        """Return what an attribute of a twin is: what it has of the model's tensors and modules are their twins."""
        if isinstance(value, torch.Tensor):
            return self._tensors.get(id(value), value)
        if isinstance(value, nn.Module):
            return self.module(value) if id(value) in self._own else value
        if isinstance(value, MethodType):
            owner = self.value(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if type(value) is partial:
            return partial(self.value(value.func), *map(self.value, value.args), **self.value(value.keywords))
        if type(value) in {list, tuple}:
            return type(value)(map(self.value, value))
        if type(value) is dict:
            return {key: self.value(each) for key, each in value.items()}
        return value

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in self._tensors:
            return self._tensors[id(tensor)]
        new: torch.Tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self._recorder.storages[new.untyped_storage()._cdata] = Storage.of(new, _known(tensor))
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        self._tensors[id(tensor)] = new
        return new


def _known(tensor: torch.Tensor) -> Content:
    """Return the content of a tensor that no initializer writes."""
    if not tensor.numel():
        return UNWRITTEN
    if tensor.is_meta or type(tensor) not in {torch.Tensor, nn.Parameter}:
        return Unknown(_UNKNOWN)
    first = tensor.detach().flatten()[0]
    if tensor.layout == torch.strided and bool((tensor.detach() == first).all()):
        return Fixed(Constant(float(first)))
    return Unknown(_UNKNOWN)
