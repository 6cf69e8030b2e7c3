"""Sources: models that are named on a command line, by a configuration of transformers or a function."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# The ends of the names of weight files.
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz"}

_FORMS = "the path of a config.json of transformers or of its folder, or a function as package.module:function"


def builder_of(source: str) -> "Callable[[], nn.Module]":
    """Return the function that builds a model.

    ``source``: the path of a ``config.json`` of transformers, or of the folder that has it: the model is the first of
    its ``architectures``, or else the one without a head; or ``package.module:function``, a function without arguments,
    or a class, that is imported from the current folder or from what is installed.

    Raises ValueError for a source that is in neither form, or not there, and ImportError without transformers.
    """
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        return _of_config(path)
    module, colon, name = source.partition(":")
    if not colon:
        raise ValueError(f"expected {_FORMS}; there is no file {source!r}")
    return _imported(module, name)


def on_meta(build: "Callable[[], nn.Module]") -> "nn.Module":
    """Return a model on the meta device, where its tensors have no memory."""
    import torch

    with torch.device("meta"):
        return build()


def small_files_of(source: str) -> dict[str, bytes]:
    """Return the small files of a model by name: its ``config.json``, and what else is in its folder but weights.

    A function has none.
    """
    path = Path(source)
    if path.is_file():
        return {"config.json": path.read_bytes()}
    if not path.is_dir():
        return {}
    return {
        each.relative_to(path).as_posix(): each.read_bytes()
        for each in sorted(path.rglob("*"))
        if each.is_file() and not _is_left_out(each.relative_to(path))
    }


def _is_left_out(path: Path) -> bool:
    """Whether a file of a model is not one of its small files: weights, their indices, and hidden files."""
    hidden = any(part.startswith(".") for part in path.parts)
    return hidden or path.suffix in _WEIGHTS or path.name.endswith(".index.json") or path.name == "manifest.json"


def _imported(module: str, name: str) -> "Callable[[], nn.Module]":
    """Return a function of a module."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot import {module}:{name}: {error}") from error
    if not callable(found):
        raise ValueError(  # noqa: TRY004 - a mistake on the command line
            f"{module}:{name} must be a function that returns a torch module, got {found!r:.80}"
        )
    return found  # type: ignore[no-any-return]


def _of_config(path: Path) -> "Callable[[], nn.Module]":
    """Return the function that builds the model of a configuration of transformers."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        kind = fields["model_type"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no configuration of transformers: it has no model_type") from error
    transformers = import_module("transformers")
    try:
        config = transformers.AutoConfig.for_model(kind).from_dict(fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    names = fields.get("architectures") or ()
    if names and hasattr(transformers, names[0]):
        return lambda: getattr(transformers, names[0])(config)
    return lambda: transformers.AutoModel.from_config(config)
