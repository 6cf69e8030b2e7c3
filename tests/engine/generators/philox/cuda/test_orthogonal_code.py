"""The machine code of orthogonal matrices for a GPU, compiled without one."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.engine.generators.philox.cuda import orthogonal_code
from weightwell_engine.generators.philox.cuda import orthogonal, orthogonal_kernels

CAPABILITIES = "80", "90"  # A100, H100
PRODUCTS = [f"{name} fp32" for name in orthogonal_code.PRODUCTS]

Codes = dict[str, dict[str, dict[str, str]]]


@pytest.fixture(scope="module")
def codes(pytestconfig: pytest.Config, *, exhaustive: bool) -> Codes:
    """The PTX and the machine code of the kernels: of all for an H100, of some for an A100."""
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("triton")  # kept, so the next run compiles only the kernels that have changed
    processes = {capability: _start(capability, cache, exhaustive or capability == "90") for capability in CAPABILITIES}
    return {capability: json.loads(process.communicate()[0]) for capability, process in processes.items()}


def _start(capability: str, cache: Path, all_: bool) -> "subprocess.Popen[str]":
    program = [
        sys.executable,
        str(Path(__file__).with_name("orthogonal_code.py")),
        capability,
        "all" if all_ else "few",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": str(cache)}
    return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)


def _instructions(code: dict[str, str]) -> Counter[str]:
    return Counter(re.findall(r"^\s*(?:@%\w+ )?([a-z]\w*(?:\.\w+)+)\s", code["ptx"], re.MULTILINE))


def test_every_kernel_that_is_launched_is_compiled(codes: Codes) -> None:
    kernel = type(orthogonal_kernels.add_up)
    launched = {name for name, value in vars(orthogonal).items() if isinstance(value, kernel)}
    assert {name.split()[0] for name in codes["90"]} == launched


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_operation_is_rounded_to_nearest_and_none_is_fused(capability: str, codes: Codes) -> None:
    used = {instruction for code in codes[capability].values() for instruction in _instructions(code)}
    arithmetic = r"(?:add|sub|mul|div|sqrt|rcp|rsqrt|fma|mad|ex2|lg2)\S*\.f\d+\S*"
    assert {instruction for instruction in used if re.match(arithmetic, instruction)} == {
        *("add.rn.f32", "sub.rn.f32", "mul.rn.f32"),
        *("add.rn.f64", "sub.rn.f64", "mul.rn.f64", "div.rn.f64", "sqrt.rn.f64"),
    }


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_machine_code_fuses_operations_only_inside_divisions_and_square_roots(capability: str, codes: Codes) -> None:
    fused = {name.split()[0] for name, code in codes[capability].items() if re.search(r"\b[FD]FMA\b", code["sass"])}
    assert fused == {"complete", "invert"}
    assert all(re.search(r"\b[FD]MUL\b", codes[capability][kernel]["sass"]) for kernel in PRODUCTS)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kernel", PRODUCTS)
def test_three_vectors_are_loaded_for_sixty_four_operations(kernel: str, capability: str, codes: Codes) -> None:
    # Four terms: the loop is unrolled so far. What subtracts from Q then loads it, 8 vectors to a thread.
    used = _instructions(codes[capability][kernel])
    assert used["mul.rn.f32"] == used["add.rn.f32"] == 4 * 32
    assert used["ld.global.v4.b32"] == 4 * 3 + (8 if "subtract" in kernel else 0)
    assert used["ld.global.b32"] == 0


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kernel", PRODUCTS)
def test_no_thread_waits_for_another_in_a_product(kernel: str, capability: str, codes: Codes) -> None:
    assert not {name for name in _instructions(codes[capability][kernel]) if "shared" in name or "bar." in name}
