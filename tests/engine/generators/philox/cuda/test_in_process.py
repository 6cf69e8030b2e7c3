"""The client without a server draws into memory of a GPU, which here is the CPU with the kernels in the interpreter."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import weightwell
from weightwell.in_process import engines
from weightwell.models import noise, pieces
from weightwell_engine.generators.gpu import Gpu
from weightwell_engine.generators.philox.cuda.generator import CudaDrawing

pytestmark = pytest.mark.filterwarnings("ignore::weightwell.RepeatedStreamWarning")


def copied(*_: object) -> None:
    raise AssertionError("drawn into memory of the host")


@pytest.fixture(scope="module")
def on_cpu() -> Iterator[weightwell.Client]:
    with weightwell.local(threads=1) as client:
        client.init((3,), "normal")  # before the CPU is the GPU
        yield client


@pytest.fixture
def on_gpu(on_cpu: weightwell.Client, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[weightwell.Client]:
    """A client whose GPU is the CPU. Nothing may be drawn into memory of the host."""
    del on_cpu
    monkeypatch.setattr(pieces, "GPU", "cpu")
    monkeypatch.setattr(engines, "find_device", lambda _: gpu)
    monkeypatch.setattr(CudaDrawing, "fill", copied)
    with weightwell.local("cuda:0", threads=1) as client:
        yield client


def network() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 7, padding_idx=2), nn.BatchNorm1d(5))


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors have the same bits."""
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))


def test_a_module_has_the_numbers_of_the_cpu(
    on_cpu: weightwell.Client, on_gpu: weightwell.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        model = network()
    on_gpu.init_module_(model, seed=1, device="cpu")
    monkeypatch.undo()
    expected = on_cpu.init_module_(network(), seed=1).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("dtype", "alpha", "strided"), [("float32", 1.0, False), ("bfloat16", -0.3, True), ("float8_e4m3fn", -1.0, False)]
)
def test_noise_is_drawn_where_the_tensor_is(
    on_cpu: weightwell.Client,
    on_gpu: weightwell.Client,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    alpha: float,
    strided: bool,
) -> None:
    def tensor() -> Any:
        memory = torch.linspace(-1, 1, 60 * 70).to(getattr(torch, dtype)).view(60, 70)
        return memory.T if strided else memory

    monkeypatch.setattr(noise, "DEVICE_BLOCK", 2**12)
    there, expected = tensor(), tensor()
    assert on_gpu.noise(there, seed=4, std=0.1, alpha=alpha) is there
    monkeypatch.undo()
    assert same(there, on_cpu.noise(expected, seed=4, std=0.1, alpha=alpha))
    assert not same(there, tensor())


def test_noise_on_a_gpu_says_how_much_has_been_added(
    on_gpu: weightwell.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn = CudaDrawing.fill_on_device, list[int]()

    def fail(self: CudaDrawing, piece: Any, out: torch.Tensor) -> None:
        if drawn:
            raise RuntimeError("broken")
        drawn.append(len(out))
        draw(self, piece, out)

    monkeypatch.setattr(noise, "DEVICE_BLOCK", 2**10)
    monkeypatch.setattr(CudaDrawing, "fill_on_device", fail)
    with pytest.raises(RuntimeError, match="broken") as error:
        on_gpu.noise(torch.zeros(40, 50), seed=4)
    assert error.value.__notes__[0].startswith("256 of 2000 elements of the tensor have been changed already")
