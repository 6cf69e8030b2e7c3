"""Narrow types: float32 rounded to them by the kernels."""

import numpy as np

from weightwell_engine.dtypes import DType
from weightwell_engine.generators.philox.cpu import kernels
from weightwell_engine.generators.philox.specification.formats import FORMATS, UNSIGNED, Patterns
from weightwell_engine.generators.philox.specification.quantile import Singles


def narrowed(values: Singles, dtype: DType) -> Patterns:
    """Return what ``formats.encode`` returns for float32 values (n) in a narrower dtype."""
    patterns: Patterns = np.empty(values.size, UNSIGNED[dtype.itemsize])
    kernels.encode_all(values, target_of(dtype), patterns)
    return patterns


def target_of(dtype: DType) -> kernels.Target:
    """Return what a kernel needs to round to a dtype that is narrower than float32."""
    form, single = FORMATS[dtype.name], FORMATS["float32"]
    rebias = single.bias - form.bias
    return kernels.Target(
        shift=np.uint32(single.mantissa - form.mantissa),
        rebias=np.uint32(rebias << single.mantissa),
        smallest=np.uint32((rebias + 1) << single.mantissa if rebias else 0),
        magic=np.float32(2.0 ** (1 - form.bias - form.mantissa + single.mantissa)),
        sign=np.uint32(form.width - 1),
    )
