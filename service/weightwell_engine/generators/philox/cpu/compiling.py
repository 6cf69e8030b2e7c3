"""Compiling: options of Numba with which LLVM keeps every operation and its order."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite.binding import ffi
from llvmlite.ir import Constant
from numba import njit, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from weightwell_engine import forks
from weightwell_engine.generators.philox.cpu.machine_code import MachineCode

Function = TypeVar("Function", bound=Callable[..., Any])

# Options that are missing in Numba's type annotations.
_FOR_KERNELS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_FOR_PYTHON: dict[str, Any] = {"no_cfunc_wrapper": True}

# A fork waits until no thread compiles. The compiler takes the lock of LLVM after its own.
forks.protect(global_compiler_lock._lock, ffi.lib._lock._lock)


def kernel(function: Function) -> Function:
    """Compile a function that other kernels call."""
    return cast(Function, njit(nogil=True, error_model="numpy", **_FOR_KERNELS)(function))


def entry(function: Function, version: str = "") -> Function:
    """Compile a function that Python calls, at its first call, and save the machine code on disk.

    Functions that share a definition need different values of ``version``.
    """
    dispatcher: Any = njit(nogil=True, error_model="numpy", **_FOR_PYTHON)(function)
    dispatcher._cache = MachineCode("-".join(filter(None, (function.__name__, version))))
    return cast(Function, dispatcher)


@intrinsic
def _widest_vectors(_: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        for attribute in '"prefer-vector-width"="512"', '"stackrealign"':
            set.add(builder.function.attributes, attribute)
        return context.get_dummy_value()

    return types.void(), codegen


# A kernel calls this to use 512-bit vectors if the processor has them. LLVM's default is 256 bits, which is 1.3 to 1.9
# times slower here. It also aligns the stack to whole vectors: half of the vectors that do not fit into the registers
# would cross a cache line, and each of their loads and stores would take twice as long. It sets the attributes of
# clang's -mprefer-vector-width=512 and -mstackrealign, which llvmlite does not offer.
widest_vectors = cast(Callable[[], None], _widest_vectors)


@intrinsic
def _uncounted(_: Any, array: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        view = context.make_array(array)(context, builder, arguments[0])
        view.meminfo = Constant(view.meminfo.type, None)
        return view._getvalue()

    return array(array), codegen


# The same array without reference counting. Each count is an atomic operation, which waits for all earlier stores.
# Dozens of them in each block took a fifth of the time. The caller must hold the array until the kernel returns.
uncounted = cast(Callable[[Any], Any], _uncounted)
