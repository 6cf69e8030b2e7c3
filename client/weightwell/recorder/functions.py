"""Initializers of torch that are recorded as functions.

On the meta device they do nothing, or their operators do not show their law.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from weightwell.recorder.laws import Diagonal, Law, Orthogonal, Sparse, TruncatedNormal
from weightwell.recorder.mode import Recorder
from weightwell.recorder.storages import Draw, Drawn, Fixed, Literal


def _trunc_normal(_tensor: torch.Tensor, mean: float, std: float, a: float, b: float, **_: Any) -> Law:
    return TruncatedNormal(float(mean), float(std), float(a), float(b))


def _orthogonal(tensor: torch.Tensor, gain: float = 1, **_: Any) -> Law:
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    return Orthogonal(float(gain))


def _sparse(tensor: torch.Tensor, sparsity: float, std: float = 0.01, **_: Any) -> Law:
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return Sparse(float(sparsity), float(std))


def _eye(tensor: torch.Tensor) -> Law:
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return Diagonal("eye")


def _dirac(tensor: torch.Tensor, groups: int = 1) -> Law:
    if tensor.ndim not in {3, 4, 5}:
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    return Diagonal("dirac", groups)


# By their names in torch.nn.init. torch's trunc_normal_ calls the function here, under whatever name it was imported.
_FUNCTIONS: dict[str, Callable[..., Law]] = {
    "_no_grad_trunc_normal_": _trunc_normal,
    "orthogonal_": _orthogonal,
    "sparse_": _sparse,
    "eye_": _eye,
    "dirac_": _dirac,
}


_lock = threading.Lock()
_local = threading.local()
_places_in_use: list[tuple[dict[str, Any], str, Any, Any]] = []
_held: dict[str, tuple[int, tuple[str, ...]]] = {}
"""Of every module the number of its names, and which functions are among them: thousands of modules are looked at."""
_recordings = 0


@contextmanager
def recorded_functions(recorder: Recorder) -> Iterator[None]:
    """Let torch's initializers write laws for as long as the context lasts, in every module that has imported them.

    In other threads they initialize as before, or write into the recorders of those threads. The first recording of a
    process replaces the functions and the last one that ends puts them back. A module that is imported meanwhile keeps
    the replaced functions, which call the original ones when nothing is recorded.
    """
    global _recordings
    recorders = _recorders()
    with _lock:
        if not _recordings:
            _replace()
        _recordings += 1
    recorders.append(recorder)
    try:
        yield
    finally:
        recorders.remove(recorder)
        with _lock:
            _recordings -= 1
            if not _recordings:
                _put_back()


def _recorders() -> list[Recorder]:
    """Return the recorders of this thread, the innermost last."""
    if not hasattr(_local, "recorders"):
        _local.recorders = []
    return _local.recorders  # type: ignore[no-any-return]


def _replace() -> None:
    with torch.device("meta"):
        torch.empty(0)  # so that torch has looked up the functions that take a device: it keeps them
    for name in ("tensor", "as_tensor"):
        original = getattr(torch, name)
        _places_in_use.append((vars(torch), name, original, _with_numbers(original)))
    originals = {name: getattr(torch.nn.init, name) for name in _FUNCTIONS}
    new = {name: _replaced(original, _FUNCTIONS[name]) for name, original in originals.items()}
    _places_in_use.extend((names, name, originals[name], new[name]) for names, name in _places(originals))
    for names, name, _, function in _places_in_use:
        names[name] = function


def _put_back() -> None:
    """Put the original functions back, where nobody else has replaced them since."""
    for names, name, original, function in _places_in_use:
        if names.get(name) is function:
            names[name] = original
    _places_in_use.clear()


def _replaced(original: Any, law: Callable[..., Law]) -> Any:
    def initialize(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        recorders = _recorders()
        if not recorders:
            return original(tensor, *args, **kwargs)  # type: ignore[no-any-return]
        kwargs.pop("generator", None)
        given = law(tensor, *args, **kwargs)
        recorders[-1].write(tensor, Fixed(given) if isinstance(given, Diagonal) else Drawn(given, Draw()))
        return tensor

    initialize.__wrapped__ = original  # type: ignore[attr-defined]
    return initialize


def _with_numbers(original: Any) -> Any:
    def make(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = original(data, *args, **kwargs)
        recorders = _recorders()
        if recorders and not isinstance(data, torch.Tensor) and out.is_meta and recorders[-1].storage(out) is None:
            with _disable_current_modes():
                numbers = torch.as_tensor(data, dtype=out.dtype, device="cpu").clone()
                recorders[-1].write(out, Literal(numbers))
        return out

    return make


def _places(functions: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the namespaces of modules that have a function under its name, and transformers' table of them."""
    for namespace, names in _namespaces():
        size, held = _held.get(namespace, (-1, ()))
        if size != len(names):
            held = tuple(name for name in functions if name in names)
            _held[namespace] = len(names), held
        for name in held:
            if names.get(name) is functions[name]:
                yield names, name


def _namespaces() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in [*sys.modules.items()]:
        if isinstance(module, ModuleType):
            yield name, vars(module)
    yield "", getattr(sys.modules.get("transformers.initialization"), "TORCH_INIT_FUNCTIONS", {})
