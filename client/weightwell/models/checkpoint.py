"""Checkpoints: the weight files of a manifest in a folder, their index, and the configuration of the model."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightwell import sharding
from weightwell.models.plans import Plan, fields_of
from weightwell.spec import DEFAULT_DTYPE, DEFAULT_GENERATOR, FileSpec, ManifestSpec, TensorSpec

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weight files by name; the content of the index, None for a single file; and that of ``config.json``."""

    files: Mapping[str, FileSpec]
    index: bytes | None = None
    config: bytes | None = None

    @classmethod
    def of(cls, spec: TensorSpec | ManifestSpec, plan: Plan, limit: int, config: Config | None = None) -> "Checkpoint":
        """Divide a planned file into files of at most ``limit`` bytes of data.

        A single file has the tied names in its metadata. Several files have none, as ``save_pretrained`` writes them.
        """
        planned = plan.tensors
        content = None if config is None else _content(config, _dtype(spec))
        names = list(spec.stored if isinstance(spec, ManifestSpec) else planned)
        sizes = [(name, int(planned[name]["nbytes"])) for name in names]
        divided = sharding.divided(sizes, limit)
        files = dict(zip(sharding.file_names(len(divided)), divided, strict=True))
        if len(files) == 1:
            return cls({sharding.SINGLE: _spec(planned, _generator(spec))}, config=content)
        specs = {
            name: _spec({each: planned[each] for each in tensors}, _generator(spec)) for name, tensors in files.items()
        }
        return cls(specs, sharding.index(files.items(), sum(nbytes for _, nbytes in sizes)), content)

    def chosen(self, shard: str | None) -> Mapping[str, FileSpec]:
        """Return the weight file of a name, or all for None. Raises ValueError for a name that is not there."""
        if shard is None:
            return self.files
        if shard not in self.files:
            names = list(self.files)
            raise ValueError(f"shard must be a name from {names[0]} to {names[-1]}; got {shard!r:.80}")
        return {shard: self.files[shard]}


def config_of(given: object) -> Config | None:
    """Return the fields of ``config=`` of ``Client.save``. Raises OSError, TypeError or ValueError."""
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        given = json.loads(Path(given).read_text(encoding="utf-8"))
    elif hasattr(given, "to_json_string"):  # of transformers
        given = json.loads(given.to_json_string())
    if not isinstance(given, Mapping):
        raise TypeError(
            f"config must be a dict, a configuration of transformers, or the path of a JSON object; got {given!r:.80}"
        )
    return given


def _content(config: Config, dtype: str) -> bytes:
    """Return the content of ``config.json``, which says the dtype of the weights, as ``save_pretrained`` does."""
    old = {"torch_dtype": dtype} if "torch_dtype" in config else {}  # of transformers before version 5
    return (json.dumps({**config, "dtype": dtype, **old}, indent=2, ensure_ascii=False) + "\n").encode()


def _dtype(spec: TensorSpec | ManifestSpec) -> str:
    return spec.dtype.name if isinstance(spec, TensorSpec) else str(spec.document.get("dtype", DEFAULT_DTYPE))


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
