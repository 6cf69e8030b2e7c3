"""Which generators a device has."""

import torch

from weightwell_service.exceptions import DeviceUnavailable
from weightwell_service.generators import Generator
from weightwell_service.generators.philox.generator import PhiloxGenerator
from weightwell_service.generators.torch import TorchGenerator


def make_generators(device: str, *, threads: int) -> dict[str, Generator]:
    """Return the generators that draw on a device, by name; raise ``DeviceUnavailable`` if it is not there."""
    place = _device(device)
    generators: tuple[Generator, ...] = (PhiloxGenerator(threads), TorchGenerator(place))
    return {generator.name: generator for generator in generators}


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceUnavailable(f"device must be cpu, cuda or cuda:<index>, got {name!r}") from None
    if device == torch.device("cpu"):
        return device
    if device.type != "cuda" or str(device) != name != "cuda":  # torch wraps cuda:256 to cuda:0
        raise DeviceUnavailable(f"device must be cpu, cuda or cuda:<index>, got {name!r}")
    count = torch.cuda.device_count()
    index = device.index or 0
    if index >= count:
        raise DeviceUnavailable(
            f"device {name} is not there: torch {torch.__version__} sees {count} CUDA devices. "
            "Use --device cpu, or a torch build with CUDA on a machine that has one"
        )
    return torch.device("cuda", index)
