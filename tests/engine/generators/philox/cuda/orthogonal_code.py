"""Compile the kernels of orthogonal matrices for a GPU (none is needed) and print their code as JSON.

``python orthogonal_code.py 90`` is for compute capability 9.0, and ``python orthogonal_code.py 80 few`` for some of
the kernels. It is a program, and not a test, because Triton cannot compile in the process where it interprets.
"""

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.engine.generators.philox.cuda.disassembly import disassembled
from weightwell_engine.generators.philox.cuda import orthogonal_kernels
from weightwell_engine.generators.philox.cuda.language import OPTIONS

SIGNATURES = {
    "square_chunks": ("F", "i32", "*fp64"),
    "complete": ("F", "F", "i32", "F", "*fp64", "*fp64"),
    "gram_chunks": ("F", "i32", "*fp64"),
    "multiply_chunks": ("F", "F", "i32", "F"),
    "add_up": ("F", "i32", "F"),
    "invert": ("*fp64", "*fp64", "F"),
    "multiply_tiles": ("F", "F", "F"),
    "subtract_product": ("F", "i32", "F", "F", "i32"),
}
PRODUCTS = "multiply_chunks", "multiply_tiles", "subtract_product"


def compiled(name: str, dtype: str, capability: int) -> dict[str, str]:
    """Compile a kernel as a launch does: every number is a multiple of 16, and so is every address."""
    kernel = getattr(orthogonal_kernels, name)
    types = [f"*{dtype}" if kind == "F" else kind for kind in SIGNATURES[name]]
    aligned: dict[Any, Any] = {(argument,): [["tt.divisibility", 16]] for argument in range(len(types))}
    source = ASTSource(kernel, dict(zip(kernel.arg_names, types, strict=True)), attrs=aligned)
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(OPTIONS)).asm
    return {"ptx": code["ptx"], "sass": disassembled(code["cubin"])}


if __name__ == "__main__":
    names = [(name, dtype) for name in SIGNATURES for dtype in ("fp32", "fp64")]
    if "few" in sys.argv:
        names = [(name, "fp32") for name in ("complete", "invert", *PRODUCTS)]
    print(json.dumps({f"{name} {dtype}": compiled(name, dtype, int(sys.argv[1])) for name, dtype in names}))
