"""Modules: the default initialization of the modules of torch.nn, as schemes with parameters.

A module is identified by the name of its class. A tensor is identified by its leaf, which is its name in the module:
``weight``, ``bias_ih_l0``, ``running_var``. Some laws depend on another tensor of the module: the law of a Linear's
bias depends on the fan-in of the weight. The argument ``shapes`` has the shapes of those tensors.

The parameters are computed as in torch's ``reset_parameters``, in the same order of operations, so ``generator=torch``
draws the same numbers as torch. The source is torch 2.13, ``torch/nn/modules``.
"""

import re
from collections.abc import Callable, Mapping
from math import sqrt

from weightwell_engine.exceptions import InvalidSpec, did_you_mean
from weightwell_engine.fans import Fans

Fields = dict[str, object]
Shapes = Mapping[str, tuple[int, ...]]
Initialization = Callable[[str, Shapes], Fields]

# The number and the direction of a layer in the name of a recurrent module's tensor, such as weight_ih_l3_reverse.
_LAYER = re.compile(r"_l\d+(_reverse)?$", re.ASCII)
_FIRST = "_l0"


def own_fields(module: str, leaf: str, shapes: Shapes) -> Fields:
    """Return the ``scheme`` and its parameters for one tensor of a module.

    ``module`` is the name of a class of ``torch.nn``, ``leaf`` the name of the tensor in it. ``shapes`` has the whole
    shapes of the module's tensors by leaf. The fields of a counter also have a ``dtype``. torch zeroes the row
    ``padding_idx`` of an embedding. Here this row is drawn like the others, since its index is not known.

    Raises ``InvalidSpec`` for a module that is not in the table, for a leaf that it does not have, and for a tensor
    with a law that depends on a missing tensor.
    """
    if module not in MODULES:
        raise _unknown(module)
    leaves = MODULES[module]
    if (initialization := leaves.get(_LAYER.sub(_FIRST, leaf))) is None:
        detail = f"{module} has no tensor named {leaf!r} to reset; it has {', '.join(leaves)}: give a scheme"
        raise InvalidSpec("module", got=module, expected=f"a module with a tensor named {leaf!r}", detail=detail)
    return initialization(leaf, shapes)


def _unknown(module: str) -> InvalidSpec:
    like = did_you_mean(module.rpartition(".")[2], MODULES)
    expected = f"a class of torch.nn with tensors, one of {', '.join(MODULES)}"
    advice = f"; {like}" if like else ": give a scheme"
    detail = f"unknown module {module[:80]!r}: torch.nn has no class of this name with tensors{advice}"
    return InvalidSpec("module", got=module, expected=expected, detail=detail, hint=like or "give a scheme")


# Initializations of torch --------------------------------------------------------------------------------------------


def _zeros(_leaf: str, _shapes: Shapes) -> Fields:
    return {"scheme": "zeros"}


def _ones(_leaf: str, _shapes: Shapes) -> Fields:
    return {"scheme": "ones"}


def _no_batches(_leaf: str, _shapes: Shapes) -> Fields:
    """Return the initialization of a counter of batches, which torch keeps in a 64-bit integer."""
    return {"scheme": "zeros", "dtype": "int64"}


def _quarter(_leaf: str, _shapes: Shapes) -> Fields:
    return {"scheme": "constant", "val": 0.25}


def _standard_normal(_leaf: str, _shapes: Shapes) -> Fields:
    return {"scheme": "normal", "mean": 0.0, "std": 1.0}


def _xavier_uniform(_leaf: str, _shapes: Shapes) -> Fields:
    return {"scheme": "xavier_uniform"}


def _xavier_normal(_leaf: str, _shapes: Shapes) -> Fields:
    return {"scheme": "xavier_normal"}


def _kaiming_uniform(_leaf: str, _shapes: Shapes) -> Fields:
    """Return U(-1/sqrt(fan_in), 1/sqrt(fan_in)) as torch writes it; see pytorch#57109 for the slope."""
    return {"scheme": "kaiming_uniform", "a": sqrt(5)}


def _uniform_by_fan_in(leaf: str, shapes: Shapes) -> Fields:
    """Return the law of a bias: uniform with the bound 1/sqrt(fan_in), with the fan-in of the weight."""
    return _uniform(Fans.of(_beside(leaf, "weight", shapes)).fan_in)


def _uniform_by_columns(leaf: str, shapes: Shapes) -> Fields:
    """Return the law of a Bilinear's tensors, by the size of its first input: the weight is ``(out, in1, in2)``."""
    return _uniform(_size(_beside(leaf, "weight", shapes), 1))


def _uniform_by_hidden_size(gates: int) -> Initialization:
    """Return the initialization of a recurrent tensor ``(gates * hidden, ...)``."""
    return lambda leaf, shapes: _uniform(_size(shapes[leaf], 0) // gates)


def _uniform_by_projected_size(leaf: str, shapes: Shapes) -> Fields:
    """Return the law of the projection weight ``(proj, hidden)`` of an LSTM's hidden state."""
    return _uniform(_size(shapes[leaf], 1))


def _uniform(size: int) -> Fields:
    bound = 1.0 / sqrt(size) if size > 0 else 0.0
    return {"scheme": "uniform", "a": -bound, "b": bound}


def _beside(leaf: str, other: str, shapes: Shapes) -> tuple[int, ...]:
    if other in shapes:
        return shapes[other]
    detail = f"the law of a {leaf} depends on the shape of the module's {other}: add the {other}, or give a scheme"
    raise InvalidSpec(
        "scheme", got="reset_parameters", expected=f"another scheme, or the module's {other} as well", detail=detail
    )


def _size(shape: tuple[int, ...], dimension: int) -> int:
    if dimension < len(shape):
        return shape[dimension]
    raise InvalidSpec("shape", got=list(shape), expected=f"{dimension + 1} or more dimensions")


# The table -----------------------------------------------------------------------------------------------------------

_FULLY_CONNECTED = {"weight": _kaiming_uniform, "bias": _uniform_by_fan_in}
_NORM = {"weight": _ones, "bias": _zeros}
_TRACKING_NORM = {**_NORM, "running_mean": _zeros, "running_var": _ones, "num_batches_tracked": _no_batches}


def _cell(gates: int, layer: str = "") -> dict[str, Initialization]:
    return dict.fromkeys(
        (f"{kind}_{side}{layer}" for side in ("ih", "hh") for kind in ("weight", "bias")),
        _uniform_by_hidden_size(gates),
    )


# Every class of torch.nn with tensors, and the initialization of each tensor.
MODULES: dict[str, Mapping[str, Initialization]] = {
    "Linear": _FULLY_CONNECTED,
    "Bilinear": {"weight": _uniform_by_columns, "bias": _uniform_by_columns},
    "Conv1d": _FULLY_CONNECTED,
    "Conv2d": _FULLY_CONNECTED,
    "Conv3d": _FULLY_CONNECTED,
    # torch exchanges the fans of a transposed weight (in, out / groups, *kernel): pytorch#30079.
    "ConvTranspose1d": _FULLY_CONNECTED,
    "ConvTranspose2d": _FULLY_CONNECTED,
    "ConvTranspose3d": _FULLY_CONNECTED,
    "Embedding": {"weight": _standard_normal},
    "EmbeddingBag": {"weight": _standard_normal},
    "LayerNorm": _NORM,
    "GroupNorm": _NORM,
    "RMSNorm": {"weight": _ones},
    "BatchNorm1d": _TRACKING_NORM,
    "BatchNorm2d": _TRACKING_NORM,
    "BatchNorm3d": _TRACKING_NORM,
    "SyncBatchNorm": _TRACKING_NORM,
    "InstanceNorm1d": _TRACKING_NORM,
    "InstanceNorm2d": _TRACKING_NORM,
    "InstanceNorm3d": _TRACKING_NORM,
    "RNN": _cell(1, _FIRST),
    "LSTM": {**_cell(4, _FIRST), f"weight_hr{_FIRST}": _uniform_by_projected_size},
    "GRU": _cell(3, _FIRST),
    "RNNCell": _cell(1),
    "LSTMCell": _cell(4),
    "GRUCell": _cell(3),
    "MultiheadAttention": {
        **dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), _xavier_uniform),
        "in_proj_bias": _zeros,
        **dict.fromkeys(("bias_k", "bias_v"), _xavier_normal),
    },
    # The output projection of a MultiheadAttention, which sets its bias to zero.
    "NonDynamicallyQuantizableLinear": {"weight": _kaiming_uniform, "bias": _zeros},
    "PReLU": {"weight": _quarter},
}

# A lazy module becomes the module without "Lazy" in its name when it gets its shapes.
MODULES |= {
    f"Lazy{name}": MODULES[name]
    for kind, most in (("Linear", 0), ("Conv", 3), ("ConvTranspose", 3), ("BatchNorm", 3), ("InstanceNorm", 3))
    for name in ([f"{kind}{n}d" for n in range(1, most + 1)] or [kind])
}
