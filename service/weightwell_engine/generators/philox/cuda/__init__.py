"""The philox generator on a GPU: Triton kernels that draw the same bits as ``reference`` and ``cpu``.

    prepared = prepare(law, dtype, seed, name, device)
    fill([(prepared, runs, offset), ...], out)        # parts of any tensors, into a buffer on the device

Triton comes with torch's builds for CUDA. Without Triton, the import of this package raises ``DeviceUnavailable``. If
``TRITON_INTERPRET=1`` is set at the import and the device is a CPU, Triton's interpreter runs the kernels.
"""

from weightwell_engine.exceptions import DeviceUnavailable

try:
    import triton
except ModuleNotFoundError:
    raise DeviceUnavailable(
        "drawing on a CUDA device needs Triton, which is not installed: use a torch build with CUDA, which brings it, "
        "or --device cpu"
    ) from None

from weightwell_engine.generators.philox.cuda.laws import Part, Prepared, fill, nbytes, prepare, prepare_elements

__all__ = ["Part", "Prepared", "fill", "nbytes", "prepare", "prepare_elements"]

del triton
