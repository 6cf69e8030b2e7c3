"""The philox generator: one seed, the same bits everywhere. docs/generator.md is its specification.

    prepared = prepare(law, dtype, seed, name)
    prepared.fill(runs, out)        # from any thread, any runs, in any order

``reference`` is the specification in numpy; ``cpu``, which this is, gives the same bits a hundred times faster.
"""

from concurrent.futures import Executor

from weightwell_service.dtypes import DType
from weightwell_service.generators.philox import cpu
from weightwell_service.generators.philox.cpu import Prepared
from weightwell_service.generators.philox.keys import VERSION
from weightwell_service.generators.philox.selfcheck import GeneratorUnsound, require_sound, warm_up
from weightwell_service.laws import Law

__all__ = ["VERSION", "GeneratorUnsound", "Prepared", "prepare", "warm_up"]


def prepare(law: Law, dtype: DType, seed: int, name: str, executor: Executor | None = None) -> Prepared:
    """Return what draws a law for the tensor ``name``; ``seed`` is in ``[0, 2^64)``.

    The first call in a process compiles the kernels and checks them, if ``warm_up`` has not. Raises
    ``GeneratorUnsound`` where they are wrong, and ``InvalidSpec`` for a sparse matrix of more than 2^32 rows.
    """
    require_sound()
    return cpu.prepare(law, dtype, seed, name, executor)
