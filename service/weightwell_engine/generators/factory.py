"""The factory: creates devices and generators by name. It imports each when needed: some need torch or Triton."""

import re
from importlib.util import find_spec

from weightwell_engine.exceptions import DeviceUnavailable
from weightwell_engine.forks import loading
from weightwell_engine.generators import Generator
from weightwell_engine.generators.devices import Cpu, Device

_CUDA = re.compile(r"cuda(?::(0|[1-9]\d*))?", re.ASCII)


def find_device(name: str) -> Device:
    """Return the device of a name; raise ``DeviceUnavailable`` if it does not exist or torch cannot use it."""
    if name == Cpu.name:
        return Cpu()
    if not (match := _CUDA.fullmatch(name)):
        raise DeviceUnavailable(f"device must be cpu, cuda or cuda:<index>, got {name!r}")
    if find_spec("torch") is None:
        raise DeviceUnavailable(f"device {name} needs torch, which is not installed; use cpu, or install torch")
    with loading:
        from weightwell_engine.generators.gpu import find_gpu

    return find_gpu(name, int(match[1] or 0))


def make_generator(name: str, device: Device, *, threads: int) -> Generator:
    """Return a generator of ``spec.GENERATORS`` that draws on a device.

    Raises ``DeviceUnavailable`` if the device does not support the generator, and ``ModuleNotFoundError`` if torch is
    needed and not installed.
    """
    with loading:
        return _made(name, device, threads)


def _made(name: str, device: Device, threads: int) -> Generator:
    if name == "torch":
        from weightwell_engine.generators.torch import TorchGenerator

        return TorchGenerator(device)
    if isinstance(device, Cpu):
        from weightwell_engine.generators.philox.cpu.generator import CpuPhiloxGenerator

        return CpuPhiloxGenerator(threads)
    from weightwell_engine.generators.gpu import Gpu
    from weightwell_engine.generators.philox.cuda.generator import CudaPhiloxGenerator

    if not isinstance(device, Gpu):
        raise TypeError(f"expected a Cpu or a Gpu, got {device!r}")
    return CudaPhiloxGenerator(device)
