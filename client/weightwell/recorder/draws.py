"""Draws in process: the random numbers from which a model's code computes others, by the generator's specification."""

from typing import Any

import numpy as np
import torch


def draw(fields: dict[str, Any], shape: tuple[int, ...], name: str, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the tensor ``name`` of a spec, as a server draws it; slowly, as it is meant for small ones."""
    from weightwell_engine.generators.philox.specification.reference import Prepared
    from weightwell_engine.parsing.manifest import read_single
    from weightwell_engine.parsing.models import SINGLES, of_scheme, validate
    from weightwell_engine.plan import UNLIMITED, make_plan
    from weightwell_engine.regions import Runs

    body = {**fields, "shape": list(shape), "name": name, "seed": seed, "dtype": str(dtype).removeprefix("torch.")}
    spec = read_single(validate(of_scheme(body, SINGLES), body))
    (tensor,) = make_plan(spec, "", portable=True, max_bytes=UNLIMITED).tensors
    out = np.empty(tensor.nbytes, np.uint8)
    Prepared(tensor.law, tensor.dtype, seed, name).fill(Runs(0, tensor.size, tensor.size, 1), out.data)
    return torch.from_numpy(out).view(dtype).reshape(shape)
