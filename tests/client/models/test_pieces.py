"""Pieces: every byte of a file reaches its tensor, for any division into ranges."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell.dtypes import DTYPES
from weightwell.models import pieces
from weightwell.models.pieces import Piece, Pieces, host_memory

TENSORS = st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.integers(0, 9)), max_size=6)


def placed(kinds: list[tuple[str, int]]) -> list[Piece]:
    """Tensors of some dtypes and lengths, one after the other."""
    start, found = 0, []
    for name, length in kinds:
        kind = getattr(torch, name)
        tensor = torch.zeros(length * kind.itemsize, dtype=torch.uint8).view(kind)  # torch fills no float4
        found.append(Piece(start, start + tensor.nbytes, tensor))
        start += tensor.nbytes
    return found


@given(TENSORS, st.data())
def test_bytes_that_come_in_any_ranges_are_the_tensors(kinds: list[tuple[str, int]], data: st.DataObject) -> None:
    parts = placed(kinds)
    size = parts[-1].stop if parts else 0
    body = np.random.default_rng(1).bytes(size)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, size), max_size=5))), size]
    ranges = data.draw(st.permutations([(a, b) for a, b in pairwise(cuts) if a < b]))
    destination = Pieces(data.draw(st.permutations(parts)))
    for start, stop in ranges:
        for window in destination.buffers(start, stop):
            window[:] = body[start : start + len(window)]
            start += len(window)
        assert start == stop
    assert b"".join(bytes(host_memory(part.tensor)) for part in parts) == body


def test_a_window_on_the_cpu_is_the_tensors_own_memory() -> None:
    (piece,) = placed([("bfloat16", 4)])
    (window,) = piece.buffers(2, 4)
    window[:] = torch.tensor([1.5], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    assert piece.tensor.tolist() == [0, 1.5, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_other_memory_are_copied_when_they_are_full(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another device is written by works on the CPU as well."""
    monkeypatch.setattr(pieces, "BLOCK", 5)
    tensor = torch.zeros((3, 7), dtype=getattr(torch, dtype))
    piece = Piece(0, tensor.nbytes, tensor)
    body = np.random.default_rng(1).bytes(tensor.nbytes)
    for start, stop in ((0, 3), (3, tensor.nbytes)):
        for window in piece.staged(start, stop):
            window[:] = body[start : start + len(window)]
            start += len(window)
    assert bytes(host_memory(tensor)) == body
