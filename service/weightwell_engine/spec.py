"""Specs: complete requests, checked field by field, before they are planned."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

Parameter = float | int | str | bool | tuple[int, ...] | tuple[float, ...]

# The generators that a spec can name, the default first.
GENERATORS = ("philox", "torch")

# Keys of the metadata of every file. Aliases are keys there too, so an alias must not have one of these names.
METADATA = ("format", "weightwell", "generator", "spec")

# The largest integer that every JSON reader keeps exactly (RFC 8259, section 6); larger ones are written as strings.
_EXACT_IN_JSON = 2**53 - 1

# The most parts of a tensor.
MAX_PARTS = 1024

_TO_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


Bounds = tuple[tuple[int, int], ...]
"""``(start, stop)`` in every dimension of a tensor."""


@dataclass(frozen=True, slots=True)
class PartSpec:
    """One part of a tensor: the rectangle ``bounds`` of the whole tensor, with a scheme of its own.

    ``stream`` is the name that its random words are derived from, or None for the name of the part (``name_of_part``).
    """

    bounds: Bounds
    scheme: str
    parameters: Mapping[str, Parameter]
    stream: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part itself."""
        return tuple(stop - start for start, stop in self.bounds)

    def canonical(self) -> dict[str, object]:
        """Return the fields as a JSON object, as ``TensorSpec.canonical`` does."""
        stream = {} if self.stream is None else {"stream": self.stream}
        return {
            "slice": text_of(self.bounds),
            "scheme": self.scheme,
            **dict(sorted(self.parameters.items())),
            **stream,
        }


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: the ``shape`` of the whole tensor, the canonical name of the ``scheme``, and its ``parameters``.

    ``slice`` holds ``(start, stop)`` for every dimension, or is None for the whole tensor. ``seed`` is 0 ... 2^64-1.
    ``stream`` is the name that the random words are derived from, or None for the tensor's own name. ``parts`` replace
    elements of the whole tensor, each those of the parts before it.
    ``rule`` is the path of the rule that gave the scheme, such as ``rules.0``. It does not change the file, so it is
    not compared.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    seed: int
    scheme: str
    parameters: Mapping[str, Parameter]
    slice: Bounds | None = None
    stream: str | None = None
    parts: tuple[PartSpec, ...] = ()
    rule: str | None = field(default=None, compare=False)

    def canonical(self) -> dict[str, object]:
        """Return the fields as a JSON object. Defaults are spelled out, except those of ``omitted`` parameters."""
        fields: dict[str, object] = {
            "shape": list(self.shape),
            "scheme": self.scheme,
            **dict(sorted(self.parameters.items())),
            "dtype": self.dtype,
            "seed": self.exact_seed,
        }
        if self.stream is not None:
            fields["stream"] = self.stream
        if self.slice is not None:
            fields["slice"] = self.slice_text
        if self.parts:
            fields["parts"] = [part.canonical() for part in self.parts]
        return fields

    @property
    def stream_name(self) -> str:
        """The name that the random words are derived from."""
        return self.name if self.stream is None else self.stream

    @property
    def exact_seed(self) -> int | str:
        """The seed in JSON: a string above 2^53 - 1, because JSON numbers are exact only up to there."""
        return self.seed if self.seed <= _EXACT_IN_JSON else str(self.seed)

    @property
    def slice_text(self) -> str | None:
        """The slice as text, ``0:128,0:784``; None for the whole tensor."""
        return None if self.slice is None else text_of(self.slice)


@dataclass(frozen=True)
class Spec:
    """One file: tensors, in the order of the request, and the generator.

    ``aliases`` are sorted pairs of another name and the name of its tensor: tied weights, which are stored once.
    ``unused`` are the indices of the rules that no tensor uses. They do not change the file, so they are not compared.
    """

    generator: str
    tensors: tuple[TensorSpec, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    unused: tuple[int, ...] = field(default=(), compare=False)

    def document(self) -> Mapping[str, object]:
        """Return the canonical form of this spec, as an object of JSON."""
        tensors: dict[str, object] = {tensor.name: tensor.canonical() for tensor in self.tensors}
        tensors |= {alias: {"alias": target} for alias, target in self.aliases}
        return {"generator": self.generator, "tensors": tensors}

    def canonical(self) -> str:
        """Return the canonical JSON of this spec. Post it to ``/init`` to get the same file again."""
        return self._canonical

    @cached_property
    def _canonical(self) -> str:
        return _TO_JSON.encode(self.document())


def text_of(bounds: Bounds) -> str:
    """Return a rectangle as a spec writes it, ``0:128,0:784``."""
    return ",".join(f"{start}:{stop}" for start, stop in bounds)


def name_of_part(name: str, bounds: Bounds) -> str:
    """Return the name of a part, such as ``weight[0:128,0:784]``; ``name`` is what the tensor's words come from."""
    return f"{name}[{text_of(bounds)}]"
