"""Descriptions: the content of a file, tensor by tensor, as ``/plan`` returns it. Nothing is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Annotated, Any

from pydantic import WithJsonSchema

from weightwell_engine.catalogue import GeneratorEntry
from weightwell_engine.generators import Generator
from weightwell_engine.laws import KINDS, Law
from weightwell_engine.plan import Plan, PlannedTensor
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.spec import Parameter, PartSpec, Spec, TensorSpec, text_of

# The most parts in the phrase for a tensor.
_MOST_PARTS = 3


LawDescription = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "required": ["kind", "words"],
            "properties": {"kind": {"enum": list(KINDS)}, "words": {"type": "string"}},
        }
    ),
]


@dataclass(frozen=True, slots=True)
class PartDescription:
    """A part of a tensor, described as a tensor is.

    ``slice``: in the whole tensor. ``stream``: the name that the random words are derived from, if the spec gives one;
    by default it is that of the part, such as ``weight[0:1,0:784]``.
    """

    slice: str
    scheme: str
    parameters: dict[str, Parameter]
    stream: str | None
    law: LawDescription
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """One tensor of a file.

    ``stream``: the name that the random words are derived from, if that is not the tensor's own.
    ``parts``: the parts, over the law of the tensor itself, which ``law``, ``mean`` and ``std`` describe.
    ``rule``: path of the rule that gave the scheme, such as ``rules.0`` or ``preset.2``.
    ``law``: the distribution: its ``kind``, its parameters, and both as a phrase in ``words``.
    ``mean``, ``std``: of an element, before it is rounded to the dtype.
    ``fan_in``, ``fan_out``: as the scheme counts them; None if they do not follow from the shape.
    ``data_offsets``: the start and end of its bytes, counted from the end of the file's header.
    ``seed``: a string above 2^53 - 1, because JSON numbers are exact only up to there.
    """

    shape: tuple[int, ...]
    slice: str | None
    dtype: str
    seed: int | str
    stream: str | None
    scheme: str
    parameters: dict[str, Parameter]
    parts: tuple[PartDescription, ...] | None
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
    """The content of a file.

    ``unused``: the paths of the rules that no tensor uses. Rules of a preset are not listed.
    ``unused_note``: a sentence about them; None if every rule is used.
    """

    etag: str
    generator: GeneratorEntry
    nbytes: int
    header_nbytes: int
    unused: tuple[int, ...]
    unused_note: str | None
    tensors: dict[str, TensorDescription | AliasDescription]


def describe(spec: Spec, plan: Plan, generator: Generator) -> FileDescription:
    """Return the description of a plan's file."""
    planned = {tensor.order: tensor for tensor in plan.tensors}
    tensors: dict[str, TensorDescription | AliasDescription] = {
        tensor.name: _tensor(tensor, planned[order]) for order, tensor in enumerate(spec.tensors)
    }
    tensors |= {alias: AliasDescription(target) for alias, target in spec.aliases}
    return FileDescription(
        etag=plan.etag,
        generator=GeneratorEntry.of(generator),
        nbytes=plan.nbytes,
        header_nbytes=len(plan.header),
        unused=spec.unused,
        unused_note=_unused(spec.unused),
        tensors=tensors,
    )


def _unused(places: Sequence[int]) -> str | None:
    """Return the sentence about rules that no tensor uses."""
    if not places:
        return None
    listed = ", ".join(f"rules.{place}" for place in places)
    return f"no tensor uses {listed}: no name or module matches, or earlier rules match first"


def _tensor(tensor: TensorSpec, planned: PlannedTensor) -> TensorDescription:
    alike = _alike(tensor, planned.law)
    if tensor.parts:
        alike = {**alike, "law": {**alike["law"], "words": alike["law"]["words"] + _over(tensor, planned)}}
    return TensorDescription(
        **alike,
        slice=tensor.slice_text,
        dtype=tensor.dtype,
        seed=tensor.exact_seed,
        stream=tensor.stream,
        parts=tuple(map(_part, tensor.parts, planned.parts)) or None,
        rule=tensor.rule,
        data_offsets=(planned.offset, planned.offset + planned.nbytes),
        nbytes=planned.nbytes,
    )


def _part(part: PartSpec, planned: PlannedTensor) -> PartDescription:
    alike = _alike(part, planned.law)
    fields = {name: alike[name] for name in ("scheme", "parameters", "law", "mean", "std")}
    return PartDescription(slice=text_of(part.bounds), stream=part.stream, **fields)


def _over(tensor: TensorSpec, planned: PlannedTensor) -> str:
    """Return the words about the parts of a tensor."""
    listed = [
        f"; over it [{text_of(part.bounds)}]: {_alike(part, each.law)['law']['words']}"
        for part, each in zip(tensor.parts[:_MOST_PARTS], planned.parts, strict=False)
    ]
    more = len(tensor.parts) - len(listed)
    return "".join(listed) + (f"; and {more} more parts" if more > 0 else "")


def _alike(spec: TensorSpec | PartSpec, law: Law) -> dict[str, Any]:
    """Return the fields that depend on the scheme, the shape, the parameters and the law alone."""
    parameters = tuple(sorted(spec.parameters.items()))
    if spec.scheme == "values":  # may have many numbers, which a cache would keep
        return _shared.__wrapped__(spec.scheme, spec.shape, parameters, "", law)
    return _shared(spec.scheme, spec.shape, parameters, str(parameters), law)


# Layers of a model are alike. The parameters are there as text as well, because -0.0 equals 0.0 and differs in JSON.
@lru_cache(4096)
def _shared(
    scheme: str, shape: tuple[int, ...], parameters: tuple[tuple[str, Parameter], ...], _parameters_text: str, law: Law
) -> dict[str, Any]:
    given = dict(parameters)
    mean, std = law.mean_std(prod(shape))
    fans = SCHEMES[scheme].fans(shape, given)
    return {
        "shape": shape,
        "scheme": scheme,
        "parameters": given,
        "law": {"kind": law.kind, **_numbers(law), "words": words(scheme, shape, given, law)},
        "mean": mean,
        "std": std,
        "fan_in": fans.given_in,
        "fan_out": fans.given_out,
    }


def _numbers(law: Law) -> dict[str, Any]:
    return {name: getattr(law, name) for name in law.__slots__}


def words(scheme: str, shape: tuple[int, ...], parameters: Mapping[str, Parameter], law: Law) -> str:
    """Return the law of a tensor as a phrase, with the roles of its axes unless they are ``[out, in]``."""
    size = prod(shape)
    if not size:
        return "no elements"
    axes = SCHEMES[scheme].axes(shape, parameters)
    if axes is None or axes.parts == ("out", "in"):
        return law.words(size)
    return f"{law.words(size)}; axes are [{', '.join(axes.parts)}]"
