"""Compiling: how Numba makes machine code of kernels, so that LLVM keeps every operation and its order.

Numba's cache looks at a kernel's own file alone, not at this one: a change here asks for one there.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite.ir import Constant
from numba import njit, types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function that other kernels call."""
    return cast(Function, njit(nogil=True, error_model="numpy")(function))


def step(function: Function) -> Function:
    """Compile a function on lanes or scalars into those that call it, so that lanes stay in registers."""
    return cast(Function, njit(nogil=True, error_model="numpy", forceinline=True)(function))


def entry(function: Function) -> Function:
    """Compile a function that Python calls, and keep the machine code on disk, if there is a place to keep it."""
    try:
        return cast(Function, njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # neither NUMBA_CACHE_DIR, nor beside the source, nor in the user's cache
        return kernel(function)


@intrinsic
def _widest_vectors(_: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


# To be called by a kernel that wants 512-bit vectors where there are any: LLVM prefers 256, which is 1.3 to 1.9 times
# slower here. It sets the attribute that clang sets for -mprefer-vector-width=512; llvmlite has no name for it.
widest_vectors = cast(Callable[[], None], _widest_vectors)


@intrinsic
def _uncounted(_: Any, array: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        view = context.make_array(array)(context, builder, arguments[0])
        view.meminfo = Constant(view.meminfo.type, None)
        return view._getvalue()

    return array(array), codegen


# The same array, but that Numba does not count who refers to it: counting is an atomic operation, which waits for all
# that was stored before, and dozens of them for each block took a fifth of the time. To be called on what the caller
# holds until it is answered.
uncounted = cast(Callable[[Any], Any], _uncounted)
