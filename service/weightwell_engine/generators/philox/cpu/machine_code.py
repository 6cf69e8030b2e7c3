"""Machine code on disk: a cache of compiled kernels for later processes.

Numba's own cache compares the source file of a kernel, but not the files that it imports. Several writing processes can
damage its index. Here one file holds one version of one kernel. The name of the file has a digest of everything that
the code depends on: the source files of this package and of the specification, the versions of Python, numba and
llvmlite, the types of the arguments, and the processor. New files are renamed into place, so processes can share a
folder.

Code of ``precompile`` is next to the source, in ``__pycache__``, and is read first. It is for a generic processor, so
every processor with its features can use it. New code is written to ``NUMBA_CACHE_DIR`` if it is set, else to the
user's cache, else next to the source.
"""

import os
import pickle
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba.core import config
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

_PACKAGES = "weightwell_engine.generators.philox.cpu", "weightwell_engine.generators.philox.specification"
NEXT_TO_SOURCE = Path(__file__).parent / "__pycache__"
"""The folder of ``precompile``."""

_AVX2 = "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse4.2,+xsave"
LEVELS = {"x86-64-v4": f"{_AVX2},+avx512bw,+avx512cd,+avx512dq,+avx512f,+avx512vl", "x86-64-v3": _AVX2}
"""Generic processors of the x86-64 psABI, the newest first, with LLVM's names of their features beyond x86-64-v2."""


class Processor(NamedTuple):
    """The processor that LLVM compiles for."""

    system: str
    name: str
    features: str

    def can_run(self, level: str) -> bool:
        """Whether code for a generic processor runs on this one."""
        return self.system.startswith("x86_64") and set(LEVELS[level].split(",")) <= set(self.features.split(","))


PROCESSOR = Processor(*cpu_target.target_context.codegen().magic_tuple())
"""This machine's, or that of NUMBA_CPU_NAME and NUMBA_CPU_FEATURES."""


class MachineCode:
    """The versions of one kernel on disk, with the interface of a Numba cache."""

    def __init__(self, kernel: str):
        self._kernel = kernel

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return the version for a signature, or None if there is none or it is damaged."""
        rtsys.initialize(context)  # only the functions that the machine code calls; Numba needs the others to compile
        levels = (Processor(PROCESSOR.system, *level) for level in LEVELS.items() if PROCESSOR.can_run(level[0]))
        for processor in (PROCESSOR, *levels):
            for folder in _folders():
                with suppress(OSError):
                    digest, content = _split((folder / self._file(signature, processor)).read_bytes())
                    if digest == sha256(content).digest():
                        return CompileResult._rebuild(context, *pickle.loads(content))  # noqa: S301 - written below
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Write the version for a signature to the first writable folder, if any."""
        content = dumps(compiled._reduce())
        for folder in _writable_folders():
            with suppress(OSError):
                _write(folder / self._file(signature, PROCESSOR), sha256(content).digest() + content)
                for old in folder.glob(f"{self._kernel}.*"):
                    if old.name.split(".")[1] != _sources():
                        old.unlink(missing_ok=True)
                return

    def _file(self, signature: Any, processor: Processor) -> str:
        versions = sys.implementation.cache_tag, numba.__version__, llvmlite.__version__
        version = sha256(repr((versions, str(signature), *processor)).encode()).hexdigest()
        return f"{self._kernel}.{_sources()}.{version[:24]}.kernel"


def _split(stored: bytes) -> tuple[bytes, bytes]:
    return stored[:32], stored[32:]


@cache
def _sources() -> str:
    """Return a digest of all source files of the kernels."""
    digest = sha256()
    for file in _source_files():
        digest.update(file.name.encode() + b"\0" + sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _source_files() -> list[Path]:
    folders = (Path(str(files(package))) for package in _PACKAGES)
    return [file for folder in folders for file in sorted(folder.glob("*.py"))]


def _folders() -> Iterator[Path]:
    """Yield the folders that may hold machine code."""
    yield NEXT_TO_SOURCE
    yield from _writable_folders()


def _writable_folders() -> Iterator[Path]:
    """Yield the folders for new machine code. A folder for several installations has a subfolder for each source."""
    own = f"weightwell_{sha256(str(Path(__file__).parent).encode()).hexdigest()[:16]}"
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR) / own
        return
    with suppress(RuntimeError):  # there may be no home
        yield _user_cache() / "weightwell" / own
    yield NEXT_TO_SOURCE


def _user_cache() -> Path:
    """Return the folder of the user's caches; raise ``RuntimeError`` if the user has no home."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return Path(folder) if Path(folder).is_absolute() else Path.home() / ".cache"


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)  # the image is built by another user than the one that runs it
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
