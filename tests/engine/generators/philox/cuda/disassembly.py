"""The machine code of kernels for a GPU as text, for the programs that compile them without one."""

import os
import subprocess
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def disassembled(binary: bytes) -> str:
    """Return the instructions of a cubin. Each is kept in TRITON_CACHE_DIR: nvdisasm takes half a second to start."""
    digest = sha256(triton.__version__.encode() + binary).hexdigest()
    kept = Path(os.environ["TRITON_CACHE_DIR"]) / f"{digest}.sass"
    if not kept.exists():
        with TemporaryDirectory(dir=kept.parent) as folder:
            code, text = Path(folder) / "kernel.cubin", Path(folder) / "kernel.sass"
            code.write_bytes(binary)
            command = [str(_TOOLS / "nvdisasm"), "-c", str(code)]
            text.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            text.replace(kept)
    return kept.read_text()
