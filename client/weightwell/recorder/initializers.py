"""Initializers: the methods by which modules set their own parameters, found and run."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Initialize = str | Callable[[nn.Module], object]

# The methods of libraries that initialize a module with all that is in it, by the full name of the type that has them.
_OF_LIBRARIES: Mapping[str, str] = {
    "transformers.modeling_utils.PreTrainedModel": "initialize_weights",
    "torchtitan.protocols.module.Module": "init_states",
}
# Methods that initialize a module with all that is in it, if they need no argument, or one module, if they need one.
_OF_MODELS = ("init_weights", "_init_weights", "initialize_weights")

# Methods that initialize the parameters of a module.
_OF_MODULES = ("reset_parameters", "_reset_parameters")


def method_of_library(module: nn.Module) -> Callable[[], object] | None:
    """Return the method of a library that initializes a module with all that is in it; None if it has none."""
    for kind in type(module).__mro__:
        if name := _OF_LIBRARIES.get(f"{kind.__module__}.{kind.__qualname__}"):
            return getattr(module, name)  # type: ignore[no-any-return]
    return None


def has_own_initializer(module: nn.Module) -> bool:
    """Whether a type that is not torch's says how a module, or what is in it, is initialized."""
    return bool(_defined(module, (*_OF_LIBRARIES.values(), *_OF_MODELS, *_OF_MODULES)))


def initialize(model: nn.Module, function: Initialize | None = None) -> None:
    """Run the initializers of a model that is built, in the order in which constructors would.

    ``function``: the name of a method of the model, or a function of a module that is applied to all modules, instead.
    """
    with torch.no_grad():
        if isinstance(function, str):
            getattr(model, function)()
        elif function is not None:
            model.apply(function)  # type: ignore[arg-type]
        else:
            _initialize(model, set())


def initialize_by_library(model: nn.Module) -> None:
    """Run the initializers that constructors do not run on the meta device: those of transformers and torchtitan."""
    if (method := method_of_library(model)) is not None:
        with _untied(model):
            method()
        return
    for child in model.children():
        initialize_by_library(child)


def _initialize(module: nn.Module, seen: set[int]) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    if (method := method_of_library(module)) is not None:
        with _untied(module):
            method()
        return
    if (whole := _method(module, arguments=0)) is not None:
        whole()
        return
    for child in module.children():
        _initialize(child, seen)
    for name in _OF_MODULES:
        if callable(reset := getattr(module, name, None)):
            reset()
            break
    if (each := _method(module, arguments=1)) is not None:
        module.apply(each)


@contextmanager
def _untied(model: nn.Module) -> Iterator[None]:
    """Give tied parameters memory of their own while the context lasts, but for the one that the others take.

    A library ties parameters after it has initialized them, each on its own. Where they are tied already, the last
    module would overwrite what the others wrote, such as the padding row of an embedding.
    """
    names: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append((f"{path}.{leaf}".lstrip("."), module, leaf))
    taking = getattr(model, "all_tied_weights_keys", None) or {}
    ties: list[tuple[nn.Module, str, nn.Parameter]] = []
    for places in names.values():
        source = next((name for name, *_ in places if name not in taking), places[0][0])
        for name, module, leaf in places:
            parameter = module._parameters[leaf]
            if name != source and parameter is not None:
                ties.append((module, leaf, parameter))
    try:
        for module, leaf, parameter in ties:
            own = nn.Parameter(torch.empty_like(parameter), requires_grad=parameter.requires_grad)
            module._parameters[leaf] = own
        yield
    finally:
        for module, leaf, parameter in ties:
            module._parameters[leaf] = parameter


def _method(module: nn.Module, *, arguments: int) -> Callable[..., Any] | None:
    """Return the first initializer of a model that needs as many arguments; None if there is none."""
    for name in _defined(module, _OF_MODELS):
        method = getattr(module, name)
        needed = [each for each in inspect.signature(method).parameters.values() if _is_needed(each)]
        if len(needed) == arguments:
            return method  # type: ignore[no-any-return]
    return None


def _defined(module: nn.Module, names: tuple[str, ...]) -> list[str]:
    """Return which of some methods a module has from a type that is not torch's."""
    return [
        name
        for name in names
        for kind in type(module).__mro__
        if name in vars(kind) and not kind.__module__.startswith("torch.")
    ]


def _is_needed(parameter: inspect.Parameter) -> bool:
    positional = parameter.kind in {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return positional and parameter.default is inspect.Parameter.empty
