"""Names: the canonical names of a module's tensors, which do not depend on wrappers.

The name of a tensor selects its random numbers. A wrapper such as DistributedDataParallel holds the model as a
submodule, and so adds a prefix to the names of all tensors. Canonical names do not have it. Wrappers are recognised by
their type and not by the prefix, because a model may have its own submodule named ``module``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Types of wrappers, each with the attribute of the wrapped module. Full names, so that nothing is imported.
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
    """A submodule: its canonical path, its path in torch, and the module."""

    path: str
    torch_path: str
    module: "nn.Module"


def register_wrapper(wrapper: "type[nn.Module] | str", attribute: str) -> None:
    """Register a type of module that wraps another module. ``attribute`` is then left out of the names of tensors.

    ``wrapper``: the type, or its full name, such as ``"package.module.Wrapper"``, which need not be imported.
    Subclasses are wrappers too.
    ``attribute``: the name of the wrapped submodule.

    The registration holds for the whole process. It applies to modules that you fill or describe afterwards. Raises
    ValueError if ``attribute`` cannot be the name of a submodule.
    """
    if not attribute.isidentifier():
        raise ValueError(f"attribute must be the name of a submodule, such as 'module', got {attribute!r}")
    _WRAPPERS[wrapper if isinstance(wrapper, str) else _full_name(wrapper)] = attribute


def canonical_name(name: str, module: "nn.Module | None" = None) -> str:
    """Return the name of a tensor without the names of wrappers.

    ``name``: a name in ``module.state_dict()`` or ``module.named_parameters()``.
    ``module``: the module that has the tensor; its types show which parts belong to wrappers. Without it, only parts
    that begin with an underscore are removed, such as ``_orig_mod``, because ``module`` may be a name in the model.
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
    """Return the attribute of a wrapper that holds the wrapped module; None if the module is not a wrapper."""
    for each in type(module).__mro__:
        attribute = _WRAPPERS.get(_full_name(each))
        if attribute in module._modules:
            return attribute
    return None


def owners(module: "nn.Module", prefix: str = "") -> Iterator[Owner]:
    """Yield a module and all its submodules, in the order of the state dict, each under all its names.

    ``prefix`` begins every canonical path.
    """
    return _owners(Owner(prefix, "", module))


def joined(*parts: str) -> str:
    """Join the parts of a name that are not empty by dots."""
    return ".".join(part for part in parts if part)


def _owners(owner: Owner) -> Iterator[Owner]:
    yield owner
    wrapped = wrapped_name(owner.module)
    for name, child in owner.module._modules.items():
        if child is not None:
            path = owner.path if name == wrapped else joined(owner.path, name)
            yield from _owners(Owner(path, joined(owner.torch_path, name), child))


def _unwrapped(owner: "nn.Module | None", part: str) -> "nn.Module | None":
    """Return the wrapped module if a name leaves out the wrapper, as the names of some wrappers do."""
    while owner is not None and part not in owner._modules and (wrapped := wrapped_name(owner)):
        owner = owner._modules[wrapped]
    return owner


def _private() -> set[str]:
    return {attribute for attribute in _WRAPPERS.values() if attribute.startswith("_")}


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
