"""What only a GPU can show: ``make test-cuda``. Unless pytest is told to test this folder, it passes it by.

So it must: what is here needs Triton's compiler, and other tests its interpreter, and a process has one of them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import httpx
import pytest
import torch

from weightwell_engine.exceptions import DeviceUnavailable
from weightwell_engine.generators.factory import find_device
from weightwell_engine.generators.gpu import Gpu

if TYPE_CHECKING:
    from fastapi import FastAPI

Serve = Callable[["FastAPI"], AbstractContextManager[str]]

PATIENCE = 120.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--gpu``, which pytest knows if it is told to test this folder."""
    parser.addoption("--gpu", metavar="DEVICE", default="cuda:0", help="the device that is tested; it has to be there")


@pytest.fixture(scope="session", autouse=True)
def gpu(request: pytest.FixtureRequest) -> Gpu:
    """The GPU. The run ends at once if it is requested but missing."""
    name = request.config.getoption("--gpu")
    try:
        found = find_device(name)
    except DeviceUnavailable as error:
        pytest.exit(f"no test has run: {error}", returncode=1)
    if not isinstance(found, Gpu):
        pytest.exit(f"no test has run: {name} is no GPU", returncode=1)
    return found


@pytest.fixture(scope="session")
def place(gpu: Gpu) -> torch.device:
    """The GPU, as torch calls it."""
    return gpu.place


@pytest.fixture(scope="session")
def gpu_app(place: torch.device) -> "FastAPI":
    """A service that draws on the GPU, with larger limits than usual."""
    from weightwell_service.app import create_app
    from weightwell_service.settings import Settings

    return create_app(Settings(device=str(place), threads=4, max_bytes=2**36, max_resident_bytes=2**34))


@pytest.fixture(scope="session")
def on_gpu(gpu_app: "FastAPI", serve: Serve) -> Iterator[httpx.Client]:
    """A client of that service."""
    with serve(gpu_app) as url, httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        yield client
