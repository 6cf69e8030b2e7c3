"""The tensors in what a module takes and returns: a tensor, or tuples, lists, mappings and dataclasses of tensors."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def signals_in(value: object, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each tensor of floating-point numbers in a value, with its path, such as ``[1][0]`` or ``.logits``."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.layout == torch.strided:
            yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from signals_in(each, f"{path}.{key}")
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", None)
        for place, each in enumerate(value):
            yield from signals_in(each, f"{path}.{names[place]}" if names else f"{path}[{place}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from signals_in(getattr(value, field.name), f"{path}.{field.name}")


def replaced(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a value with ``change(tensor)`` for each tensor in it. The given value is not changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        for key, each in value.items():
            changed[key] = replaced(each, change)
        return changed
    if isinstance(value, tuple | list):
        items = [replaced(each, change) for each in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(changed, field.name, replaced(getattr(value, field.name), change))
        return changed
    return value


def called(model: torch.nn.Module, batch: Any) -> Any:
    """Call a model: ``model(tensor)``, ``model(*tuple)`` or ``model(**mapping)``."""
    if isinstance(batch, torch.Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch)
    raise TypeError(
        "batch must be a tensor, a tuple of positional arguments or a mapping of keyword arguments of the model, "
        f"got {type(batch).__name__}"
    )
