"""The names of modules and of what they return; the choice of modules by name and type."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Selection = str | type | Iterable[str | type] | None

_LISTED = 5  # names that an error lists


def selected(model: "nn.Module", modules: Selection) -> "dict[nn.Module, str]":
    """Return the names of the modules that globs and types select. Raises ValueError if there are none."""
    names = {module: name for name, module in model.named_modules()}
    if modules is None:
        return names
    wanted = [modules] if isinstance(modules, str | type) else list(modules)
    globs = [each for each in wanted if isinstance(each, str)]
    types = tuple(each for each in wanted if isinstance(each, type))
    if len(globs) + len(types) < len(wanted):
        raise TypeError(f"modules must be a glob of names, a type, or a list of these, got {modules!r:.80}")
    found = {
        module: name
        for module, name in names.items()
        if isinstance(module, types) or any(fnmatchcase(name, glob) for glob in globs)
    }
    if not found:
        some = ", ".join(repr(name) for name in list(names.values())[:_LISTED])
        raise ValueError(f"no module is selected by modules={modules!r:.80}; the modules are {some}, ...")
    return found


def row_name(module: str, path: str, call: int) -> str:
    """Return the name of a row: the name of a module, the place in its output, and the number of its call."""
    return f"{module or '(model)'}{path}{f' #{call}' if call > 1 else ''}"
