"""Manifests: from tensors, rules and presets to the spec of each tensor."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs, did_you_mean
from weightwell_engine.modules import own_fields
from weightwell_engine.parsing.fields import DEFAULT_DTYPE, DEFAULT_SEED, read_name
from weightwell_engine.parsing.models import (
    ENTRIES,
    PARTS,
    PRESET_PARAMETERS,
    RESET_PARAMETERS,
    RULES,
    Alias,
    Entry,
    Manifest,
    Single,
    Tensor,
    of_scheme,
    scheme_of,
    validate,
)
from weightwell_engine.parsing.rules import Condition, Matcher
from weightwell_engine.parsing.scales import scale_of
from weightwell_engine.presets import PRESETS
from weightwell_engine.schemes import ALIASES, FIXED
from weightwell_engine.spec import METADATA, Bounds, Parameter, PartSpec, Spec, TensorSpec, name_of_part

# Stop collecting errors here: finding more takes time, and nobody reads them.
_MAX_ERRORS = 1000

Slice = tuple[tuple[int, int | None], ...]  # None is the end of the dimension

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The scheme of a tensor, from the tensor itself or from the rule at the path ``rule``.

    The scheme ``reset_parameters`` is that of the tensor's module. ``dtype`` and ``seed`` are None if not given.
    """

    scheme: str
    parameters: Mapping[str, Parameter]
    dtype: str | None = None
    seed: int | None = None
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A recipe for the tensors that a condition matches."""

    condition: Condition
    recipe: Recipe


def read_single(model: Single) -> Spec:
    """Return the spec of a file of one tensor."""
    tensor = _tensor(model.name, model, Recipe(*scheme_of(model)), DEFAULT_DTYPE, DEFAULT_SEED)
    return Spec(model.generator, (tensor,))


def read_manifest(fields: Mapping[str, Any]) -> Spec:
    """Return the spec of a manifest; raise ``InvalidSpec``, ``InvalidSpecs`` or ``TooLarge`` if it has none."""
    manifest = validate(Manifest, fields)
    errors: list[InvalidSpec] = []
    own = _each("rules", enumerate(manifest.rules), partial(_rule, "rules"), errors)
    entries = _each("tensors", manifest.tensors.items(), _entry, errors)
    _raise_any(errors)
    preset = _each("preset", enumerate(_preset_rules(manifest.preset)), partial(_rule, "preset"), errors)
    tensors = {name: entry for name, entry in entries.items() if isinstance(entry, Entry)}
    aliases = {name: entry.alias for name, entry in entries.items() if isinstance(entry, Alias)}
    recipes = Recipes([*own.values(), *preset.values()], tensors, aliases)

    def settle(name: str, entry: Entry) -> TensorSpec:
        return _tensor(name, entry, recipes.of(name, entry), manifest.dtype, manifest.seed)

    settled = _each("tensors", tensors.items(), settle, errors)
    _each("tensors", aliases.items(), lambda name, target: _check_alias(name, target, tensors, aliases), errors)
    _raise_any(errors)
    unused = tuple(place for place in own if place not in recipes.taken)
    return Spec(manifest.generator, tuple(settled.values()), tuple(sorted(aliases.items())), unused)


def _each(
    prefix: str, items: Iterable[tuple[K, V]], read: Callable[[K, V], R], errors: list[InvalidSpec]
) -> dict[K, R]:
    """Read every item; add its errors, with its path, to ``errors``, and stop when there are too many."""
    made = {}
    for key, value in items:
        try:
            made[key] = read(key, value)
        except (InvalidSpec, InvalidSpecs) as error:
            errors += [each.within(f"{prefix}.{key}") for each in error.errors]
            if len(errors) >= _MAX_ERRORS:
                break
    return made


def _raise_any(errors: Sequence[InvalidSpec]) -> None:
    if errors:
        raise InvalidSpecs(errors)


# Reading entries, rules and presets ----------------------------------------------------------------------------------


def _entry(name: str, fields: object) -> Entry | Alias:
    try:
        read_name(name)
    except ValueError as error:
        raise InvalidSpec("name", got=name, expected=str(error)) from None
    if not isinstance(fields, dict):
        raise InvalidSpec("spec", got=fields, expected="an object with a shape, or an alias")
    if "alias" in fields:
        return validate(Alias, fields)
    return validate(of_scheme(fields, ENTRIES) if "scheme" in fields else Entry, fields)


def _rule(prefix: str, place: int, fields: object) -> Rule:
    if not isinstance(fields, dict):
        raise InvalidSpec("rule", got=fields, expected="an object with a condition and a scheme")
    model = validate(of_scheme(fields, RULES), fields)
    condition = Condition.of(model.match, model.regex, model.module)
    return Rule(condition, Recipe(*scheme_of(model), model.dtype, model.seed, f"{prefix}.{place}"))


def _preset_rules(choice: tuple[str, dict[str, object]] | None) -> Sequence[dict[str, object]]:
    """Return the rules of a preset, in the form that they have in a manifest."""
    if choice is None:
        return ()
    name, parameters = choice
    if name not in PRESETS:
        raise InvalidSpec("preset", got=name, expected=f"one of {', '.join(PRESETS)}", hint=_preset_hint(name))
    try:
        model = validate(PRESET_PARAMETERS[name], parameters)
    except (InvalidSpec, InvalidSpecs) as error:
        raise InvalidSpecs([each.within("preset") for each in error.errors]) from None
    return PRESETS[name].rules(**dict(model))


def _preset_hint(name: str) -> str | None:
    """Return a suggestion for an unknown preset."""
    if name in ALIASES:
        return f'{name} is a scheme: give it by a rule, such as {{"match": "*.weight", "scheme": "{name}"}}'
    return did_you_mean(name, PRESETS)


def _check_alias(name: str, target: str, tensors: Mapping[str, object], aliases: Mapping[str, str]) -> None:
    if name in METADATA:
        raise InvalidSpec("name", got=name, expected=f"none of {', '.join(METADATA)}, which the file's metadata has")
    if target not in tensors:
        what = "another alias" if target in aliases else "not in the manifest"
        detail = f"alias must name a tensor of the manifest that is drawn, got {target[:80]!r}, which is {what}"
        raise InvalidSpec("alias", got=target, expected="the name of a tensor that is drawn", detail=detail)


# Applying rules ------------------------------------------------------------------------------------------------------


class Recipes:
    """Finds the recipe of a tensor: its own, or that of the first rule that matches, or its module's."""

    def __init__(self, rules: Sequence[Rule], tensors: Mapping[str, Entry], aliases: Mapping[str, str]):
        self._rules = rules
        self._tensors = tensors
        self._aliases = aliases
        self._own: dict[str, Recipe] = {}
        self.taken: set[int] = set()
        """The indices of the rules that tensors have used so far."""

    def of(self, name: str, entry: Entry) -> Recipe:
        """Return the recipe of a tensor; raise ``InvalidSpec`` if there is none."""
        recipe = self._by_rule(name, entry) if type(entry) is Entry else Recipe(*scheme_of(entry))
        return self._by_module(name, entry, recipe) if recipe.scheme == RESET_PARAMETERS else recipe

    def _by_rule(self, name: str, entry: Entry) -> Recipe:
        place = self._matcher.first(name, entry.module)
        if place is None:
            leaf = name.rpartition(".")[2][:80]
            example = json.dumps({"match": f"*.{leaf}" if "." in name else leaf, "scheme": "zeros"})
            why = "no rule matches" if self._rules else "there are no rules"
            detail = f"scheme is missing, and {why}: give the tensor a scheme, or add a rule, such as {example}"
            raise InvalidSpec("scheme", got=None, expected="given, or a rule that matches the tensor", detail=detail)
        self.taken.add(place)
        recipe = self._rules[place].recipe
        if recipe.scheme not in FIXED and recipe.scheme != RESET_PARAMETERS:
            self._check_scale(name, entry, place)
        return recipe

    def _check_scale(self, name: str, entry: Entry, place: int) -> None:
        """Refuse a scale that a rule for all tensors would draw at random."""
        siblings = self._siblings[name.rpartition(".")[0]]
        scale = scale_of(name, ndim=len(entry.shape), module=entry.module, siblings=siblings)
        rule = self._rules[place]
        if scale is None or rule.condition.module is not None:
            return
        if all(self._matcher.matches(place, other) for other in scale.others):
            expected = "an explicit rule, or a scheme"
            detail = (
                f"{rule.recipe.rule} would draw {scale.words[:160]} at random ({rule.recipe.scheme}), but it is a rule "
                f"for any tensor: put a rule before it, such as {json.dumps(scale.cure)}, or give the tensor a scheme"
            )
            raise InvalidSpec("scheme", got=rule.recipe.scheme, expected=expected, detail=detail)

    def _by_module(self, name: str, entry: Entry, recipe: Recipe) -> Recipe:
        """Return the recipe of a module for one of its own tensors, which may require a dtype."""
        if entry.module is None:
            detail = f'{RESET_PARAMETERS} needs the module of the tensor: add a module, such as "Linear", or a scheme'
            raise InvalidSpec("module", got=None, expected="the type of the tensor's module", detail=detail)
        prefix, _, leaf = name.rpartition(".")
        own = self._settled(own_fields(entry.module, leaf, self._siblings[prefix]))
        return replace(recipe, scheme=own.scheme, parameters=own.parameters, dtype=own.dtype or recipe.dtype)

    def _settled(self, fields: Mapping[str, object]) -> Recipe:
        """Return the recipe of a module's fields, from a cache: many layers are alike."""
        key = repr(fields)
        if key not in self._own:
            model = validate(of_scheme(fields, RULES), fields)
            self._own[key] = Recipe(*scheme_of(model), model.dtype)
        return self._own[key]

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher([rule.condition for rule in self._rules])

    @cached_property
    def _siblings(self) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
        """The whole shapes of the tensors of every module, by the module's name and their own."""
        shapes = {name: entry.shape for name, entry in self._tensors.items()}
        shapes |= {alias: shapes[target] for alias, target in self._aliases.items() if target in shapes}
        found: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
        for name, shape in shapes.items():
            prefix, _, leaf = name.rpartition(".")
            found[prefix][leaf] = shape
        return found


def _tensor(name: str, model: Tensor, recipe: Recipe, dtype: str, seed: int) -> TensorSpec:
    """Return the spec of a tensor; ``dtype`` and ``seed`` are the defaults."""
    given = model.parts if isinstance(model, Entry) else None
    return TensorSpec(
        name=name,
        shape=model.shape,
        dtype=model.dtype or recipe.dtype or dtype,
        seed=model.seed if model.seed is not None else recipe.seed if recipe.seed is not None else seed,
        scheme=recipe.scheme,
        parameters=recipe.parameters,
        slice=_slice(model.slice, model.shape),
        stream=None if model.stream == name else model.stream,
        parts=_parts(given, model.shape, model.stream or name) if given else (),
        rule=recipe.rule,
    )


def _slice(given: Slice | None, shape: tuple[int, ...]) -> Bounds | None:
    """Return the start and stop of a slice in every dimension, or None for the whole tensor."""
    bounds = None if given is None else _bounds(given, shape)
    return None if bounds == tuple((0, size) for size in shape) else bounds


def _bounds(given: Slice, shape: tuple[int, ...]) -> Bounds:
    """Return the start and stop of a slice in every dimension."""
    if len(given) > len(shape):
        raise InvalidSpec("slice", got=len(given), expected=f"at most {len(shape)} dimensions, as the shape has")
    padded = given + ((0, None),) * (len(shape) - len(given))
    return tuple((start, size if stop is None else stop) for (start, stop), size in zip(padded, shape, strict=True))


# Reading parts -------------------------------------------------------------------------------------------------------


def _parts(given: Sequence[Any], shape: tuple[int, ...], stream: str) -> tuple[PartSpec, ...]:
    """Return the parts of a tensor whose random words are derived from the name ``stream``."""
    errors: list[InvalidSpec] = []
    parts = _each("parts", enumerate(given), lambda _, fields: _part(fields, shape, stream), errors)
    _raise_any(errors)
    return tuple(parts.values())


def _part(fields: object, shape: tuple[int, ...], stream: str) -> PartSpec:
    if not isinstance(fields, dict):
        raise InvalidSpec("part", got=fields, expected='an object such as {"slice": "0:1", "scheme": "zeros"}')
    if fields.get("scheme") == RESET_PARAMETERS:
        expected, hint = "the name of a scheme; /schemes lists them", "give the part the scheme that its module has"
        raise InvalidSpec("scheme", got=RESET_PARAMETERS, expected=expected, hint=hint)
    model = validate(of_scheme(fields, PARTS), fields)
    bounds = _bounds(model.slice, shape)
    for dimension, ((start, stop), size) in enumerate(zip(bounds, shape, strict=True)):
        if not start <= stop <= size or (start == stop and 0 not in shape):
            signs = "<=" if 0 in shape else "<"
            expected = f"start {signs} stop <= {size} in dimension {dimension}"
            raise InvalidSpec("slice", got=f"{start}:{stop}", expected=expected, hint=_SLICE_OF_PART)
    own = None if model.stream == name_of_part(stream, bounds) else model.stream
    return PartSpec(bounds, *scheme_of(model), own)


_SLICE_OF_PART = "the slice of a part is one of the whole tensor, such as 0:1 for the first row"
