"""The package on a machine without Triton."""

import subprocess
import sys

_WITHOUT_TRITON = """
import sys
sys.path[:0] = {path}
sys.modules["triton"] = None  # what importing finds where it is not installed
from weightwell_engine.exceptions import DeviceUnavailable
from weightwell_engine.generators.philox.cpu.checked import prepare
try:
    import weightwell_engine.generators.philox.cuda
except DeviceUnavailable as error:
    print(error)
"""


def test_without_triton_the_rest_works_and_the_error_has_advice() -> None:
    program = _WITHOUT_TRITON.format(path=sys.path)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "needs Triton" in said
    assert "use a torch build with CUDA" in said
