"""Tensors of torch or numpy as views of received memory. Each framework is imported when it is first used."""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from weightwell.dtypes import DType
from weightwell.exceptions import MissingFramework
from weightwell.memory import Memory
from weightwell.problems import did_you_mean

View = Callable[[Memory | memoryview, tuple[int, ...]], Any]


def viewer(framework: str | None, dtype: DType, device: object = None) -> View:
    """Return a function that makes a tensor of ``dtype`` from memory and a shape, which counts elements.

    It makes no copy, except for ``float4_e2m1fn_x2`` in numpy, which has no elements smaller than a byte.

    ``framework`` is ``"torch"``, ``"numpy"``, or None. None means torch if it is installed, else numpy. The tensor is
    moved to ``device`` if there is one. Raises ``MissingFramework`` before anything is drawn.
    """
    name = framework or ("torch" if find_spec("torch") else "numpy")
    if name not in VIEWERS:
        hint = did_you_mean(framework, VIEWERS)
        raise ValueError(f"framework must be one of {', '.join(VIEWERS)}, got {framework!r}{hint}")
    if device is not None and name != "torch":
        raise ValueError(f"a {name} array has no device, got device={device!r}; use framework='torch'")
    return VIEWERS[name](dtype, device)


def on_host(device: object) -> bool:
    """Whether tensors for this device of torch are in host memory; None is no device."""
    return device is None or imported("torch", extra="torch").device(device).type == "cpu"


def _torch(dtype: DType, device: object) -> View:
    """Return the view of memory as a ``torch.Tensor``."""
    torch = imported("torch", extra="torch")
    element = getattr(torch, dtype.name)

    def view(memory: Memory | memoryview, shape: tuple[int, ...]) -> Any:
        # torch.frombuffer refuses memory of no bytes.
        flat = torch.frombuffer(memory, dtype=element) if len(memory) else torch.empty(0, dtype=element)
        tensor = flat.reshape(dtype.of_torch(shape))
        return tensor if device is None else tensor.to(device)

    return view


def _numpy(dtype: DType, _device: object) -> View:
    """Return the view of memory as a ``numpy.ndarray``."""
    numpy = imported("numpy", extra="numpy")
    if dtype.packed > 1:
        return _unpacked(numpy, imported("ml_dtypes", extra="numpy").float4_e2m1fn)
    home = numpy if hasattr(numpy, dtype.name) else imported("ml_dtypes", extra="numpy")
    element = numpy.dtype(getattr(home, dtype.name))

    def view(memory: Memory | memoryview, shape: tuple[int, ...]) -> Any:
        return numpy.frombuffer(memory, dtype=element).reshape(shape)

    return view


def _unpacked(numpy: Any, element: Any) -> View:
    """Return the function that makes an array with an element in each byte, of memory with two in each byte."""

    def view(memory: Memory | memoryview, shape: tuple[int, ...]) -> Any:
        items = numpy.frombuffer(memory, dtype=numpy.uint8)
        return numpy.stack([items & 15, items >> 4], axis=-1).reshape(shape).view(element)

    return view


VIEWERS: dict[str, Callable[[DType, object], View]] = {"torch": _torch, "numpy": _numpy}


def imported(module: str, *, extra: str) -> Any:
    """Import a module that this package does not depend on."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingFramework(f"{module} is not installed; pip install 'weightwell[{extra}]'") from error
