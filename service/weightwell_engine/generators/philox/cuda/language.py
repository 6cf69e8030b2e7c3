"""Triton, as this package uses it: what turns a function into a kernel, and what every launch is given.

Triton knows no types that a type checker would, so what is a tensor, or a scalar, in a kernel is ``Any`` to Python.
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

    Its ``start`` and ``count``, if it has them, may be any numbers without being compiled anew for 1, or a multiple of
    16.
    """
    return triton.jit(function, do_not_specialize=["start", "count"])


OPTIONS = {"enable_fp_fusion": False, "num_warps": 4}
"""What every launch says: that no product is fused with a sum, which Triton would do unasked."""
