import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.engine import Engine
from weightwell_engine.generators import DrawingStopped
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing import read_document
from weightwell_engine.spec import GENERATORS
from weightwell_engine.virtual_file import VirtualFile

ENGINE = Engine(Cpu(), threads=1)
MANIFEST = {
    "tensors": {
        **{
            dtype: {"shape": [37], "scheme": "zeros" if dtype == "int64" else "normal", "dtype": dtype}
            for dtype in DTYPES
        },
        "mask": {"shape": [30, 20], "scheme": "sparse", "sparsity": 0.3},
        "matrix": {"shape": [16, 24], "scheme": "orthogonal", "slice": "3:9,5:20"},
        "crop": {"shape": [9, 3, 3], "scheme": "uniform", "slice": "1:8,0:2,0:2", "dtype": "bfloat16"},
        "empty": {"shape": [0, 3], "scheme": "normal"},
    }
}


def opened(generator: str = "philox") -> VirtualFile:
    tensors = dict(MANIFEST["tensors"])
    if generator == "torch":  # which draws neither of these
        tensors = {name: fields for name, fields in tensors.items() if "float8" not in name}
    document = json.dumps({"tensors": tensors, "generator": generator})
    return ENGINE.open(ENGINE.plan(read_document(document.encode())))


FILE = opened()
WHOLE = bytes(FILE.read(0, FILE.nbytes))


@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)), st.integers(0, 15))
def test_any_range_read_to_any_address_is_that_part_of_the_file(one: int, other: int, offset: int) -> None:
    start, stop = sorted((one, other))
    memory = bytearray(offset + stop - start)
    assert FILE.read_into(start, memoryview(memory)[offset:]) == stop - start
    assert memory[offset:] == WHOLE[start:stop]


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_files_of_torch_are_read_in_any_order(one: int, other: int) -> None:
    file = opened("torch")
    start, stop = sorted((one, other))
    assert bytes(file.read(start, stop)) == bytes(file.read(0, file.nbytes))[start:stop]


def test_a_read_beyond_the_end_writes_what_is_left_and_says_how_much() -> None:
    memory = bytearray(b"x" * 100)
    assert FILE.read_into(FILE.nbytes - 10, memory) == 10
    assert memory == WHOLE[-10:] + b"x" * 90
    assert FILE.read_into(FILE.nbytes + 10, memory) == 0


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_closed_file_draws_no_more(generator: str) -> None:
    file = opened(generator)
    file.close()
    with pytest.raises(DrawingStopped):
        file.read(0, file.nbytes)


def test_memory_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(TypeError):
        FILE.read_into(0, memoryview(bytes(10)))


def _imported(script: str) -> set[str]:
    """Return which of the large packages a program imports."""
    told = f"{script}\nimport sys\nprint(*{{'torch', 'numba', 'triton', 'fastapi', 'httpx'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


PLANNED = """
from weightwell_engine.engine import Engine
from weightwell_engine.generators import DrawingStopped
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing import read_document
import weightwell_engine.catalogue, weightwell_engine.quadrature, weightwell_engine.presets
import weightwell_engine.generators.philox.specification.reference
spec = read_document(b'{"shape": [8, 8], "scheme": "kaiming_normal"}')
"""


def test_the_specification_and_the_reading_of_specs_take_neither_torch_nor_numba() -> None:
    assert _imported(PLANNED) == set()


def test_drawing_with_philox_takes_no_torch() -> None:
    assert _imported(f"{PLANNED}\nengine = Engine(Cpu(), threads=1)\nengine.open(engine.plan(spec)).read(0, 600)") == {
        "numba"
    }


def test_without_torch_the_engine_says_so() -> None:
    script = f"""
import sys
sys.modules["torch"] = None
import importlib.util
importlib.util.find_spec = lambda name, find=importlib.util.find_spec: None if name == "torch" else find(name)
{PLANNED}
from weightwell_engine.exceptions import UnsupportedSpec
engine = Engine(Cpu(), threads=1)
assert [generator.name for generator in engine.generators()] == ["philox"]
try:
    engine.generator("torch")
except UnsupportedSpec as error:
    assert "torch, which is not installed" in str(error), error
else:
    raise SystemExit("torch was found")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
