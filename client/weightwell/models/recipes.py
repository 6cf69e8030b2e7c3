"""Recipes: the schemes for the tensors of a torch module, in every form of the argument ``rules``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from weightwell.cautions import UnfilledWarning, UnusedRuleWarning, caution
from weightwell.dtypes import DTYPES, DType, dtype_of
from weightwell.literals import PresetName, SchemeName
from weightwell.models.modules import Slot, slots_of, tied_to, torch_type, type_name
from weightwell.models.reparametrized import Parametrization
from weightwell.models.shards import bounds_of_shard
from weightwell.models.unfilled import named, unfilled
from weightwell.slices import text_of
from weightwell.streams import FIXED

if TYPE_CHECKING:
    from torch import nn

Fields = dict[str, Any]
Preset = PresetName | str | Mapping[str, Any]
Types = Mapping[Any, Any]  # maps module types to schemes; a more exact type would refuse {nn.Linear: "ones"}
Rules = Preset | Types | Sequence[Mapping[str, Any]]

_IGNORED = "weightwell.UnusedRuleWarning"


@dataclass(frozen=True, slots=True)
class Recipe:
    """The rules and the preset of a manifest, and the schemes for types of modules."""

    rules: Sequence[Fields] = ()
    preset: Preset | None = "torch"
    types: Types = field(default_factory=dict)

    @classmethod
    def of(cls, rules: Rules | None, preset: Preset | None) -> "Recipe":
        """Read the arguments of ``Manifest.from_module``; raise ValueError for an unknown form."""
        if isinstance(rules, str) and rules in get_args(SchemeName):
            raise ValueError(
                f"expected the name of a preset, got the scheme {rules!r}: give the tensors that it is for, such as "
                f"{{torch.nn.Linear: {rules!r}}} or [{{'match': '*.weight', 'scheme': {rules!r}}}]"
            )
        if isinstance(rules, str) or (isinstance(rules, Mapping) and "name" in rules):
            if preset is not None:
                raise ValueError(f"expected one preset, got {rules!r} and {preset!r}; write rules as a list")
            return cls(preset=rules)
        if isinstance(rules, Mapping):
            _check_types(rules)
            return cls(preset=preset or "torch", types=rules)
        return cls([dict(rule) for rule in rules or ()], preset or (None if rules else "torch"))

    def entries(
        self, module: "nn.Module", dtype: object, prefix: str = "", *, recorded: Mapping[str, Fields] | None = None
    ) -> tuple[DType, dict[str, Fields]]:
        """Return the default dtype and the tensors of a module's manifest; ``dtype`` is for all floating-point tensors.

        ``recorded``: the schemes of tensors, by name, instead of those of types.

        Raises ValueError for a tensor that cannot be drawn, for a mapping of types that does not fit the module, and
        for a module without any tensor to draw. Warns of weights that are not drawn, and of types that are not used.
        """
        self._check_leaves(module)
        every = slots_of(module, prefix)
        slots = [slot for slot in every if slot.is_drawn]
        _check_unfilled(unfilled(module, every, prefix), nothing=not slots)
        own = {slot.name: slot.dtype for slot in slots}
        if dtype is not None:
            own |= {slot.name: dtype_of(dtype) for slot in slots if slot.tensor.is_floating_point()}
        common = _most_common([each for each in own.values() if each.code != "I64"])
        first = tied_to(slots)
        self._check_types([slot for slot in slots if first[slot.name] == slot.name])
        tensors: dict[str, Fields] = {}
        for slot in slots:
            tied = first[slot.name] != slot.name
            scheme = self._own_scheme(slot) if recorded is None else recorded.get(slot.name, {})
            tensors[slot.name] = {"alias": first[slot.name]} if tied else _described(slot) | scheme
            if not tied and own[slot.name] != common:
                tensors[slot.name]["dtype"] = own[slot.name].name
        return common, tensors

    def _own_scheme(self, slot: Slot) -> Fields:
        """Return a tensor's scheme by its module's type, or ``orthogonal`` if nothing else is possible; else empty."""
        scheme = self._scheme(slot)
        if not scheme and not self.rules and self.preset == "torch" and _is_orthogonal(slot):
            return {"scheme": "orthogonal"}
        return scheme

    def _scheme(self, slot: Slot) -> Fields:
        """Return a tensor's scheme by the type of its module; empty if it has none."""
        kind = self._type_of(slot.owner)
        said = self.types.get(kind, {})
        if _is_scheme(said):
            said = {slot.leaf: said} if "weight" in slot.leaf else {}
        scheme = said.get(slot.leaf, {})
        scheme = {"scheme": scheme} if isinstance(scheme, str) else dict(scheme)
        if kind is not None and kind.__name__ == "Module" and scheme.get("scheme") not in {None, *FIXED}:
            _check_scale(slot, scheme["scheme"])
        return scheme

    def _type_of(self, module: "nn.Module") -> type | None:
        """Return the nearest type of a module that is in the mapping, or None."""
        return next((each for each in type(module).__mro__ if each in self.types), None)

    def _check_types(self, slots: Sequence[Slot]) -> None:
        """Raise ValueError if no tensor uses the mapping; warn of single types that no tensor uses."""
        taken = {self._type_of(slot.owner) for slot in slots if self._scheme(slot)}
        if not (unused := [each.__name__ for each in self.types if each not in taken]):
            return
        found = ", ".join(sorted({type_name(slot.owner) for slot in slots})) or "none"
        text = f"no tensor uses the scheme of {', '.join(unused)}; the types of modules with tensors are {found}"
        if not taken:
            raise ValueError(f"{text}. A subclass uses the scheme of its nearest type; give rules by name as a list")
        caution(UnusedRuleWarning, f"{text}. If one mapping serves several models, ignore {_IGNORED}")

    def _check_leaves(self, module: "nn.Module") -> None:
        """Raise ValueError for a tensor name that no module of its type has."""
        for kind, said in self.types.items():
            owners = [each for each in module.modules() if self._type_of(each) is kind]
            for leaf in () if _is_scheme(said) else said:
                if owners and not any(hasattr(owner, leaf) for owner in owners):
                    raise ValueError(
                        f"{type(owners[0]).__name__} has no tensor named {leaf!r}; a scheme with parameters is written "
                        "{'scheme': 'normal', 'std': 0.02}"
                    )


def _check_types(types: Types) -> None:
    """Raise ValueError for a mapping of anything but types."""
    if wrong := [key for key in types if not isinstance(key, type)]:
        raise ValueError(
            "a mapping has module types as keys, such as {nn.Linear: 'xavier_uniform'}, or is a preset with its name, "
            f"such as {{'name': 'gpt2', 'layers': 12}}; got the key {wrong[0]!r}. Give rules as a list"
        )


def _is_scheme(said: Any) -> bool:
    """Whether a value of the mapping is one scheme for the weights, and not a mapping of tensor names to schemes."""
    return isinstance(said, str) or "scheme" in said


def _described(slot: Slot) -> Fields:
    """Return the fields of a tensor other than its dtype and its scheme."""
    owner = slot.owner
    fields: Fields = {"shape": list(slot.dtype.elements(slot.tensor.shape)), "module": type_name(owner)}
    bounds = slot.dtype.elements_of(bounds_of_shard(slot.name, slot.tensor))
    return fields if bounds is None else {**fields, "slice": text_of(bounds)}


def _check_unfilled(names: list[str], *, nothing: bool) -> None:
    """Warn of weights that are not drawn; raise ValueError if the module has no other tensors."""
    if not names:
        return
    text = f"quantized or integer weights are not drawn: {named(names)}"
    cure = "fill the module before it is quantized"
    if nothing:
        raise ValueError(f"the module has no tensor that can be drawn: {text}; {cure}")
    caution(UnfilledWarning, f"{text}. To draw them, {cure}; otherwise ignore weightwell.UnfilledWarning")


def _check_scale(slot: Slot, scheme: str) -> None:
    """Raise ValueError if a scheme for any module would draw a norm's tensor at random. The server checks rules too."""
    kind = type_name(slot.owner)
    if "norm" in kind.lower() and (torch_type(slot.owner) or slot.tensor.ndim <= 1):
        raise ValueError(
            f"{slot.name}: {scheme} for nn.Module would draw the {slot.leaf} of a {kind} at random; add its type to "
            f"the mapping, such as {{nn.{kind}: 'ones'}}"
        )


def _is_orthogonal(slot: Slot) -> bool:
    """Whether a parametrization allows only orthogonal matrices, which torch's default scheme does not draw."""
    return isinstance(slot.source, Parametrization) and slot.source.is_orthogonal and slot.tensor.ndim == 2


def _most_common(dtypes: Sequence[DType]) -> DType:
    """Return the most frequent dtype, or the default if there are no tensors."""
    counts = Counter(dtypes)
    return max(counts, key=counts.__getitem__, default=DTYPES["float32"])
