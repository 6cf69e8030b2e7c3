"""Compile every kernel for the generic processors of ``machine_code.LEVELS``, and keep the code next to the source.

    python -m weightwell_engine.generators.philox.cpu.precompile

An image with this code starts in a second, even with a read-only file system. The kernels are compiled but not
executed, so any x86-64 machine can compile for all of these processors. The machine that runs them checks them.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from weightwell_engine.dtypes import REALS, DType
from weightwell_engine.generators.philox.cpu import doubles, narrow, orthogonal_kernels, singles, sparse, words
from weightwell_engine.generators.philox.cpu.laws import prepare_elements
from weightwell_engine.generators.philox.cpu.machine_code import LEVELS, NEXT_TO_SOURCE, PROCESSOR
from weightwell_engine.generators.philox.specification.draws import settle
from weightwell_engine.generators.philox.specification.formats import UNSIGNED
from weightwell_engine.generators.philox.specification.keys import Key
from weightwell_engine.laws import Normal


def versions(dtypes: Iterable[DType] = REALS.values()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield every kernel that draws some dtypes, with arguments of the types that it is compiled for."""
    key, run, memory, bits = Key(0, 0, 0, 0), words.Run(0, 0, 0, 0), words.scratch(), np.empty(0, np.uint32)
    for dtype in dtypes:
        out, law = np.empty(0, UNSIGNED[dtype.itemsize]), prepare_elements(settle(Normal(0.0, 1.0), dtype), 0, "").law
        if isinstance(law, doubles.Double):
            yield doubles.fill, (law, run, out.view(np.float64), memory)
        else:
            yield singles.filler(dtype.name), (law, run, out, memory)
        if dtype.itemsize < 4:
            yield narrow.encoder(dtype.name), (np.empty(0, np.float32), out)
        yield sparse.set_zeros, (key, bits, run, out, memory)
    yield words.write_all, (key, run, bits, memory)
    yield sparse.find_bounds, (bits, 0, bits, np.empty(0, np.int64))
    for carrier in (np.float32, np.float64):
        vector, matrix, blocks = (np.empty((0,) * dimensions, carrier) for dimensions in (1, 2, 3))
        yield orthogonal_kernels.prepare_block, (matrix, vector, vector, matrix)
        yield orthogonal_kernels.multiply_out, (blocks, blocks, vector, 0, blocks)


def main() -> None:
    """Compile for each level in a separate process: Numba compiles for one processor in a process."""
    if sys.argv[1:] == ["here"]:
        from numba import typeof

        for kernel, arguments in versions():
            kernel.compile(tuple(map(typeof, arguments)))
        return
    if not PROCESSOR.system.startswith("x86_64"):
        print(f"nothing to compile for {PROCESSOR.system}: its kernels are compiled at their first use")
        return
    NEXT_TO_SOURCE.mkdir(exist_ok=True)
    for level, features in LEVELS.items():
        with TemporaryDirectory() as folder:
            target = {"NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": folder}
            command = [sys.executable, "-m", __spec__.name, "here"]
            subprocess.run(command, env=os.environ | target, check=True)  # noqa: S603 - a command of our own
            for file in Path(folder).rglob("*.kernel"):
                copy(file, NEXT_TO_SOURCE)
    for file in sorted(NEXT_TO_SOURCE.glob("*.kernel")):
        print(f"{file.stat().st_size:10,} {file}")


if __name__ == "__main__":
    main()
