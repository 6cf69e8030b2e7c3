"""The roster: which generators draw on a device."""

from weightwell_service.generators import Generator
from weightwell_service.generators.devices import Cpu, Device
from weightwell_service.generators.philox.cpu_generator import CpuPhiloxGenerator
from weightwell_service.generators.torch import TorchGenerator


def make_generators(device: Device, *, threads: int) -> dict[str, Generator]:
    """Return the generators that draw on a device, by name; raise ``DeviceUnavailable`` if it lacks what they need."""
    generators: tuple[Generator, ...] = (_philox(device, threads), TorchGenerator(device))
    return {generator.name: generator for generator in generators}


def _philox(device: Device, threads: int) -> Generator:
    if isinstance(device, Cpu):
        return CpuPhiloxGenerator(threads)
    # Not at the top: it imports Triton, which the CPU's install has not.
    from weightwell_service.generators.philox.cuda_generator import CudaPhiloxGenerator

    return CudaPhiloxGenerator(device)
