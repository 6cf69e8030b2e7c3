"""Headers: files of the safetensors library are read as by the library, and invalid headers are refused."""

from contextlib import suppress

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell.exceptions import InvalidFile
from weightwell.safetensors import MAX_HEADER, PREFIX, Entry, header_length, read_header


def test_a_file_of_the_library_is_read() -> None:
    tensors = {"b": torch.zeros(2, 3, dtype=torch.float16), "a": torch.zeros((), dtype=torch.float64)}
    file = safetensors.torch.save(tensors, metadata={"format": "pt"})
    length = header_length(file[:PREFIX], len(file))
    assert read_header(file[PREFIX : PREFIX + length]).entries == {
        "a": Entry("F64", (), 0, 8),
        "b": Entry("F16", (2, 3), 8, 20),
    }


@pytest.mark.parametrize(("length", "total"), [(1, 8), (93, 100), (2**63, 2**64), (MAX_HEADER + 1, 2**40)])
def test_a_header_that_cannot_be_is_refused_before_it_is_read(length: int, total: int) -> None:
    with pytest.raises(InvalidFile):
        header_length(length.to_bytes(8, "little"), total)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"weight": 3}',
        b'{"weight": {}}',
        b'{"weight": {"dtype": "F32", "shape": 3, "data_offsets": [0, 12]}}',
        b'{"weight": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 12]}}',
        b'{"weight": {"dtype": "F32", "shape": [3], "data_offsets": [0]}}',
        b'{"weight": {"dtype": "F32", "shape": [3], "data_offsets": [0, null]}}',
        b'{"weight": {"dtype": "F32", "shape": [3], "data_offsets": [-12, 0]}}',
        b'{"weight": {"dtype": "F32", "shape": [3], "data_offsets": [12, 0]}}',
        b'{"weight": {"dtype": "F32", "shape": [3], "data_offsets": [9223372036854775807, 9223372036854775819]}}',
        b'{"weight": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 12]}}',
        pytest.param(b'{"weight": ' + b"[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidFile):
        read_header(header)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_read_or_be_refused(header: bytes) -> None:
    with suppress(InvalidFile):
        read_header(header)
