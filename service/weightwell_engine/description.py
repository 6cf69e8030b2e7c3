"""Descriptions: what a file holds, tensor by tensor, without drawing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

from pydantic import WithJsonSchema

from weightwell_engine.catalogue import GeneratorEntry
from weightwell_engine.generators import Generator
from weightwell_engine.laws import KINDS, Law
from weightwell_engine.plan import Plan, PlannedTensor
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.spec import Parameter, Spec, TensorSpec

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
    """What a file holds.

    ``unused``: the places of the rules that no tensor uses; of a preset's rules nothing is said.
    ``unused_note``: the same in words; None if every rule is taken.
    """

    etag: str
    generator: GeneratorEntry
    nbytes: int
    header_nbytes: int
    unused: tuple[int, ...]
    unused_note: str | None
    tensors: dict[str, TensorDescription | AliasDescription]


def describe(spec: Spec, plan: Plan, generator: Generator) -> FileDescription:
    """Return what a plan's file holds."""
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
    """Return what to say of rules that no tensor uses."""
    if not places:
        return None
    listed = ", ".join(f"rules.{place}" for place in places)
    return f"no tensor uses {listed}: no name or module matches, or rules before take all that do"


def _tensor(tensor: TensorSpec, planned: PlannedTensor) -> TensorDescription:
    law = planned.law
    mean, std = law.mean_std(prod(tensor.shape))
    fans = SCHEMES[tensor.scheme].fans(tensor.shape, tensor.parameters)
    return TensorDescription(
        shape=tensor.shape,
        slice=tensor.slice_text,
        dtype=tensor.dtype,
        seed=tensor.exact_seed,
        scheme=tensor.scheme,
        parameters=dict(sorted(tensor.parameters.items())),
        rule=tensor.rule,
        law={"kind": law.kind, **_numbers(law), "words": words(tensor, law)},
        mean=mean,
        std=std,
        fan_in=fans.given_in,
        fan_out=fans.given_out,
        data_offsets=(planned.offset, planned.offset + planned.nbytes),
        nbytes=planned.nbytes,
    )


def _numbers(law: Law) -> dict[str, Any]:
    return {name: getattr(law, name) for name in law.__slots__}


def words(tensor: TensorSpec, law: Law) -> str:
    """Return the law of a tensor as a phrase, with what its axes are taken for, unless they are ``[out, in]``."""
    size = prod(tensor.shape)
    if not size:
        return "no elements"
    axes = SCHEMES[tensor.scheme].axes(tensor.shape, tensor.parameters)
    if axes is None or axes.parts == ("out", "in"):
        return law.words(size)
    return f"{law.words(size)}; axes are [{', '.join(axes.parts)}]"
