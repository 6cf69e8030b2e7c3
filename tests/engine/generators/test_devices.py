import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import torch

from weightwell_engine.exceptions import Busy, DeviceUnavailable, TooLarge
from weightwell_engine.generators.devices import Buffers, Cpu
from weightwell_engine.generators.factory import find_device
from weightwell_engine.generators.gpu import Gpu

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later."

# Names ---------------------------------------------------------------------------------------------------------------


def test_the_cpu_is_always_there() -> None:
    device = find_device("cpu")
    assert isinstance(device, Cpu)
    assert str(device) == "cpu"
    assert device.trouble() is None


@pytest.mark.parametrize(
    "device", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:00", "meta", "mps", "cpu cuda"]
)
def test_a_device_that_is_none_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(DeviceUnavailable, match=r"device must be cpu, cuda or cuda:<index>, got") as caught:
        find_device(device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7", "cuda:256"])
def test_a_device_that_is_absent_is_refused_and_not_replaced_by_another(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceUnavailable, match=f"device {device} does not exist: torch .+ sees 0 CUDA devices"):
        find_device(device)


@pytest.mark.parametrize(("name", "place"), [("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")])
def test_a_gpu_is_known_by_its_card(name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [SimpleNamespace(name=f"Card {index}", major=9, minor=0) for index in range(2)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    assert str(find_device(name)) == f"{place} (Card {place[-1]}, compute capability 9.0)"


def test_a_gpu_that_torch_cannot_use_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 1).")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", fail)
    with pytest.raises(DeviceUnavailable, match=r"^device cuda:0 cannot be used: The NVIDIA driver .* too old$"):
        find_device("cuda:0")


# Memory and queues ---------------------------------------------------------------------------------------------------


def address(memory: memoryview) -> int:
    return torch.frombuffer(memory, dtype=torch.uint8).data_ptr()


@pytest.mark.parametrize("nbytes", [0, 1, 100, Cpu.chunk, Cpu.chunk + 64, 2 * Cpu.chunk])
def test_memory_of_the_cpu_begins_on_a_cache_line(nbytes: int) -> None:
    memory = Cpu.allocate(nbytes)
    assert len(memory) == memory.nbytes == nbytes
    assert not nbytes or address(memory) % 64 == 0


def test_memory_is_lent_again_once_no_part_of_it_is_held() -> None:
    buffers = Buffers(kept=2**20)
    first = buffers.lend(1000)
    place, part = address(first), first[10:20]
    del first
    assert address(buffers.lend(600)) != place
    del part
    held = [buffers.lend(1024), buffers.lend(513)]
    assert place in map(address, held)


def test_no_more_memory_is_kept_than_is_said() -> None:
    buffers = Buffers(kept=2048)
    held = [buffers.lend(nbytes) for nbytes in (1024, 512, 1024, 600, 64)]
    assert len({address(memory) for memory in held}) == 5
    held.clear()
    assert sum(memory.nbytes for free in buffers._free.values() for memory in free) == buffers._nbytes <= 2048


def test_memory_of_another_size_is_other_memory() -> None:
    buffers = Buffers(kept=2**20)
    large = buffers.lend(2048)
    place = address(large)
    del large
    small = buffers.lend(1024)
    assert address(buffers.lend(1025)) == place
    assert address(small) != place


def test_threads_that_borrow_at_once_share_no_memory() -> None:
    buffers = Buffers(kept=256)

    def use(mark: int) -> bool:
        memory = buffers.lend(64)
        memory[:] = bytes([mark]) * 64
        return bytes(memory) == bytes([mark]) * 64

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, [i % 256 for i in range(2000)]))


def test_memory_that_the_machine_does_not_have_is_busy() -> None:
    with pytest.raises(Busy, match="out of memory"):
        Cpu.allocate(2**60)
    with pytest.raises(Busy, match="out of memory"), Cpu().guarded():
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shape"), Cpu().guarded():
        torch.empty(3).view(2)


def fetched(gpu: Gpu, memory: torch.Tensor) -> bytes:
    out = gpu.allocate(len(memory))
    gpu.fetch(memory, out)
    return bytes(out)


@pytest.mark.parametrize("nbytes", [0, 1, 100])
def test_what_is_fetched_is_there(nbytes: int, gpu: Gpu, driver: Any) -> None:
    assert fetched(gpu, torch.arange(nbytes, dtype=torch.uint8)) == bytes(range(nbytes))
    assert driver.finished == 1


def test_every_thread_has_one_queue_of_its_own(gpu: Gpu, driver: Any) -> None:
    def work() -> None:
        for _ in range(3):
            with gpu.queue():
                pass

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(driver.streams) == 2


# Out of memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    ],
)
def test_out_of_memory_is_busy_and_the_device_lives_on(error: RuntimeError, gpu: Gpu, driver: Any) -> None:
    with (
        pytest.raises(Busy, match=r"a card, compute capability 9\.0.* is out of memory; try again"),
        gpu.queue(),
    ):
        raise error
    assert driver.emptied == 1
    assert gpu.trouble() is None
    with gpu.queue():
        assert fetched(gpu, torch.zeros(3, dtype=torch.uint8)) == bytes(3)


def test_what_a_call_without_memory_had_taken_is_free_when_the_cache_is_emptied(
    gpu: Gpu, driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[ref[torch.Tensor]] = []
    left: list[torch.Tensor | None] = []

    def take() -> None:
        tensor = torch.empty(100)
        taken.append(ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(driver, "empty_cache", lambda: left.append(taken[0]()))
    gc.disable()  # what waits for the collector is not free
    try:
        with pytest.raises(Busy), gpu.guarded():
            take()
    finally:
        gc.enable()
    assert left == [None]


# Lost ----------------------------------------------------------------------------------------------------------------


def test_a_lost_device_says_why_and_is_not_worked_on_again(
    gpu: Gpu, driver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    driver.lost = torch.AcceleratorError(ILLEGAL)
    said = r"lost: CUDA error: an illegal memory access was encountered\. Restart the service"
    with pytest.raises(DeviceUnavailable, match=said), gpu.queue():
        gpu.finish()
    driver.lost = RuntimeError("another error, later")
    with pytest.raises(DeviceUnavailable, match=said), gpu.queue():
        pytest.fail("nothing is drawn on a device that is lost")
    assert gpu.trouble() == "CUDA error: an illegal memory access was encountered"
    [record] = caplog.records
    assert record.levelno == logging.CRITICAL


def test_a_device_that_is_lost_while_nothing_is_drawn_is_noticed_by_asking(gpu: Gpu, driver: Any) -> None:
    assert gpu.trouble() is None
    driver.lost = torch.AcceleratorError("CUDA error: unknown error")
    assert gpu.trouble() == "CUDA error: unknown error"


def test_an_error_outside_the_device_is_not_converted(gpu: Gpu) -> None:
    with pytest.raises(RuntimeError, match=r"^out of order$"), gpu.guarded():
        raise RuntimeError("out of order")
    with pytest.raises(TooLarge), gpu.guarded():
        raise TooLarge("too large")
    assert gpu.trouble() is None
