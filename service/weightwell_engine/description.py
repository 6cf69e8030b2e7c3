"""Descriptions: what a file holds, tensor by tensor, without drawing it."""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

from pydantic import WithJsonSchema

from weightwell_engine.catalogue import GeneratorEntry
from weightwell_engine.fans import Fans
from weightwell_engine.generators import Generator
from weightwell_engine.laws import Constant, Lattice, Law, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform
from weightwell_engine.moments import mean_std
from weightwell_engine.plan import Plan, PlannedTensor
from weightwell_engine.schemes import FAN_OPTIONS, SCHEMES
from weightwell_engine.spec import Parameter, Spec, TensorSpec

KINDS: dict[type[Law], str] = {
    Constant: "constant",
    Uniform: "uniform",
    Normal: "normal",
    TruncatedNormal: "truncated_normal",
    Lattice: "lattice",
    Sparse: "sparse",
    Orthogonal: "orthogonal",
}


LawDescription = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "required": ["kind", "words"],
            "properties": {"kind": {"enum": list(KINDS.values())}, "words": {"type": "string"}},
        }
    ),
]


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """One tensor of a file.

    ``rule``: path of the rule that the scheme comes from, such as ``rules.0`` or ``preset.2``.
    ``law``: its ``kind``, its numbers, and ``words`` for both.
    ``mean``, ``std``: of an element, before it is rounded to the dtype.
    ``fan_in``, ``fan_out``: as the scheme counts them; None where the shape does not tell.
    ``data_offsets``: where its bytes begin and end, counted from the end of the file's header.
    ``seed``: text above 2^53 - 1, so that JSON keeps it.
    """

    shape: tuple[int, ...]
    slice: str | None
    dtype: str
    seed: int | str
    scheme: str
    parameters: dict[str, Parameter]
    rule: str | None
    law: LawDescription
    mean: float
    std: float
    fan_in: int | None
    fan_out: int | None
    data_offsets: tuple[int, int]
    nbytes: int


@dataclass(frozen=True, slots=True)
class AliasDescription:
    """A further name of a tensor."""

    alias: str


@dataclass(frozen=True, slots=True)
class FileDescription:
    """What a file holds. ``unused``: the places of the rules that match no tensor."""

    etag: str
    generator: GeneratorEntry
    nbytes: int
    header_nbytes: int
    unused: tuple[int, ...]
    tensors: dict[str, TensorDescription | AliasDescription]


def describe(spec: Spec, plan: Plan, generator: Generator) -> FileDescription:
    """Return what a plan's file holds."""
    planned = {tensor.order: tensor for tensor in plan.tensors}
    tensors: dict[str, TensorDescription | AliasDescription] = {
        tensor.name: _tensor(tensor, planned[order]) for order, tensor in enumerate(spec.tensors)
    }
    tensors |= {alias: AliasDescription(target) for alias, target in spec.aliases}
    return FileDescription(plan.etag, GeneratorEntry.of(generator), plan.nbytes, len(plan.header), spec.unused, tensors)


def _tensor(tensor: TensorSpec, planned: PlannedTensor) -> TensorDescription:
    size = prod(tensor.shape)
    mean, std = mean_std(planned.law, size)
    fans = _fans(tensor)
    return TensorDescription(
        shape=tensor.shape,
        slice=tensor.slice_text,
        dtype=tensor.dtype,
        seed=tensor.exact_seed,
        scheme=tensor.scheme,
        parameters=dict(sorted(tensor.parameters.items())),
        rule=tensor.rule,
        law={"kind": KINDS[type(planned.law)], **_numbers(planned.law), "words": words(planned.law, size)},
        mean=mean,
        std=std,
        fan_in=fans.given_in,
        fan_out=fans.given_out,
        data_offsets=(planned.offset, planned.offset + planned.nbytes),
        nbytes=planned.nbytes,
    )


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
