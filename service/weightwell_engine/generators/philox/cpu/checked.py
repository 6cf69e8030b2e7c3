"""The philox generator on the CPU: the bits of ``specification.reference``, a hundred times faster.

prepared = prepare(law, dtype, seed, name)
prepared.fill(runs, out)        # from any thread, any runs, in any order
"""

from concurrent.futures import Executor

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.cpu import laws
from weightwell_engine.generators.philox.cpu.laws import Prepared
from weightwell_engine.generators.philox.cpu.selfcheck import require_sound, warm_up
from weightwell_engine.laws import Law

__all__ = ["Prepared", "prepare", "warm_up"]


def prepare(law: Law, dtype: DType, seed: int, name: str, executor: Executor | None = None) -> Prepared:
    """Return what draws a law for the tensor ``name``; ``seed`` is in ``[0, 2^64)``.

    The first call in a process compiles the kernels and checks them, if ``warm_up`` has not. Raises
    ``GeneratorUnsound`` where they are wrong, and ``InvalidSpec`` for a sparse matrix of more than 2^32 rows.
    """
    require_sound()
    return laws.prepare(law, dtype, seed, name, executor)
