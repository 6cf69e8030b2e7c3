from math import prod
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES, DType
from weightwell_engine.safetensors import Entry, header, layout

names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
entries = st.lists(
    st.builds(Entry, names, st.sampled_from(list(DTYPES.values())), shapes).map(lambda entry: whole(entry)),
    unique_by=lambda entry: entry.name,
    max_size=6,
)

AWKWARD = ['"', "\\", "\n", "\x00", "\x1f", "\x7f", "\u2028", "é", "e\u0301", "\U0001d6fc", "a.b", " ", ""]


def whole(entry: Entry) -> Entry:
    """Return an entry whose last size is a multiple of the elements of an item."""
    packed = entry.dtype.packed
    return entry if packed == 1 else Entry(entry.name, entry.dtype, (*entry.shape, packed))


def of_torch(entry: Entry) -> tuple[int, ...]:
    """Return the shape in torch, whose elements are items."""
    packed = entry.dtype.packed
    return entry.shape if packed == 1 else (*entry.shape[:-1], entry.shape[-1] // packed)


def file(placed: list[tuple[Entry, int]], metadata: dict[str, str]) -> bytes:
    return header(placed, metadata) + bytes(sum(entry.nbytes for entry, _ in placed))


def saved(tensors: list[Entry]) -> bytes:
    zeros = {t.name: torch.zeros((*of_torch(t), t.dtype.itemsize), dtype=torch.uint8) for t in tensors}
    return safetensors.torch.save(
        {t.name: zeros[t.name].view(getattr(torch, t.dtype.name)).reshape(of_torch(t)) for t in tensors}
    )


@given(entries)
def test_a_file_without_metadata_has_the_bytes_of_the_library(tensors: list[Entry]) -> None:
    assert file(layout(tensors), {}) == saved(tensors)


def test_awkward_names_are_written_and_ordered_as_the_library_does() -> None:
    tensors = [Entry(name, DTYPES["float32"], (1,)) for name in AWKWARD]
    assert file(layout(tensors), {}) == saved(tensors)


def test_dtypes_are_ordered_as_the_library_does() -> None:
    tensors = [Entry(name, dtype, (3, 4)) for name, dtype in DTYPES.items()]
    assert file(layout(reversed(tensors)), {}) == saved(tensors)


@given(entries, st.dictionaries(names, names, max_size=4))
def test_a_file_with_metadata_loads_with_the_library(tensors: list[Entry], metadata: dict[str, str]) -> None:
    with NamedTemporaryFile(suffix=".safetensors") as written:  # load() of safetensors 0.8 does not know F4 and F8_E8M0
        written.write(file(layout(tensors), metadata))
        written.flush()
        with safetensors.safe_open(written.name, "pt") as opened:
            loaded = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    assert {name: (tuple(t.shape), t.dtype) for name, t in loaded.items()} == {
        t.name: (of_torch(t), getattr(torch, t.dtype.name)) for t in tensors
    }


def test_metadata_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    metadata = {name or "empty": f"{name} value" for name in AWKWARD}
    path = tmp_path / "w.safetensors"
    path.write_bytes(file(layout([Entry("w", DTYPES["float32"], (2,))]), metadata))
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == metadata


@given(entries, st.permutations([("b", "1"), ("a", "2"), ("c", "3")]))
def test_metadata_stays_in_the_order_in_which_it_is_given(tensors: list[Entry], items: list[tuple[str, str]]) -> None:
    text = header(layout(tensors), dict(items))[8:].decode()
    assert text.startswith('{"__metadata__":{' + ",".join(f'"{key}":"{value}"' for key, value in items) + "}")


@given(entries)
def test_data_is_aligned_and_tensors_follow_one_another(tensors: list[Entry]) -> None:
    placed, end = layout(tensors), 0
    assert len(header(placed, {})) % 8 == 0
    for entry, offset in placed:
        assert offset == end
        assert offset % entry.dtype.itemsize == 0
        end = offset + prod(of_torch(entry)) * entry.dtype.itemsize


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_petabyte_takes_no_more_than_its_header(dtype: DType) -> None:
    entry = Entry("w", dtype, (2**25, 2**25))
    assert len(header(layout([entry]), {})) < 200
