import pytest
import torch

from weightwell_service.exceptions import DeviceUnavailable
from weightwell_service.generators.devices import make_generators
from weightwell_service.spec import GENERATORS


def test_every_generator_that_a_spec_can_name_draws_on_the_cpu() -> None:
    generators = make_generators("cpu", threads=2)
    assert set(generators) == set(GENERATORS)
    assert all(generator.name == name for name, generator in generators.items())


@pytest.mark.parametrize(
    "device", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:128", "cuda:256", "meta", "mps", "cpu cuda"]
)
def test_a_device_that_is_none_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(DeviceUnavailable, match=r"device must be cpu, cuda or cuda:<index>, got") as caught:
        make_generators(device, threads=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_device_that_is_absent_is_refused_and_not_replaced_by_another(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceUnavailable, match=f"device {device} is not there: torch .+ sees 0 CUDA devices"):
        make_generators(device, threads=2)
