"""The bits do not depend on the machine, its cache of machine code, or its compiler options."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import pytest
import torch
from numba import float64
from numba.core import config

from weightwell_engine.dtypes import DTYPES, FLOATS, REALS
from weightwell_engine.exceptions import GeneratorUnsound
from weightwell_engine.generators.philox.cpu import checked, machine_code
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.cpu.compiling import entry
from weightwell_engine.generators.philox.cpu.machine_code import LEVELS, PROCESSOR, Processor
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.formats import UNSIGNED
from weightwell_engine.generators.philox.specification.known_answers import KNOWN_ANSWERS, NAME, SEED
from weightwell_engine.laws import Law, Normal, Orthogonal, TruncatedNormal, Uniform
from weightwell_engine.regions import Runs

# Compiles the kernels of some dtypes for the processor that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES describe.
# Prints what is in their machine code and, if this machine can run it, the digests of their known answers.
_REPORT = """
import json, re, sys
from numba import typeof
from weightwell_engine.dtypes import FLOATS
from weightwell_engine.generators.philox.cpu import checked, precompile
from weightwell_engine.generators.philox.specification.known_answers import KNOWN_ANSWERS
code, dtypes = "", sys.argv[1].split(",")
for kernel, arguments in precompile.versions([FLOATS[name] for name in dtypes]):
    if "float64" not in dtypes and any(getattr(each, "dtype", None) == "float64" for each in arguments):
        continue
    signature = tuple(map(typeof, arguments))
    kernel.compile(signature)
    code += kernel.inspect_asm(signature)
answers = [answer for answer in KNOWN_ANSWERS if answer.dtype in dtypes]
print(json.dumps({
    "digests": [answer.digest_by(checked.draw) for answer in answers] if "run" in sys.argv else None,
    "fused": sorted(set(re.findall(r"\\b(?:v?fn?m(?:add|sub)\\w*|fmla|fmls)\\b", code))),
    "vectors": [name for name in ("xmm", "ymm", "zmm") if len(re.findall(name, code)) > 200],
}))
"""

_PROCESSORS = {"generic": "", **LEVELS}
_DTYPES = {processor: ["float32"] for processor in _PROCESSORS} | {"x86-64-v3": ["float32", "float64"]}
_ALL_DTYPES = {processor: ["float32", "float64"] for processor in _PROCESSORS}

Report = dict[str, list[str]]


def _can_run(processor: str) -> bool:
    return processor == "generic" or PROCESSOR.can_run(processor)


@pytest.fixture(scope="module")
def dtypes(*, exhaustive: bool) -> dict[str, list[str]]:
    """The dtypes whose kernels are compiled for each processor."""
    return _ALL_DTYPES if exhaustive else _DTYPES


@pytest.fixture(scope="module")
def reports(
    dtypes: dict[str, list[str]], pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Report]:
    """The reports of every processor. They take half a minute, so pytest keeps them until a source changes."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("these are processors of the x86-64 family")
    assert pytestconfig.cache is not None
    kept: dict[str, Any] = pytestconfig.cache.get("weightwell/machine_code", {})
    if kept.get("version") != _version(dtypes):
        kept = {"version": _version(dtypes), "reports": _compiled(dtypes, tmp_path_factory)}
        pytestconfig.cache.set("weightwell/machine_code", kept)
    found: dict[str, Report] = kept["reports"]
    return found


def _version(dtypes: dict[str, list[str]]) -> str:
    """Return a digest of all that the reports depend on."""
    digest = sha256(
        repr((_REPORT, _PROCESSORS, dtypes, PROCESSOR, sys.version, numba.__version__, llvmlite.__version__)).encode()
    )
    for file in sorted(Path(str(files("weightwell_engine"))).rglob("*.py")):
        digest.update(sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _compiled(dtypes: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    caches = {processor: tmp_path_factory.mktemp("cache") for processor in _PROCESSORS}
    processes = {processor: _start(processor, dtypes[processor], caches[processor]) for processor in _PROCESSORS}
    answers = {processor: process.communicate()[0] for processor, process in processes.items()}
    assert all(list(cache.rglob("*.kernel")) for cache in caches.values()), "the cache is not where it is wanted"
    return {processor: json.loads(answer) for processor, answer in answers.items()}


def _start(processor: str, dtypes: list[str], cache: Path) -> "subprocess.Popen[str]":
    target = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": _PROCESSORS[processor], "NUMBA_CACHE_DIR": str(cache)}
    environment = os.environ | target | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _REPORT, ",".join(dtypes), *(["run"] if _can_run(processor) else [])]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("processor", _PROCESSORS)
def test_every_processor_draws_the_known_answers(
    processor: str, dtypes: dict[str, list[str]], reports: dict[str, Report]
) -> None:
    if not _can_run(processor):
        pytest.skip(f"this machine cannot run code for {processor}")
    expected = [answer.digest for answer in KNOWN_ANSWERS if answer.dtype in dtypes[processor]]
    assert reports[processor]["digests"] == expected


@pytest.mark.parametrize("processor", _PROCESSORS)
def test_no_machine_code_fuses_a_product_and_a_sum(processor: str, reports: dict[str, Report]) -> None:
    assert reports[processor]["fused"] == []


def test_the_vectors_are_as_wide_as_the_processor_has(reports: dict[str, Report]) -> None:
    assert reports["generic"]["vectors"] == ["xmm"]
    assert reports["x86-64-v3"]["vectors"][-1] == "ymm"
    assert reports["x86-64-v4"]["vectors"][-1] == "zmm"


@contextmanager
def _flushing() -> Iterator[None]:
    """Flush subnormal numbers to zero in this thread, as libraries built with -ffast-math do."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers to zero")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


_LAWS: list[Law] = [
    Uniform(-1e-4, 3e-4),
    Normal(0.0, 0.02),
    Normal(0.0, 1e-17),
    Normal(1e-42, 1e-38),
    Normal(0.0, 1e-300),
    Uniform(0.0, 1e-44),
    TruncatedNormal(0.0, 1.0, -2.0, 2.0),
    TruncatedNormal(0.0, 1.0, 3.0, 4.0),
    TruncatedNormal(0.0, 1e-40, 2e-40, 3e-40),
    Orthogonal(100, 50, 1.5),
    Orthogonal(50, 100, -1e-40),
]


def _bits(law: Law, name: str) -> bytes:
    runs, dtype = Runs(0, 5000, 0, 1), DTYPES[name]
    out = bytearray(runs.size * dtype.itemsize)
    prepare(law, dtype, 0, "weight").fill(runs, memoryview(out))
    return bytes(out)


@pytest.mark.parametrize("law", _LAWS, ids=str)
@pytest.mark.parametrize("name", FLOATS)
def test_flushing_subnormal_numbers_to_zero_changes_nothing(law: Law, name: str) -> None:
    expected = _bits(law, name)
    with _flushing():
        assert (np.array([1e-40], np.float32) * np.float32(1)).tolist() == [0]
        assert _bits(law, name) == expected


def test_the_known_answers_are_those_of_the_reference() -> None:
    def draw(law: Law, dtype: str, runs: Runs) -> bytearray:
        out = bytearray(runs.size * DTYPES[dtype].itemsize)
        reference.Prepared(law, DTYPES[dtype], SEED, NAME).fill(runs, memoryview(out))
        return out

    for answer in KNOWN_ANSWERS:
        assert answer.digest_by(draw) == answer.digest


def test_the_known_answers_go_through_every_dtype_of_every_size() -> None:
    drawn = {answer.dtype for answer in KNOWN_ANSWERS}
    assert {DTYPES[name].itemsize for name in drawn} == set(UNSIGNED)
    assert drawn >= set(REALS)


@pytest.mark.parametrize("answer", KNOWN_ANSWERS, ids=str)
def test_every_kernel_that_draws_a_law_has_a_known_answer_of_its_own(answer: Any) -> None:
    kernels = checked._kernels(answer.law, DTYPES[answer.dtype])
    last = {checked._kernels(other.law, DTYPES[other.dtype])[-1:] for other in KNOWN_ANSWERS}
    assert all((kernel,) in last for kernel in kernels)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which kernels have given their known answers."""
    monkeypatch.setattr(checked, "_sound", set())


@pytest.mark.usefixtures("unchecked")
def test_a_generator_with_wrong_answers_refuses_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = KNOWN_ANSWERS[0]
    dtype = DTYPES[answer.dtype]
    with monkeypatch.context() as patch:
        patch.setattr(checked, "KNOWN_ANSWERS", [answer._replace(digest=answer.digest[::-1])])
        with pytest.raises(GeneratorUnsound, match="The generator is disabled"):
            prepare(answer.law, dtype, 0, "weight")
        assert not checked.is_ready(answer.law, dtype)
    prepare(answer.law, dtype, 0, "weight")
    assert checked.is_ready(answer.law, dtype)


@pytest.mark.usefixtures("unchecked")
def test_a_kernel_is_checked_when_it_is_first_needed_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[str] = []
    monkeypatch.setattr(checked, "_check", checks.append)
    checked.warm_up()
    assert checks == ["singles float32", "singles bfloat16"]
    prepare(Orthogonal(9, 7, 1.0), DTYPES["float16"], 0, "weight")
    prepare(Orthogonal(9, 7, 1.0), DTYPES["float16"], 1, "weight")
    prepare(Normal(0.0, 1.0), DTYPES["float16"], 0, "weight")
    assert checks[2:] == ["orthogonal float16", "singles float16"]


# Machine code on disk ------------------------------------------------------------------------------------------------


def _twice(x: float) -> float:
    return 2 * x


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of compiled kernels, an empty one."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return next(machine_code._writable_folders())


def _compiles(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the first call of a kernel compiles it, and does not find its machine code on disk."""
    compiled: list[object] = []
    compile_ = kernel._compiler.compile

    def counted(*what: Any) -> Any:
        compiled.append(what)
        return compile_(*what)

    with monkeypatch.context() as patch:
        patch.setattr(kernel._compiler, "compile", counted)
        assert kernel(21.0) == 42.0
    return bool(compiled)


def test_a_later_process_loads_the_machine_code_of_an_earlier_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _compiles(entry(_twice), monkeypatch)
    (file,) = folder.iterdir()
    assert (file.suffix, file.stat().st_mode & 0o777) == (".kernel", 0o644)  # readable for a service of another user
    assert not _compiles(entry(_twice), monkeypatch)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda _: b"", lambda content: content[::-1]])
def test_a_damaged_file_is_compiled_again(folder: Path, damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entry(_twice)(21.0)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert _compiles(entry(_twice), monkeypatch)
    assert len(file.read_bytes()) == len(whole)
    assert not _compiles(entry(_twice), monkeypatch)


def test_a_change_of_any_source_file_is_another_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry(_twice)(21.0)
    (old,) = folder.iterdir()
    monkeypatch.setattr(machine_code, "_sources", lambda: "0123456789abcdef")
    assert _compiles(entry(_twice), monkeypatch)
    (new,) = folder.iterdir()  # the old one is gone
    assert new.name != old.name


def test_the_digest_of_the_sources_covers_both_packages() -> None:
    listed = machine_code._source_files()
    names = {f"{file.parent.name}/{file.name}" for file in listed}
    assert {"cpu/simd.py", "cpu/words.py", "specification/quantile.py", "specification/keys.py"} <= names


def test_another_processor_or_other_types_are_another_file() -> None:
    code = machine_code.MachineCode("kernel")
    processors = [PROCESSOR, PROCESSOR._replace(name="other"), PROCESSOR._replace(features="+sse2")]
    assert len({code._file(types, one) for types in ((float64,), ()) for one in processors}) == 6


def test_without_a_folder_that_can_be_written_kernels_work_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "file"))
    assert _compiles(entry(_twice), monkeypatch)
    assert _compiles(entry(_twice), monkeypatch)


# Compiles a function when it reads a line, so that several processes can begin at once.
_AT_ONCE = """
from weightwell_engine.generators.philox.cpu.compiling import entry

def twice(x):
    return 2 * x

print("ready", flush=True)
input()
print(entry(twice)(21.0), entry(twice)(21.0))
"""


@pytest.mark.slow
def test_processes_that_start_at_once_with_an_empty_cache_share_one_file(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", _AT_ONCE]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: list[Any] = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in processes] == ["42.0 42.0\n"] * 2
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())  # no temporary file is left
    assert file.suffix == ".kernel"


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_new_code_is_in_the_cache_of_the_user(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    usual = {"linux": ".cache", "darwin": "Library/Caches", "win32": "AppData/Local"}[platform]
    first, last = machine_code._writable_folders()
    assert first.parent == tmp_path / usual / "weightwell"
    assert last == machine_code.NEXT_TO_SOURCE
    assert next(machine_code._folders()) == machine_code.NEXT_TO_SOURCE


def test_the_cache_of_the_user_is_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert next(machine_code._writable_folders()).parent == tmp_path / "weightwell"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification of XDG
    assert next(machine_code._writable_folders()).parent == Path.home() / ".cache" / "weightwell"


def test_code_for_a_generic_processor_runs_where_its_features_are() -> None:
    v3, v4 = (set(LEVELS[level].split(",")) for level in ("x86-64-v3", "x86-64-v4"))
    machine = Processor("x86_64-unknown-linux-gnu", "znver3", ",".join(sorted(v3 | {"+sha"})))
    assert v3 < v4
    assert machine.can_run("x86-64-v3")
    assert not machine.can_run("x86-64-v4")
    assert machine._replace(features=",".join(v4)).can_run("x86-64-v4")
    assert not machine._replace(features=",".join(sorted(v3 - {"+fma"} | {"-fma"}))).can_run("x86-64-v3")
    assert not machine._replace(system="aarch64-apple-darwin").can_run("x86-64-v3")


def test_code_next_to_the_source_for_a_generic_processor_is_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not PROCESSOR.can_run("x86-64-v3"):
        pytest.skip("this machine cannot run code for x86-64-v3")
    level = Processor(PROCESSOR.system, "x86-64-v3", LEVELS["x86-64-v3"])
    entry(_twice)(21.0)
    (native,) = folder.iterdir()
    image = tmp_path / "image"
    image.mkdir()
    native.rename(image / machine_code.MachineCode("_twice")._file((float64,), level))
    assert _compiles(entry(_twice), monkeypatch)
    next(folder.iterdir()).unlink()
    monkeypatch.setattr(machine_code, "NEXT_TO_SOURCE", image)
    monkeypatch.setattr(machine_code, "_writable_folders", lambda: iter([folder]))
    assert not _compiles(entry(_twice), monkeypatch)


def test_numba_has_the_private_parts_that_the_kernels_use(folder: Path) -> None:
    """Names every private part of Numba that the engine uses. A new version of Numba begins here."""
    from llvmlite import ir
    from numba.core import cgutils
    from numba.core.compiler import CompileResult
    from numba.core.registry import cpu_target
    from numba.core.runtime import rtsys
    from numba.core.serialize import dumps
    from numba.core.types.containers import BaseTuple

    del folder
    system, name, features = cpu_target.target_context.codegen().magic_tuple()  # machine_code.PROCESSOR
    assert all(isinstance(part, str) for part in (system, name, features))
    assert callable(rtsys.initialize)
    kernel: Any = entry(_twice)
    assert type(kernel._cache).__name__ == "MachineCode"  # compiling.entry sets it, the dispatcher asks it
    kernel(21.0)
    (result,) = kernel.overloads.values()
    assert isinstance(result, CompileResult)
    assert isinstance(dumps(result._reduce()), bytes)
    assert callable(CompileResult._rebuild)
    assert callable(cgutils.unpack_tuple)  # simd.operation
    assert isinstance(BaseTuple, type)
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), ()), "f")
    assert isinstance(function.attributes, set)  # compiling.widest_vectors adds what llvmlite does not know
