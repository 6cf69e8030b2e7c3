"""Manifests: the tensors of one file, by name, and the rules for their schemes.

You can read and edit a ``Manifest``. A request sends its ``document``, the JSON of that moment. The server interprets
rules, schemes and presets.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightwell.dtypes import dtype_of
from weightwell.literals import SeedLike
from weightwell.models.modules import Slot, slots_of
from weightwell.models.recipes import Fields, Preset, Recipe, Rules
from weightwell.models.recorded import Model, Recording, built, described, has_own_code, initialized
from weightwell.models.shards import bounds_of_shard
from weightwell.slices import bounds_of, chunk, text_of
from weightwell.spec import parameter_of, plain_of, seed_of, sizes_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from weightwell.recorder.initializers import Initialize
    from weightwell.recorder.numbers import Computation

Dimension = int | Callable[[str], int | None]


@dataclass(repr=False)
class Manifest:
    """The tensors of one file. You can read and edit the fields until you send it.

    ``tensors``: the fields of each tensor, by name. ``shape`` is required. ``dtype`` and ``seed`` replace the defaults
    below. ``slice`` is a slice of the tensor. ``scheme`` comes with its parameters; without it, a rule applies.
    ``module`` is the type of the tensor's module. ``stream`` is the name that the random numbers are derived from, by
    default the tensor's own. ``parts`` is a list of slices of the whole tensor with schemes of their own, such as
    ``[{"slice": "0:1", "scheme": "zeros"}]``. A tied tensor has only ``alias``, the name of the other tensor.
    ``rules``: a tensor without a scheme takes the first rule that matches its name or its module. A rule has ``match``
    (a glob), ``regex`` or ``module``: ``{"match": "*.bias", "scheme": "zeros"}``.
    ``preset``: the name of further rules, after ``rules``: ``"torch"``, or ``{"name": "gpt2", "layers": 12}``.
    ``seed``, ``dtype``: the defaults of all tensors.
    ``generator``: ``"philox"`` or ``"torch"``; the server's default if None.
    ``buffers``: buffers that a model's code computes, by name. They are not sent; ``init_module_`` computes them.

    Raises TypeError or ValueError, with the tensor's name, for invalid fields.
    """

    tensors: dict[str, Fields]
    _: KW_ONLY
    rules: list[Fields] = field(default_factory=list)
    preset: Preset | None = None
    seed: SeedLike = 0
    dtype: object = "float32"
    generator: str | None = None
    buffers: dict[str, "Computation"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vars(self).update(self._plain())

    @classmethod
    def from_module(
        cls,
        module: "nn.Module",
        rules: Rules | None = None,
        *,
        preset: Preset | None = None,
        seed: SeedLike = 0,
        dtype: object = None,
        generator: str | None = None,
        prefix: str = "",
        initialize: "Initialize | None" = None,
    ) -> "Manifest":
        """Return the manifest of a torch module: the names, shapes and dtypes of its tensors, and ``rules`` for them.

        ``rules``: a preset's name; or a list of rules; or a mapping of module types to schemes, such as
        ``{nn.Linear: "xavier_uniform"}``. Types outside the mapping have torch's initialization. ``preset`` comes after
        the rules. Without rules and preset, every tensor has torch's initialization.
        ``dtype``: replaces the dtype of all floating-point tensors.
        ``prefix``: the beginning of all names, such as ``"encoder"`` for ``encoder.0.weight``. Rules match whole names.

        Names are those of the state dict without the names of wrappers (``canonical_name``). Tied parameters are one
        tensor. A DTensor is the shard of this rank. A weight under a weight norm or another parametrization is one
        plain tensor. Buffers of torch's own modules, such as running statistics, are included. Buffers of other modules
        are not: their constructors compute them.

        Raises ValueError if a parameter cannot be drawn, if no tensor uses a mapping of types, and if all weights are
        quantized. Warns if no tensor uses a type of the mapping (``UnusedRuleWarning``), and if weights are left out
        because they are integers or packed (``UnfilledWarning``).
        """
        if rules is None and preset is None and generator != "torch" and (initialize or has_own_code(module)):
            return cls._of(described(*initialized(module, initialize), module, dtype=dtype, prefix=prefix), seed)
        recipe = Recipe.of(rules, preset)
        common, tensors = recipe.entries(module, dtype, prefix)
        own = list(recipe.rules)
        return cls(tensors, rules=own, preset=recipe.preset, seed=seed, dtype=common, generator=generator)

    @classmethod
    def of(
        cls,
        build: Callable[..., "nn.Module"],
        *args: Any,
        rules: Rules | None = None,
        seed: SeedLike = 0,
        dtype: object = None,
        prefix: str = "",
        initialize: "Initialize | None" = None,
    ) -> "Manifest":
        """Return the manifest of the model that ``build(*args)`` makes, as its own code initializes it.

        ``build`` is called on the meta device, where tensors have no memory, and every write of a parameter is
        recorded: fills, draws, copies, slices, scalings. Then the initializers that do not run on the meta device are
        run, which are those of transformers and of torchtitan.
        ``rules``: for tensors of which nothing was recorded.
        ``initialize``: what to run after ``build``, instead: the name of a method of the model, or a function of a
        module, which is applied to all modules.

        Raises ValueError, with the line of code, for tensors that cannot be recorded and have no rule.
        """
        if not callable(build):
            raise TypeError(
                f"expected a function that returns a torch module, got {build!r:.80}; Manifest.from_dict reads a dict"
            )
        recording, model = built(build, args, initialize)
        return cls.from_recording(recording, model, rules, seed=seed, dtype=dtype, prefix=prefix)

    @classmethod
    def from_recording(
        cls,
        recording: Recording,
        model: "nn.Module",
        rules: Rules | None = None,
        *,
        seed: SeedLike = 0,
        dtype: object = None,
        prefix: str = "",
    ) -> "Manifest":
        """Return the manifest of a model that was built in ``with weightwell.recording() as recording``.

        ``rules``: for tensors of which nothing was recorded. ``seed``, ``dtype``, ``prefix``: as in ``from_module``.
        Raises ValueError, with the line of code, for tensors that cannot be recorded and have no rule.
        """
        return cls._of(described(recording, model, model, rules=rules, dtype=dtype, prefix=prefix), seed)

    @classmethod
    def _of(cls, model: Model, seed: SeedLike) -> "Manifest":
        fields = {name: getattr(model, name) for name in ("rules", "preset", "dtype", "buffers")}
        return cls(model.tensors, seed=seed, **fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Read what ``to_json`` wrote, or any body of ``POST /init`` that has ``tensors``."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Manifest":
        """Read a manifest from a dict: the parsed JSON of ``to_json``, or of any body of ``POST /init``."""
        if not isinstance(document, Mapping) or "tensors" not in document:
            raise ValueError(f'a manifest is an object with "tensors", got {document!r:.80}')
        known = [each.name for each in fields(cls) if each.name != "buffers"]
        if unknown := document.keys() - set(known):
            raise ValueError(f"a manifest has the fields {', '.join(known)}; got {', '.join(sorted(unknown))}")
        return cls(**document)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Read a manifest from a JSON file."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    def to_json(self) -> str:
        """Return the manifest as JSON, with one line for each tensor and each rule."""
        members = ",\n".join(f"  {_json(key)}: {_laid_out(value)}" for key, value in self.document().items())
        return f"{{\n{members}\n}}\n"

    def document(self, *, computed: bool = True) -> dict[str, Any]:
        """Return the manifest as a JSON object; raise TypeError or ValueError for invalid fields.

        ``computed``: whether it has the tensors whose numbers the model's code computes.
        """
        plain = self._plain()
        numbers = self.computations()
        plain["tensors"] = {
            name: each
            if name not in numbers
            else {**_without(each, "computed"), **numbers[name].fields(each.get("seed", plain["seed"]))}
            for name, each in plain["tensors"].items()
            if computed or each.get("alias", name) not in numbers
        }
        order = ("seed", "dtype", "generator", "preset", "rules", "tensors")
        return {key: plain[key] for key in order if plain[key] not in (None, [])}

    def for_module(self, module: "nn.Module", *, prefix: str = "") -> "Manifest":
        """Return the part of a manifest that a module holds on this rank: its tensors, and of its DTensors the shards.

        The manifest is of a whole model, and the module may be a stage of its pipeline, or a part of it whose names
        begin with ``prefix``. A tensor that is tied to one on another rank has that one's numbers. Raises ValueError
        for a parameter that the manifest does not have.
        """
        plain = self._plain()
        tensors: dict[str, Fields] = {}
        slots = [slot for slot in slots_of(module, prefix) if slot.persistent and not slot.is_part]
        names = {slot.name for slot in slots}
        for slot in slots:
            fields = plain["tensors"].get(slot.name)
            if fields is not None:
                tensors[slot.name] = _held(slot, _untied(fields, plain["tensors"], names))
            elif slot.is_drawn:
                raise ValueError(
                    f"the manifest does not have {slot.name}; prefix= is the beginning of a module's names"
                )
        return Manifest(**{**plain, "tensors": tensors})

    def computations(self) -> dict[str, "Computation"]:
        """Return the tensors whose numbers the model's code computes, by name."""
        return {name: each["computed"] for name, each in self.tensors.items() if "computed" in each}

    def numbers(self) -> "dict[str, Callable[[], torch.Tensor]]":
        """Return functions that compute the tensors and the buffers that the model's code computes, by name."""
        seeds = {name: each.get("seed", self.seed) for name, each in self.tensors.items()}
        every = self.computations() | self.buffers
        return {name: partial(each.numbers, seed_of(seeds.get(name, self.seed))) for name, each in every.items()}

    def shard(self, rank: int, world_size: int, *, dim: Dimension = 0) -> "Manifest":
        """Return the part of one rank: a slice of every tensor along ``dim``. Fans are still those of the whole tensor.

        The parts are those of ``torch.chunk`` and of a DTensor's ``Shard(dim)``: all have the same length, except that
        the last ones may be shorter or empty. Tensors without the dimension ``dim`` stay whole. To split tensors along
        different dimensions, let ``dim`` be a function of the tensor's name; it returns None for a whole tensor. For a
        mesh of ranks, shard the shards again.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, world_size - 1], got rank {rank} of {world_size}")
        dim_of = dim if callable(dim) else lambda _: dim
        plain = self._plain()
        tensors = {name: _sharded(each, dim_of(name), rank, world_size) for name, each in plain["tensors"].items()}
        return Manifest(**{**plain, "tensors": tensors})

    def __repr__(self) -> str:
        plain = self._plain()
        said = (f"{key}={plain[key]!r}" for key in ("seed", "dtype", "generator", "preset") if plain[key] is not None)
        counts = (f"{len(each)} {noun}" for noun, each in (("tensors", self.tensors), ("rules", self.rules)))
        return f"Manifest({', '.join([*counts, *said])})"

    def __str__(self) -> str:
        return self.to_json()

    def _plain(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "tensors": _tensors(self.tensors),
            "rules": [_rule(index, rule) for index, rule in enumerate(self.rules)],
            "preset": _preset(self.preset),
            "seed": seed_of(self.seed),
            "dtype": dtype_of(self.dtype).name,
            "generator": self.generator,
            "buffers": self.buffers,
        }


def _tensors(tensors: Mapping[str, Any]) -> dict[str, Fields]:
    """Return the tensors as JSON values."""
    if not isinstance(tensors, Mapping):
        raise TypeError(
            f'tensors must be a mapping of names to fields, such as {{"weight": {{"shape": [512, 784]}}}}, '
            f"got {tensors!r:.80}"
        )
    if wrong := [name for name in tensors if not isinstance(name, str)]:
        raise TypeError(f"the name of a tensor must be a string, got {wrong[0]!r}")
    plain = {}
    for name, each in tensors.items():
        try:
            plain[name] = _alias(each, tensors) if _is_alias(each) else _tensor(each)
        except (TypeError, ValueError) as error:
            raise type(error)(f"tensors.{name}: {error}") from None
    return plain


def _tensor(given: Mapping[str, Any]) -> Fields:
    """Return the fields of a tensor as JSON values."""
    if not isinstance(given, Mapping):
        raise TypeError(f'a tensor must be a mapping of fields, such as {{"shape": [512, 784]}}, got {given!r}')
    if "shape" not in given:
        raise ValueError("a tensor needs a shape, such as [512, 784], or alias, the name of the tensor it is tied to")
    shape = sizes_of(given["shape"])
    plain = {key: _read(key, value) for key, value in given.items() if value is not None}
    if "slice" in plain:
        plain["slice"] = text_of(bounds_of(plain["slice"], shape))
    if "parts" in plain:
        plain["parts"] = _parts(plain["parts"], shape)
    return {**plain, "shape": list(shape)}


def _parts(given: Any, shape: tuple[int, ...]) -> list[Fields]:
    """Return the parts of a tensor of this shape as JSON has them."""
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise TypeError(f'parts come in a list, such as [{{"slice": "0:1", "scheme": "zeros"}}], got {given!r:.80}')
    parts = []
    for place, part in enumerate(given):
        if not isinstance(part, Mapping) or "slice" not in part:
            raise ValueError(f'parts.{place} must be like {{"slice": "0:1", "scheme": "zeros"}}, got {part!r:.80}')
        try:
            text = text_of(bounds_of(part["slice"], shape))
            parts.append(
                {**{key: _read(key, value) for key, value in part.items() if value is not None}, "slice": text}
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"parts.{place}: {error}") from None
    return parts


# Conversions of fields to JSON. All other fields are numbers, lists or text.
_READ: dict[str, Callable[[Any], Any]] = {"dtype": lambda dtype: dtype_of(dtype).name, "seed": seed_of}


def _read(key: str, value: Any) -> Any:
    """Return a field of a tensor, a part or a rule as JSON has it."""
    return _READ[key](value) if key in _READ else parameter_of(key, value)


def _untied(fields: Fields, tensors: Mapping[str, Fields], names: Collection[str]) -> Fields:
    """Return the fields of a tensor without an alias of one that is not among the names."""
    target = fields.get("alias")
    if target is None or target in names:
        return fields
    return {"stream": target, **tensors[target]}


def _held(slot: Slot, fields: Fields) -> Fields:
    """Return the fields of what this rank holds of a tensor."""
    bounds = None if "alias" in fields else bounds_of_shard(slot.name, slot.tensor)
    return fields if bounds is None else {**fields, "slice": text_of(bounds)}


def _without(fields: Fields, key: str) -> Fields:
    return {name: value for name, value in fields.items() if name != key}


def _is_alias(given: Any) -> bool:
    """Whether fields are those of an alias."""
    return isinstance(given, Mapping) and "alias" in given


def _alias(given: Mapping[str, Any], tensors: Mapping[str, Any]) -> Fields:
    """Return the fields of an alias; raise ValueError unless its target is a tensor of the manifest."""
    target = given["alias"]
    if len(given) > 1:
        raise ValueError(f"an alias must have no other fields, got {', '.join(given)}; give them to {target}")
    if target not in tensors or _is_alias(tensors[target]):
        raise ValueError(f"alias must be the name of another tensor that is no alias, got {target!r}")
    return {"alias": target}


def _preset(preset: Preset | None) -> Preset | None:
    """Return a preset as a JSON value: its name, or its name and its parameters."""
    if preset is None or isinstance(preset, str):
        return preset
    return {key: plain_of(value) for key, value in dict(preset).items()}


def _rule(index: int, given: Mapping[str, Any]) -> Fields:
    """Return the fields of a rule as JSON values."""
    if not isinstance(given, Mapping):
        raise TypeError(f'rules[{index}] must be like {{"match": "*.bias", "scheme": "zeros"}}, got {given!r}')
    return {key: _read(key, value) for key, value in given.items()}


def _sharded(fields: Fields, dim: int | None, rank: int, world_size: int) -> Fields:
    """Return the fields of one rank's part of a tensor."""
    shape = tuple(fields.get("shape", ()))  # an alias cannot be split
    if dim is None or not -len(shape) <= dim < len(shape):
        return fields
    bounds = list(bounds_of(fields.get("slice", "..."), shape))
    origin, end = bounds[dim]
    start, stop = chunk(end - origin, world_size, rank)
    bounds[dim] = (origin + start, origin + stop)
    return {**fields, "slice": text_of(tuple(bounds))}


def _laid_out(value: Any) -> str:
    """Return a value as JSON, with a line for each tensor or rule in it."""
    if isinstance(value, dict) and any(isinstance(each, dict) for each in value.values()):
        return "{\n" + ",\n".join(f"    {_json(key)}: {_json(each)}" for key, each in value.items()) + "\n  }"
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"    {_json(each)}" for each in value) + "\n  ]"
    return _json(value)


def _json(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
