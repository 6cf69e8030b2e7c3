"""Checkpoints: the weight files of a manifest in a folder, and their index."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weightwell import sharding
from weightwell.models.plans import Plan, fields_of
from weightwell.spec import DEFAULT_GENERATOR, FileSpec, ManifestSpec, TensorSpec


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weight files by name, and the content of the index; None for a single file."""

    files: Mapping[str, FileSpec]
    index: bytes | None = None

    @classmethod
    def of(cls, spec: TensorSpec | ManifestSpec, plan: Plan, limit: int) -> "Checkpoint":
        """Divide a planned file into files of at most ``limit`` bytes of data.

        A single file has the tied names in its metadata. Several files have none, as ``save_pretrained`` writes them.
        """
        planned = plan.tensors
        names = list(spec.stored if isinstance(spec, ManifestSpec) else planned)
        sizes = [(name, int(planned[name]["nbytes"])) for name in names]
        divided = sharding.divided(sizes, limit)
        files = dict(zip(sharding.file_names(len(divided)), divided, strict=True))
        if len(files) == 1:
            return cls({sharding.SINGLE: _spec(planned, _generator(spec))})
        specs = {
            name: _spec({each: planned[each] for each in tensors}, _generator(spec)) for name, tensors in files.items()
        }
        return cls(specs, sharding.index(files.items(), sum(nbytes for _, nbytes in sizes)))


def _generator(spec: TensorSpec | ManifestSpec) -> str:
    found = spec.document.get("generator") if isinstance(spec, ManifestSpec) else spec.generator
    return found or DEFAULT_GENERATOR


def _spec(planned: Mapping[str, Any], generator: str) -> ManifestSpec:
    """Return the spec of some tensors of a plan.

    Schemes and parameters are those of the plan, and no rules are left: the law of a tensor may depend on others, such
    as that of a bias on the shape of its weight, which may be in another file. The bytes are the same.
    """
    tensors = {name: _given(fields_of(each)) for name, each in planned.items()}
    for name, fields in tensors.items():
        if parts := planned[name].get("parts"):
            fields["parts"] = [_given(fields_of(part)) for part in parts]
    return ManifestSpec.of({"generator": generator, "tensors": tensors})


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
