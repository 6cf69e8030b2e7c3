"""Laws prepared for kernels that have passed the self-check.

    prepared = prepare(law, dtype, seed, name)
    prepared.fill(part, out)        # from any thread, any part, in any order

A kernel is compiled, or read from disk, when it is first needed, and checked before its first number is handed out.
"""

import os
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import lru_cache
from threading import Lock

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.forks import loading
from weightwell_engine.generators.philox.cpu import early, laws
from weightwell_engine.generators.philox.cpu.laws import Prepared
from weightwell_engine.generators.philox.specification.known_answers import KNOWN_ANSWERS, NAME, SEED
from weightwell_engine.laws import Law
from weightwell_engine.regions import Runs

__all__ = ["Prepared", "is_ready", "prepare", "warm_up"]

# The kernels of nearly all requests: uniform, normal and truncated normal elements of two dtypes.
_COMMON = "singles float32", "singles bfloat16"

_sound: set[str] = set()
_locks: dict[str, Lock] = {}
if hasattr(os, "register_at_fork"):  # not on Windows
    # A kernel that another thread was checking is checked again in the child. Compiling itself is not interrupted.
    os.register_at_fork(after_in_child=_locks.clear)


def prepare(law: Law, dtype: DType, seed: int, name: str, executor: Executor | None = None) -> Prepared:
    """Return an object that draws a law for the tensor ``name``; ``seed`` is in ``[0, 2^64)``.

    The first use of a kernel compiles it, which takes seconds, or loads its machine code in tenths of a second.
    Raises ``GeneratorUnsound`` if a known answer is wrong, and ``UnsupportedSpec`` for a sparse matrix of more than
    2^32 rows.
    """
    prepared = laws.prepare(law, dtype, seed, name, executor)
    _require_sound(prepared.kernels)
    return prepared


def warm_up() -> None:
    """Compile or load the common kernels, and check them; raise ``GeneratorUnsound`` for a wrong answer."""
    _require_sound(_COMMON)


def is_ready(law: Law, dtype: DType) -> bool:
    """Return whether the kernels that draw a law have been compiled and checked in this process."""
    return law.is_deterministic or _sound.issuperset(_kernels(law, dtype))


@lru_cache(4096)
def _kernels(law: Law, dtype: DType) -> tuple[str, ...]:
    return laws.prepare(law, dtype, SEED, NAME).kernels


def _require_sound(kernels: Iterable[str]) -> None:
    """Check kernels, each once in a process, one after another. Kernels that are ready wait for none."""
    for kernel in kernels:
        if kernel not in _sound:
            with _locks.setdefault(kernel, Lock()), loading:
                if kernel not in _sound:
                    _check(kernel)
                    _sound.add(kernel)
                    early.allowance.end()


def _check(kernel: str) -> None:
    for answer in KNOWN_ANSWERS:
        if kernel in _kernels(answer.law, DTYPES[answer.dtype])[-1:]:
            answer.require(draw)


def draw(law: Law, dtype: str, runs: Runs) -> bytearray:
    """Return the bytes of elements of the known answers' tensor, unchecked."""
    out = bytearray(runs.size * DTYPES[dtype].itemsize)
    laws.prepare(law, DTYPES[dtype], SEED, NAME).fill(runs, memoryview(out))
    return out
