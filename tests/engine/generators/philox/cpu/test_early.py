"""The reference draws small parts while no kernel is loaded."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.generators.philox.cpu import checked, early
from weightwell_engine.generators.philox.cpu.early import Allowance, Prepared
from weightwell_engine.laws import Constant, Law, Normal, Orthogonal, OrthogonalStack, Sparse, TruncatedNormal, Uniform
from weightwell_engine.regions import Runs

LAWS: list[Law] = [
    Uniform(-0.1, 0.3),
    Normal(0.0, 0.02),
    Normal(0.0, 1e-40),
    TruncatedNormal(0.0, 1.0, 3.0, 4.0),
    Sparse(30, 20, 7, 0.01),
    Orthogonal(30, 20, 1.5),
    OrthogonalStack(30, 20, 2.0, 1, 0, 2, (2, 30, 20), (600, 20, 1)),
]


class Loads:
    """Loads the kernels of a law, and counts how often."""

    def __init__(self, law: Law, dtype: str):
        self.count = 0
        self._law, self._dtype = law, DTYPES[dtype]

    def __call__(self) -> Prepared:
        self.count += 1
        return checked.prepare(self._law, self._dtype, 5, "weight")


@pytest.fixture
def allowance(monkeypatch: pytest.MonkeyPatch) -> Allowance:
    """A process in which nothing has been drawn."""
    fresh = Allowance()
    monkeypatch.setattr(early, "allowance", fresh)
    return fresh


def prepared(law: Law, dtype: str, loads: Loads) -> Prepared:
    return early.prepare(law, DTYPES[dtype], 5, "weight", loads)


def drawn(prepared: Prepared, dtype: str, runs: Runs) -> bytes:
    out = bytearray(runs.size * DTYPES[dtype].itemsize)
    prepared.fill(runs, memoryview(out))
    return bytes(out)


@pytest.mark.usefixtures("allowance")
@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_small_parts_have_the_bits_of_the_kernels_before_one_is_loaded(law: Law, dtype: str) -> None:
    loads, runs = Loads(law, dtype), Runs(37, 300, 0, 1)
    first = drawn(prepared(law, dtype, loads), dtype, runs)
    assert loads.count == 0
    assert first == drawn(loads(), dtype, runs)


def test_a_large_part_loads_the_kernels_at_once(allowance: Allowance) -> None:
    loads = Loads(Normal(0.0, 1.0), "float32")
    drawn(prepared(Normal(0.0, 1.0), "float32", loads), "float32", Runs(0, 1 << 16, 0, 1))
    assert loads.count == 1
    assert not Allowance().is_over
    del allowance


@pytest.mark.usefixtures("allowance")
@pytest.mark.parametrize("law", [Orthogonal(80, 80, 1.0), Sparse(300, 300, 9, 0.1)], ids=str)
def test_a_part_of_a_matrix_that_is_large_loads_the_kernels(law: Law) -> None:
    loads = Loads(law, "float32")
    drawn(prepared(law, "float32", loads), "float32", Runs(0, 300, 0, 1))
    assert loads.count == 1


def test_all_small_parts_together_take_about_as_long_as_a_load(allowance: Allowance) -> None:
    loads = Loads(Normal(0.0, 1.0), "float32")
    law, runs = prepared(Normal(0.0, 1.0), "float32", loads), Runs(0, 1 << 15, 0, 1)
    for _ in range(30):
        drawn(law, "float32", runs)
    assert loads.count == 0
    for _ in range(3):
        drawn(law, "float32", runs)
    assert loads.count == 1
    assert not allowance.takes(Normal(0.0, 1.0), runs)


def test_a_loaded_kernel_draws_everything(allowance: Allowance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "_sound", set())
    checked.prepare(Normal(0.0, 1.0), DTYPES["float32"], 0, "weight")
    assert allowance.is_over
    loads = Loads(Uniform(0.0, 1.0), "float32")
    drawn(prepared(Uniform(0.0, 1.0), "float32", loads), "float32", Runs(0, 1, 0, 1))
    assert loads.count == 1


def test_constants_need_no_kernel(allowance: Allowance) -> None:
    allowance.end()
    loads = Loads(Constant(1.5), "float32")
    assert (
        drawn(prepared(Constant(1.5), "float32", loads), "float32", Runs(0, 2, 0, 1))
        == np.full(2, 1.5, np.float32).tobytes()
    )
    assert loads.count == 0


@pytest.fixture
def flushing() -> Iterator[None]:
    """Flush subnormal numbers to zero in this thread, as libraries built with -ffast-math do."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers to zero")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("allowance", "flushing")
def test_a_thread_that_flushes_subnormal_numbers_draws_with_the_kernels() -> None:
    loads = Loads(Normal(0.0, 1e-40), "float32")
    bits = drawn(prepared(Normal(0.0, 1e-40), "float32", loads), "float32", Runs(0, 99, 0, 1))
    assert loads.count == 1
    assert any(bits)


@pytest.mark.usefixtures("allowance")
def test_settings_of_numpy_for_errors_are_not_followed() -> None:
    loads = Loads(Normal(0.0, 1e-40), "bfloat16")
    with np.errstate(all="raise"):
        drawn(prepared(Normal(0.0, 1e-40), "bfloat16", loads), "bfloat16", Runs(0, 99, 0, 1))
    assert loads.count == 0
