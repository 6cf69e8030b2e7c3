"""What the machine may do, and still the same bits come out."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.exceptions import GeneratorUnsound
from weightwell_engine.generators.philox.cpu import laws as cpu
from weightwell_engine.generators.philox.cpu import selfcheck
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.specification import reference
from weightwell_engine.generators.philox.specification.formats import UNSIGNED
from weightwell_engine.laws import Law, Normal, Orthogonal, TruncatedNormal, Uniform
from weightwell_engine.regions import Runs

# Compiles the kernels anew for the processor that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES describe, and prints digests of
# what they draw, and what is in their machine code.
_REPORT = """
import json, re
from weightwell_engine.generators.philox.cpu import kernels, orthogonal_kernels, selfcheck
entries = (
    *(kernels._fill_singles, kernels._fill_doubles),
    *(orthogonal_kernels.prepare_block, orthogonal_kernels.multiply_out),
)
digests = [selfcheck.digest(*answer[:3]) for answer in selfcheck.KNOWN_ANSWERS if answer[1] in ("float32", "float64")]
code = "".join(text for entry in entries for text in entry.inspect_asm().values())
print(json.dumps({
    "digests": digests,
    "fused": sorted(set(re.findall(r"\\b(?:v?fn?m(?:add|sub)\\w*|fmla|fmls)\\b", code))),
    "vectors": [name for name in ("xmm", "ymm", "zmm") if len(re.findall(name, code)) > 200],
}))
"""

_PROCESSORS = {
    "the simplest": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "one with fused operations": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi2,+f16c"},
}

Report = dict[str, list[str]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("these are processors of the x86-64 family")
    caches = {processor: tmp_path_factory.mktemp("cache") for processor in _PROCESSORS}
    processes = {processor: _start(processor, caches[processor]) for processor in _PROCESSORS}
    answers = {processor: process.communicate()[0] for processor, process in processes.items()}
    assert all(list(cache.rglob("*.nbc")) for cache in caches.values()), "the cache is not where it is wanted"
    return {processor: json.loads(answer) for processor, answer in answers.items()}


def _start(processor: str, cache: Path) -> "subprocess.Popen[str]":
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": str(cache)}
    environment = os.environ | _PROCESSORS[processor] | settings
    return subprocess.Popen([sys.executable, "-c", _REPORT], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("processor", _PROCESSORS)
def test_every_processor_draws_the_known_answers(processor: str, reports: dict[str, Report]) -> None:
    expected = [digest for _, dtype, _, digest in selfcheck.KNOWN_ANSWERS if dtype in ("float32", "float64")]
    assert reports[processor]["digests"] == expected


@pytest.mark.parametrize("processor", _PROCESSORS)
def test_no_machine_code_fuses_a_product_and_a_sum(processor: str, reports: dict[str, Report]) -> None:
    assert reports[processor]["fused"] == []


def test_the_vectors_are_as_wide_as_the_processor_has(reports: dict[str, Report]) -> None:
    assert reports["the simplest"]["vectors"] == ["xmm"]
    assert "ymm" in reports["one with fused operations"]["vectors"]


@pytest.fixture
def flushing() -> Iterator[None]:
    """Flush subnormal numbers to zero in this thread, as libraries built with -ffast-math do."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers to zero")
    yield
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


_UNFLUSHED = {(law, name): _bits(law, name) for law in _LAWS for name in FLOATS}


@pytest.mark.usefixtures("flushing")
@pytest.mark.parametrize("law", _LAWS, ids=str)
@pytest.mark.parametrize("name", FLOATS)
def test_flushing_subnormal_numbers_to_zero_changes_nothing(law: Law, name: str) -> None:
    assert (np.array([1e-40], np.float32) * np.float32(1)).tolist() == [0]
    assert _bits(law, name) == _UNFLUSHED[law, name]


def test_the_known_answers_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "prepare", lambda *what, remember: reference.Prepared(*what))  # noqa: ARG005
    for law, dtype, runs, expected in selfcheck.KNOWN_ANSWERS:
        assert selfcheck.digest(law, dtype, runs) == expected


def test_the_known_answers_go_through_every_dtype_of_every_size() -> None:
    drawn = {dtype for _, dtype, _, _ in selfcheck.KNOWN_ANSWERS}
    assert {DTYPES[name].itemsize for name in drawn} == set(UNSIGNED)
    assert drawn == set(FLOATS)


def test_a_generator_with_wrong_answers_refuses_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    law, dtype, runs, expected = selfcheck.KNOWN_ANSWERS[0]
    monkeypatch.setattr(selfcheck, "KNOWN_ANSWERS", [(law, dtype, runs, expected[::-1])])
    selfcheck._check.cache_clear()
    with pytest.raises(GeneratorUnsound, match="Nothing will be drawn with it"):
        prepare(law, DTYPES[dtype], 0, "weight")
    monkeypatch.undo()
    prepare(law, DTYPES[dtype], 0, "weight")
