"""Descriptions: what a file holds, tensor by tensor, without drawing it."""

from math import prod
from typing import Any

from weightwell_engine.fans import Fans
from weightwell_engine.generators import Generator
from weightwell_engine.laws import Constant, Lattice, Law, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform
from weightwell_engine.moments import mean_std
from weightwell_engine.plan import Plan, PlannedTensor
from weightwell_engine.schemes import FAN_OPTIONS, SCHEMES
from weightwell_engine.spec import Spec, TensorSpec

KINDS: dict[type[Law], str] = {
    Constant: "constant",
    Uniform: "uniform",
    Normal: "normal",
    TruncatedNormal: "truncated_normal",
    Lattice: "lattice",
    Sparse: "sparse",
    Orthogonal: "orthogonal",
}


def describe(spec: Spec, plan: Plan, generator: Generator) -> dict[str, Any]:
    """Return what a plan's file holds, as JSON has it."""
    planned = {tensor.order: tensor for tensor in plan.tensors}
    return {
        "etag": plan.etag,
        "generator": {"name": generator.name, "identity": generator.identity, "portable": generator.portable},
        "nbytes": plan.nbytes,
        "header_nbytes": len(plan.header),
        "unused": list(spec.unused),
        "tensors": {tensor.name: _tensor(tensor, planned[order]) for order, tensor in enumerate(spec.tensors)}
        | {alias: {"alias": target} for alias, target in spec.aliases},
    }


def _tensor(tensor: TensorSpec, planned: PlannedTensor) -> dict[str, Any]:
    fields = tensor.canonical()
    size = prod(tensor.shape)
    mean, std = mean_std(planned.law, size)
    fans = _fans(tensor)
    return {
        "shape": fields["shape"],
        "slice": fields.get("slice"),
        "dtype": tensor.dtype,
        "seed": fields["seed"],
        "scheme": tensor.scheme,
        "parameters": dict(sorted(tensor.parameters.items())),
        "rule": tensor.rule,
        "law": {"kind": KINDS[type(planned.law)], **_numbers(planned.law), "words": words(planned.law, size)},
        "mean": mean,
        "std": std,
        "fan_in": fans.given_in,
        "fan_out": fans.given_out,
        "data_offsets": [planned.offset, planned.offset + planned.nbytes],
        "nbytes": planned.nbytes,
    }


def _numbers(law: Law) -> dict[str, Any]:
    return {name: getattr(law, name) for name in law.__slots__}


def _fans(tensor: TensorSpec) -> Fans:
    """Return the fans that a scheme works with; of other schemes, those that the shape says."""
    options: dict[str, Any] = {}
    if SCHEMES[tensor.scheme].needs == "fans" and 0 not in tensor.shape:
        options = {name: tensor.parameters[name] for name in FAN_OPTIONS if name in tensor.parameters}
    return Fans.of(tensor.shape, **options)


def words(law: Law, size: int) -> str:
    """Return a law, of a tensor of so many elements, as somebody would say it; numbers have three digits."""
    if not size:
        return "no elements"
    match law:
        case Constant(value):
            return f"{value:.3g} everywhere"
        case Uniform(low, high):
            return f"uniform in [{low:.3g}, {high:.3g}]"
        case Normal(mean, std):
            return f"normal with mean {mean:.3g} and std {std:.3g}"
        case TruncatedNormal(mean, std, low, high):
            return f"normal with mean {mean:.3g} and std {std:.3g}, truncated to [{low:.3g}, {high:.3g}]"
        case Lattice(value, _, _, counts):
            return f"{value:.3g} at {prod(counts)} of {size} places, 0 at the others"
        case Sparse(rows, _, zeros, std):
            return f"normal with std {std:.3g}, but {zeros} of the {rows} elements of every column are 0"
        case Orthogonal(rows, cols, gain, taps):
            place = " in the middle of the kernel" if taps > 1 else ""
            return f"{gain:.3g} times a random orthogonal matrix of {rows} x {cols}{place}"
