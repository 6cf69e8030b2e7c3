"""The machine code for a GPU, compiled without one, has no fused, approximate or flushing operations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CAPABILITIES = "80", "90"  # A100, H100

Report = dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
def reports(pytestconfig: pytest.Config, *, exhaustive: bool) -> dict[str, Report]:
    """What ``machine_code`` says of the kernels: of all for an H100, of some for an A100."""
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("triton")  # kept, so the next run compiles only the kernels that have changed
    processes = {capability: _start(capability, cache, exhaustive or capability == "90") for capability in CAPABILITIES}
    answers = {capability: process.communicate()[0] for capability, process in processes.items()}
    return {capability: json.loads(answer) for capability, answer in answers.items()}


def _start(capability: str, cache: Path, all_: bool) -> "subprocess.Popen[str]":
    program = [sys.executable, str(Path(__file__).with_name("machine_code.py")), capability, "all" if all_ else "few"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": str(cache)}
    return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_kernel_has_an_inexact_operation(capability: str, reports: dict[str, Report]) -> None:
    assert {kernel: found["inexact"] for kernel, found in reports[capability].items() if found["inexact"]} == {}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_machine_code_of_float32_fuses_a_product_and_a_sum(capability: str, reports: dict[str, Report]) -> None:
    # A division in float64 is a sequence of instructions, fused ones among them, whose result is that of IEEE 754.
    singles = {kernel: found for kernel, found in reports[capability].items() if "draw_doubles" not in kernel}
    assert len(singles) > (10 if capability == "90" else 4)
    assert {kernel: found["fused"] for kernel, found in singles.items() if found["fused"]} == {}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_lane_writes_its_four_elements_at_once(capability: str, reports: dict[str, Report]) -> None:
    wide = {4: "st.global.v4.b32", 2: "st.global.v2.b32", 1: "st.global.b32"}
    for kernel, found in reports[capability].items():
        for itemsize, store in wide.items():
            if kernel.startswith("draw_singles LANE=4") and f"ITEMSIZE={itemsize} " in kernel:
                assert found["stores"] == [store]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_kernel_is_not_compiled_anew_for_another_place_in_the_table(
    capability: str, reports: dict[str, Report]
) -> None:
    assert {
        kernel: found["versions"] for kernel, found in reports[capability].items() if len(found["versions"]) > 1
    } == {}
