"""Compile every kernel for a GPU (none is needed) and print facts about its machine code as JSON.

``python machine_code.py 90`` is for compute capability 9.0, and ``python machine_code.py 80 few`` for some of
the kernels. It is a program, and not a test, because Triton cannot compile in the process where it interprets.
"""

import json
import re
import sys
from dataclasses import replace

import torch
import triton
from triton.backends.compiler import GPUTarget

from tests.engine.generators.philox.cuda.disassembly import disassembled
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators.philox.cuda import kernels, prepare
from weightwell_engine.generators.philox.cuda.launches import INTEGERS
from weightwell_engine.generators.philox.cuda.laws import Elements, Words
from weightwell_engine.generators.philox.cuda.segments import Program, law_row
from weightwell_engine.laws import Constant, Lattice, Law, Normal, TruncatedNormal, Uniform, UniformIntegers
from weightwell_engine.regions import Runs

WHOLE, ODD = Runs(0, 64, 0, 1), Runs(1, 3, 5, 7)
TINY, REMOTE = Normal(0.0, 1e-38), TruncatedNormal(0.0, 1.0, 3.0, 4.0)
LAWS: list[tuple[Law, str, Runs]] = [
    *((Uniform(-1.0, 1.0), name, WHOLE) for name in ("float64", "float32")),
    *((Normal(0.0, 1.0), name, WHOLE) for name in ("float64", "float32", "bfloat16", "float8_e4m3fn")),
    *((Normal(0.0, 1.0), name, ODD) for name in ("float32", "float8_e5m2")),
    (REMOTE, "float16", WHOLE),
    (TINY, "float16", WHOLE),
    *((Constant(1.0), name, WHOLE) for name in ("float64", "bfloat16")),
    (Lattice(1.0, 0, (5, 1), (64, 1)), "float32", WHOLE),
    *((UniformIntegers(-(2**bits), 2**bits), f"int{bits + 1}", runs) for bits in (7, 15) for runs in (WHOLE, ODD)),
    (UniformIntegers(0, 100), "int32", WHOLE),
    (UniformIntegers(0, 1000), "int64", WHOLE),
]
FEW: list[tuple[Law, str, Runs]] = [
    *((Normal(0.0, 1.0), name, WHOLE) for name in ("float64", "float32")),
    (Normal(0.0, 1.0), "float8_e5m2", ODD),
    (Uniform(-1.0, 1.0), "float32", WHOLE),
]


def programs(laws: list[tuple[Law, str, Runs]]) -> dict[str, Program]:
    """Return the kernels that the service launches for some laws, by name."""
    found = {}
    for law, dtype, runs in laws:
        prepared = prepare(law, DTYPES[dtype], 0, "weight", torch.device("cpu"))
        drawn = [prepared]
        if (
            isinstance(prepared, Elements)
            and (law, runs) == (Normal(0.0, 1.0), WHOLE)
            and dtype in ("float64", "float32")
        ):
            # What sparse and orthogonal matrices are drawn by; to prepare those would be to draw.
            drawn += [replace(prepared, masked=True), replace(prepared, source=kernels.MATRIX)]
        for elements in drawn:
            for segment in elements.segments(runs, 0):
                found[_name(segment.program)] = segment.program
    found["words"] = next(Words(law_row()).segments(WHOLE, 0)).program
    return found


def _name(program: Program) -> str:
    constants = " ".join(f"{name}={value}" for name, value in program.constants)
    return f"{program.kernel.__name__} LANE={program.lane} {constants}"


class Driver:
    """What Triton asks of a driver before it compiles, for a GPU that is not there."""

    def __init__(self, capability: int):
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        """Return the target of the compilation."""
        return self._target

    def get_current_device(self) -> int:
        """Return the number of a device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return the number of a stream of a device."""
        return device


def report(program: Program) -> dict[str, list[str]]:
    """Compile a program as a launch does; return what must not be in its code, as far as it is, and how it stores."""
    compiled = [
        program.kernel.warmup(INTEGERS[program.itemsize], torch.int64, start, count, grid=(1,), **program.arguments)
        for start, count in ((0, 1), (1, 31), (1 << 20, 16))
    ]
    code = compiled[0].asm
    # float64 divides by fused operations, so nobody asks for those; nvdisasm takes as long as the compiler.
    sass = "" if program.kernel.__name__ == "draw_doubles" else disassembled(code["cubin"])
    return {
        "versions": sorted({kernel.hash for kernel in compiled}),
        "inexact": sorted(set(re.findall(r"\b(?:fma\.\S+|mad\S*\.f\d+|\S+\.approx\S*|\S+\.ftz\S*)", code["ptx"]))),
        "fused": sorted(set(re.findall(r"\bFFMA\S*", sass))),
        "stores": sorted(set(re.findall(r"\bst\.global\S*", code["ptx"]))),
    }


if __name__ == "__main__":
    triton.runtime.driver.set_active(Driver(int(sys.argv[1])))
    print(json.dumps({name: report(program) for name, program in programs(FEW if "few" in sys.argv else LAWS).items()}))
