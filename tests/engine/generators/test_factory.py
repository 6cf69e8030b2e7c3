import subprocess
import sys

import pytest

from weightwell_engine.exceptions import DeviceUnavailable
from weightwell_engine.generators import philox
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.factory import make_generator
from weightwell_engine.generators.gpu import Gpu
from weightwell_engine.spec import GENERATORS


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_that_a_spec_can_name_draws_on_the_cpu(name: str) -> None:
    assert make_generator(name, Cpu(), threads=2).name == name


def test_a_service_on_a_cpu_starts_without_triton() -> None:
    start = "import sys; sys.modules['triton'] = None; from weightwell_service.__main__ import create_app, Settings"
    done = subprocess.run([sys.executable, "-c", f"{start}; create_app(Settings())"], timeout=60, check=False)
    assert done.returncode == 0


def test_a_gpu_without_triton_is_refused_and_not_replaced_by_the_cpu(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("weightwell_engine.generators.philox.cuda")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(philox, "cuda", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(DeviceUnavailable, match="needs Triton, which is not installed"):
        make_generator("philox", gpu, threads=2)
