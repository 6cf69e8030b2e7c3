import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import Busy, UnsupportedSpec
from weightwell_engine.generators import DrawingStopped
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import Piece
from weightwell_engine.spec import GENERATORS
from weightwell_engine.virtual_file import UNIT, VirtualFile

ENGINE = Engine(Cpu(), threads=1)
MANIFEST = {
    "tensors": {
        **{
            name: {"shape": [37 * dtype.packed], "scheme": "normal" if dtype.is_real else "ones", "dtype": name}
            for name, dtype in DTYPES.items()
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
        tensors = {name: fields for name, fields in tensors.items() if "float8" not in name and "float4" not in name}
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


@given(data=st.data(), offset=st.integers(0, 15))
def test_a_piece_drawn_to_any_address_is_its_part_of_the_file(data: st.DataObject, offset: int) -> None:
    tensor = data.draw(st.sampled_from(FILE.plan.tensors))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, tensor.size)] * 2)))
    piece = Piece(tensor, start, stop)
    memory = bytearray(b"x" * (offset + piece.nbytes + 1))
    FILE.fill(piece, memoryview(memory)[offset : offset + piece.nbytes])
    begin = len(FILE.plan.header) + tensor.offset + start * tensor.dtype.itemsize
    assert memory == b"x" * offset + WHOLE[begin : begin + piece.nbytes] + b"x"


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_large_piece_in_memory_that_is_not_aligned_is_the_same(generator: str) -> None:
    file = planned(shape=[2**20 + 99], scheme="normal", generator=generator)
    piece = Piece(file.plan.tensors[0], 33, file.plan.tensors[0].size)
    memory = bytearray(1 + piece.nbytes)
    file.fill(piece, memoryview(memory)[1:])
    assert memory[1:] == file.read(file.nbytes - piece.nbytes, file.nbytes)


def test_only_the_elements_of_a_piece_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened()
    drawing, drawn = file._drawn(), list[Piece]()
    monkeypatch.setattr(drawing, "fill", lambda pieces, _: drawn.extend(pieces))
    piece = Piece(file.plan.tensors[3], 5, 7)
    file.fill(piece, bytearray(piece.nbytes))
    assert drawn == [piece]


@pytest.mark.parametrize("nbytes", [0, 39, 41])
def test_memory_of_another_size_than_the_piece_is_refused(nbytes: int) -> None:
    piece = Piece(FILE.plan.tensors[0], 1, 6)
    assert piece.nbytes == 40
    with pytest.raises(ValueError, match=f"out must have 40 bytes, the size of the piece, got {nbytes}"):
        FILE.fill(piece, bytearray(nbytes))


def test_a_read_beyond_the_end_returns_the_number_of_bytes_left() -> None:
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
    piece = Piece(file.plan.tensors[0], 0, 1)
    with pytest.raises(DrawingStopped):
        file.fill(piece, bytearray(piece.nbytes))


def in_units(file: VirtualFile, start: int, stop: int) -> tuple[int, bytes]:
    """Draw a part of a file, and return in how many units, and the part."""
    drawing, units = file.draw(start, stop), 1
    while True:
        try:
            next(drawing)
        except StopIteration as end:
            return units, bytes(end.value)
        units += 1


@pytest.mark.parametrize("generator", ["philox", "torch"])
@given(one=st.integers(0, 1000), other=st.integers(0, 1000))
def test_a_part_of_a_file_is_the_same_in_units(generator: str, one: int, other: int) -> None:
    start, stop = sorted((one, other))
    file = opened(generator)
    assert in_units(file, start, stop)[1] == bytes(file.read(start, stop))


def planned(**fields: object) -> VirtualFile:
    return ENGINE.open(ENGINE.plan(read_document(json.dumps(fields).encode())))


def test_a_slice_of_many_short_runs_is_drawn_in_many_units() -> None:
    file = planned(shape=[300_000, 3, 41, 101], slice=":,0:2,0:1,0:1", scheme="normal")
    units, drawn = in_units(file, 0, file.nbytes)
    assert drawn == bytes(file.read(0, file.nbytes))
    assert units == pytest.approx(600_000 * 9 * 4 / UNIT, abs=2)
    assert units > in_units(planned(shape=[600_000], scheme="normal"), 0, file.nbytes)[0]


def test_torch_draws_the_numbers_before_a_range_in_units() -> None:
    file = planned(shape=[3, 2**20], scheme="normal", generator="torch")
    units, drawn = in_units(file, file.nbytes - 8, file.nbytes)
    assert drawn == bytes(file.read(file.nbytes - 8, file.nbytes))
    assert units == 12


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ({"shape": [100, 100], "scheme": "normal"}, {"shape": [1000, 1000], "scheme": "normal"}),
        ({"shape": [1000], "scheme": "normal"}, {"shape": [1000], "scheme": "normal", "dtype": "float64"}),
        (
            {"shape": [1000, 9], "scheme": "normal"},
            {"shape": [1000, 9, 41, 101], "slice": ":,:,0:1,0:1", "scheme": "normal"},
        ),
        ({"shape": [64, 64], "scheme": "orthogonal"}, {"shape": [640, 640], "scheme": "orthogonal"}),
        ({"shape": [640, 640], "scheme": "normal"}, {"shape": [640, 640], "scheme": "sparse", "sparsity": 0.5}),
        (
            {"shape": [300], "scheme": "normal", "generator": "torch"},
            {"shape": [300], "scheme": "trunc_normal", "a": 3, "b": 4, "generator": "torch"},
        ),
    ],
)
def test_what_takes_longer_costs_more(small: dict[str, object], large: dict[str, object]) -> None:
    first, second = planned(**small), planned(**large)
    costs = [file.cost(0, file.nbytes, limit=10**15) for file in (first, second)]
    assert 0 < costs[0] < costs[1]


def test_the_cost_of_a_range_of_torch_includes_the_numbers_before_it() -> None:
    file = planned(shape=[2**30], scheme="normal", generator="torch")
    first = file.cost(0, 1000, limit=10**15)
    last = file.cost(file.nbytes - 1000, file.nbytes, limit=10**15)
    assert last > 10**9 > 10**6 > first
    assert file.cost(file.nbytes - 1000, file.nbytes, limit=UNIT) == UNIT


@pytest.mark.parametrize("generator", ["philox", "torch"])
def test_every_matrix_of_a_file_costs_whatever_is_before_it(generator: str) -> None:
    def cost(*tensors: dict[str, object]) -> int:
        manifest = {str(place): tensor for place, tensor in enumerate(tensors)}
        file = planned(tensors=manifest, generator=generator)
        return file.cost(0, file.nbytes, limit=10**15)

    small: dict[str, object] = {"shape": [4], "scheme": "normal"}
    matrix: dict[str, object] = {"shape": [640, 640], "scheme": "orthogonal"}
    assert cost(small, matrix) > cost(matrix)
    assert cost(matrix, small, matrix) > 2 * cost(matrix)


def test_the_header_costs_nothing() -> None:
    assert FILE.cost(0, len(FILE.plan.header), limit=UNIT) == 0


def test_memory_that_is_missing_while_a_file_is_drawn_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    file = opened()
    monkeypatch.setattr(file.generator, "open", fail)
    with pytest.raises(Busy, match="out of memory"):
        file.read(0, file.nbytes)


def test_a_generator_that_is_switched_off_is_refused() -> None:
    engine = Engine(Cpu(), threads=1, without_torch="is off here")
    assert [generator.name for generator in engine.generators()] == ["philox"]
    with pytest.raises(UnsupportedSpec, match="generator=torch is off here; use generator=philox"):
        engine.generator("torch")


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


DRAWN = f"{PLANNED}\nengine = Engine(Cpu(), threads=1)\nengine.open(engine.plan(spec)).read(0, 600)\n"


def test_drawing_a_small_tensor_takes_neither_torch_nor_numba() -> None:
    assert _imported(DRAWN) == set()


def test_drawing_a_large_tensor_takes_numba_and_no_torch() -> None:
    large = 'spec = read_document(b\'{"shape": [512, 512], "scheme": "kaiming_normal"}\')'
    assert _imported(f"{DRAWN}{large}\nfile = engine.open(engine.plan(spec))\nfile.read(0, file.nbytes)") == {"numba"}


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
from weightwell_engine.exceptions import DeviceUnavailable
from weightwell_engine.generators.factory import find_device
try:
    find_device("cuda:0")
except DeviceUnavailable as error:
    assert "needs torch, which is not installed" in str(error), error
else:
    raise SystemExit("a GPU was found")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
