"""Recipes: how the tensors of a torch module are to be drawn, in every form that a caller may say it in."""

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
Types = Mapping[Any, Any]  # of types of modules to schemes; a more exact type would refuse {nn.Linear: "ones"}
Rules = Preset | Types | Sequence[Mapping[str, Any]]

_IGNORED = "weightwell.UnusedRuleWarning"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules of a manifest, its preset, and schemes by type of module, which are each tensor's own."""

    rules: Sequence[Fields] = ()
    preset: Preset | None = "torch"
    types: Types = field(default_factory=dict)

    @classmethod
    def of(cls, rules: Rules | None, preset: Preset | None) -> "Recipe":
        """Read what ``Manifest.from_module`` takes; raise ValueError where it is in no known form."""
        if isinstance(rules, str) and rules in get_args(SchemeName):
            raise ValueError(
                f"expected the name of a preset, got the scheme {rules!r}: say of what, such as "
                f"{{torch.nn.Linear: {rules!r}}} or [{{'match': '*.weight', 'scheme': {rules!r}}}]"
            )
        if isinstance(rules, str) or (isinstance(rules, Mapping) and "name" in rules):
            if preset is not None:
                raise ValueError(f"there can be one preset, got {rules!r} and {preset!r}; write rules as a list")
            return cls(preset=rules)
        if isinstance(rules, Mapping):
            _check_types(rules)
            return cls(preset=preset or "torch", types=rules)
        return cls([dict(rule) for rule in rules or ()], preset or (None if rules else "torch"))

    def entries(self, module: "nn.Module", dtype: object, prefix: str = "") -> tuple[DType, dict[str, Fields]]:
        """Return the dtype and the tensors of a module's manifest; with ``dtype`` all floating-point tensors have it.

        Raises ValueError for a tensor that cannot be drawn, for a mapping of types that does not fit the module, and
        for a module whose tensors would all be left as they are. Warns of those that are, and of types that no module
        has.
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
            tensors[slot.name] = {"alias": first[slot.name]} if tied else _described(slot) | self._own_scheme(slot)
            if not tied and own[slot.name] != common:
                tensors[slot.name]["dtype"] = own[slot.name].name
        return common, tensors

    def _own_scheme(self, slot: Slot) -> Fields:
        """Return the scheme that a tensor has by its type, or because it can have no other; empty where it has none."""
        scheme = self._scheme(slot)
        if not scheme and not self.rules and self.preset == "torch" and _is_orthogonal(slot):
            return {"scheme": "orthogonal"}
        return scheme

    def _scheme(self, slot: Slot) -> Fields:
        """Return the scheme that a tensor has by the type of its module; empty where it has none."""
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
        """Return the nearest type that a module is of and of which something is said."""
        return next((each for each in type(module).__mro__ if each in self.types), None)

    def _check_types(self, slots: Sequence[Slot]) -> None:
        """Raise ValueError where no tensor takes a scheme from any type; warn of single types that nothing takes."""
        taken = {self._type_of(slot.owner) for slot in slots if self._scheme(slot)}
        if not (unused := [each.__name__ for each in self.types if each not in taken]):
            return
        found = ", ".join(sorted({type_name(slot.owner) for slot in slots})) or "none"
        text = f"no tensor takes the scheme of {', '.join(unused)}; the types of modules with tensors are {found}"
        if not taken:
            raise ValueError(f"{text}. A subclass takes the scheme of its nearest type; rules by name come in a list")
        caution(UnusedRuleWarning, f"{text}. Where one mapping is for several models, ignore {_IGNORED}")

    def _check_leaves(self, module: "nn.Module") -> None:
        """Raise ValueError for a tensor's name that no module of its type has."""
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
            "a mapping is of module types, such as {nn.Linear: 'xavier_uniform'}, or a preset with its name, such as "
            f"{{'name': 'gpt2', 'layers': 12}}; got the key {wrong[0]!r}. Rules come in a list"
        )


def _is_scheme(said: Any) -> bool:
    """Whether what is said of a type is the scheme of its weights, and not one for each of its tensors."""
    return isinstance(said, str) or "scheme" in said


def _described(slot: Slot) -> Fields:
    """Return what a server has to know of a tensor beside its dtype and its scheme."""
    owner = slot.owner
    fields: Fields = {"shape": list(slot.tensor.shape), "module": type_name(owner)}
    bounds = bounds_of_shard(slot.name, slot.tensor)
    return fields if bounds is None else {**fields, "slice": text_of(bounds)}


def _check_unfilled(names: list[str], *, nothing: bool) -> None:
    """Warn of weights that are left as they are; raise ValueError where nothing else would be drawn."""
    if not names:
        return
    text = f"weights that are quantized, or integers, are left as they are: {named(names)}"
    cure = "fill the module before it is quantized"
    if nothing:
        raise ValueError(f"nothing of the module can be drawn: {text}; {cure}")
    caution(UnfilledWarning, f"{text}. If they are to be drawn, {cure}; if not, ignore weightwell.UnfilledWarning")


def _check_scale(slot: Slot, scheme: str) -> None:
    """Refuse what a scheme for any module would draw at random of a norm, as the server does for rules by name."""
    kind = type_name(slot.owner)
    if "norm" in kind.lower() and (torch_type(slot.owner) or slot.tensor.ndim <= 1):
        raise ValueError(
            f"{slot.name}: {scheme} for any module would draw the {slot.leaf} of a {kind} at random; add the type to "
            f"the mapping, such as {{nn.{kind}: 'ones'}}"
        )


def _is_orthogonal(slot: Slot) -> bool:
    """Whether a tensor can be nothing but an orthogonal matrix; of others the law that torch has is no such matrix."""
    return isinstance(slot.source, Parametrization) and slot.source.is_orthogonal and slot.tensor.ndim == 2


def _most_common(dtypes: Sequence[DType]) -> DType:
    """Return the dtype that there are most of; the default where there is none."""
    counts = Counter(dtypes)
    return max(counts, key=counts.__getitem__, default=DTYPES["float32"])
