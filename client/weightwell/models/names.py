"""Names: what the tensors of a module are called, whatever the module is wrapped in.

A name is part of what is drawn. Wrappers such as DistributedDataParallel hold a model as a submodule, and put its name
before those of the model's tensors; the canonical names are those of the model without wrappers. A wrapper is known by
its type and not by a prefix: a model may have a submodule named ``module`` of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# The types of wrappers, by their full names so that nothing need be imported, and where each holds what it wraps.
_WRAPPERS = {
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "_checkpoint_wrapped_module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "_fsdp_wrapped_module",
    "peft.peft_model.PeftModel": "base_model",
    "peft.tuners.tuners_utils.BaseTuner": "model",
    "peft.tuners.tuners_utils.BaseTunerLayer": "base_layer",
}


@dataclass(frozen=True, slots=True)
class Owner:
    """A module inside of another one: its canonical path, the path that torch has for it, and itself."""

    path: str
    torch_path: str
    module: "nn.Module"


def register_wrapper(wrapper: "type[nn.Module] | str", attribute: str) -> None:
    """Register a type of module that wraps another one: ``attribute`` is then no part of the names of tensors.

    ``wrapper``: the type, or its full name, such as ``"package.module.Wrapper"``, which need not be imported; modules
    of types that inherit from it are wrappers as well.
    ``attribute``: the name of the submodule that is wrapped.

    It holds for the whole process, from the next module that is filled or described. Raises ValueError for a name that
    is none of a submodule.
    """
    if not attribute.isidentifier():
        raise ValueError(f"attribute must be the name of a submodule, such as 'module', got {attribute!r}")
    _WRAPPERS[wrapper if isinstance(wrapper, str) else _full_name(wrapper)] = attribute


def canonical_name(name: str, module: "nn.Module | None" = None) -> str:
    """Return the name of a tensor without the parts that wrappers have put into it.

    ``name``: a name in ``module.state_dict()`` or ``module.named_parameters()``.
    ``module``: the module that has the tensor. By its types it is known which parts belong to wrappers. Without it only
    parts that begin with an underscore are taken off, such as ``_orig_mod``: ``module`` may be a model's own name.
    """
    kept, owner = [], module
    for part in name.split("."):
        owner = _unwrapped(owner, part)
        wrapped = wrapped_name(owner) if owner is not None else part if part in _private() else None
        if part != wrapped:
            kept.append(part)
        owner = owner._modules.get(part) if owner is not None else None
    return ".".join(kept)


def wrapped_name(module: "nn.Module") -> str | None:
    """Return the name under which a wrapper holds what it wraps; None where a module is no wrapper."""
    for each in type(module).__mro__:
        attribute = _WRAPPERS.get(_full_name(each))
        if attribute in module._modules:
            return attribute
    return None


def owners(module: "nn.Module", prefix: str = "") -> Iterator[Owner]:
    """Yield a module and all modules in it, in the order of its state dict, each under every name that it has.

    ``prefix`` begins every canonical path.
    """
    return _owners(Owner(prefix, "", module))


def joined(*parts: str) -> str:
    """Return parts of a name, of which some may be empty, joined by dots."""
    return ".".join(part for part in parts if part)


def _owners(owner: Owner) -> Iterator[Owner]:
    yield owner
    wrapped = wrapped_name(owner.module)
    for name, child in owner.module._modules.items():
        if child is not None:
            path = owner.path if name == wrapped else joined(owner.path, name)
            yield from _owners(Owner(path, joined(owner.torch_path, name), child))


def _unwrapped(owner: "nn.Module | None", part: str) -> "nn.Module | None":
    """Return what a wrapper holds where a name has passed the wrapper over, as some wrappers do themselves."""
    while owner is not None and part not in owner._modules and (wrapped := wrapped_name(owner)):
        owner = owner._modules[wrapped]
    return owner


def _private() -> set[str]:
    return {attribute for attribute in _WRAPPERS.values() if attribute.startswith("_")}


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
