"""Triton for this package: decorators for kernels, and the options of every launch.

Triton has no types for type checkers, so tensors and scalars in kernels have the type ``Any``.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import triton

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function that other kernels call."""
    return cast(Function, triton.jit(function))


def entry(function: Callable[..., None]) -> Any:
    """Compile a function that Python launches: ``function[(programs,)](..., **OPTIONS)``.

    Arguments named ``start`` and ``count`` are not specialized: Triton would compile again for 1 and for multiples of
    16.
    """
    return triton.jit(function, do_not_specialize=["start", "count"])


OPTIONS = {"enable_fp_fusion": False, "num_warps": 4}
"""The options of every launch: no fused multiply-add, which is on by default in Triton."""
