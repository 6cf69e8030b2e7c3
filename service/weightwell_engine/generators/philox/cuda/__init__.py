"""The philox generator on a GPU: Triton kernels that draw the same bits as ``reference`` and ``cpu``.

    prepared = prepare(law, dtype, seed, name, device)
    fill([(prepared, runs, offset), ...], out)        # parts of any tensors, into a buffer on the device

Triton comes with torch's builds for CUDA, and where it is missing importing this raises ``DeviceUnavailable``. With
``TRITON_INTERPRET=1`` in the environment at that moment, and a CPU for a device, its interpreter runs the kernels.
"""

from weightwell_engine.exceptions import DeviceUnavailable

try:
    import triton
except ModuleNotFoundError:
    raise DeviceUnavailable(
        "drawing on a CUDA device needs Triton, and it is not installed: use a torch build with CUDA, which brings it, "
        "or --device cpu"
    ) from None

from weightwell_engine.generators.philox.cuda.laws import Part, Prepared, fill, nbytes, prepare, prepare_elements

__all__ = ["Part", "Prepared", "fill", "nbytes", "prepare", "prepare_elements"]

del triton
