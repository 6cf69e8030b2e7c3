"""The float32 normal is a function of 31 bits, so it is compared with the reference for all of them."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import triton.language as tl

from weightwell_engine.generators.philox.cuda.language import OPTIONS, entry
from weightwell_engine.generators.philox.cuda.singles import normal_singles
from weightwell_engine.generators.philox.specification import quantile

BLOCK = 1 << 24
PANEL = 1 << 15  # of which the reference's working copies stay in the cache
_TILE = tl.constexpr(1024)


@entry
def _draw(values: tl.tensor, mirrored: tl.tensor, first: tl.tensor) -> None:
    """Write the normals of every other word from ``first`` on, and of their complements."""
    at = tl.program_id(0) * _TILE + tl.arange(0, _TILE)
    word = (first + 2 * at.to(tl.int64)).to(tl.uint32)
    tl.store(values + at, normal_singles(word) * 4.656612873077393e-10)  # 2^-31
    tl.store(mirrored + at, normal_singles(~word) * 4.656612873077393e-10)


def expected(first: int) -> torch.Tensor:
    """Return what the reference gives for the words whose normals are positive, from ``first`` on."""
    words = np.arange(first, first + 2 * BLOCK, 2, dtype=np.uint32)
    panels = [quantile.normal_singles(words[at : at + PANEL]) for at in range(0, BLOCK, PANEL)]
    return torch.from_numpy(np.concatenate(panels))


def test_every_word_gives_the_normal_of_the_reference(place: torch.device) -> None:
    values, mirrored = (torch.empty(BLOCK, dtype=torch.float32, device=place) for _ in range(2))
    firsts = range(1 << 31, 1 << 32, 2 * BLOCK)
    with ThreadPoolExecutor(os.cpu_count()) as executor, torch.cuda.device(place):
        for first, right in zip(firsts, executor.map(expected, firsts), strict=True):
            _draw[(BLOCK // 1024,)](values, mirrored, first, **OPTIONS)
            assert torch.equal(values.view(torch.int32), right.to(place).view(torch.int32)), hex(first)
            assert torch.equal(values, -mirrored), hex(first)
