"""The kernels in Triton's interpreter, on the CPU.

What is interpreted is decided when a kernel is defined, so that Triton and all kernels are imported here, under the
variable that says so. Then it is taken back: it is no business of what other tests start.
"""

import platform
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from weightwell_engine.generators.philox.specification import orthogonal as orthogonal_reference

if (sys.platform, platform.machine()) == ("linux", "x86_64"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton.experimental.gluon  # noqa: F401 - the first launch would, and it looks at the variable, too

        from weightwell_engine.generators.philox.cuda import orthogonal, segments
else:  # where Triton is not among what the tests depend on
    collect_ignore_glob = ["test_*"]


@pytest.fixture(autouse=True)
def _large_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw more with each program: the interpreter takes as long for one element as for thousands."""
    monkeypatch.setattr(segments, "TILE", 1 << 13)
    with np.errstate(all="ignore"):  # a GPU does not warn of an overflow, either
        yield


@pytest.fixture
def haar_of_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without the kernels of orthogonal matrices: they take seconds here, and test_orthogonal.py tests them."""
    monkeypatch.setattr(
        orthogonal,
        "haar_",
        lambda gaussian: gaussian.copy_(torch.from_numpy(orthogonal_reference.haar(gaussian.numpy()))),
    )
