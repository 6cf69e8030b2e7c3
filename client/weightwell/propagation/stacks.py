"""Signals through stacks of layers: the question to ``/signal``, the check of the answer, and its table."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from weightwell.answers import OneOf, is_same, mismatches, raise_first
from weightwell.dtypes import dtype_of
from weightwell.exceptions import UnexpectedResponse
from weightwell.propagation.table import Row, Table, cell
from weightwell.request import Request
from weightwell.schemes import SCHEMES
from weightwell.spec import parameter_of, seed_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORWARD = ("mean", "std", "rms", "largest", "zeros", "saturated", "channel_squared_mean", "channel_variance")
_MEASURED = ("q", "correlation", *(f"forward.{name}" for name in _FORWARD), "backward.rms", "backward.ratio")
_THEORY = ("q", "correlation", "mean", "std", "rms", "backward_rms", "chi_1", "reason")

# Fields of a layer that the answer repeats.
_OF_LAYER = ("width", "kind", "param", "normalization", "residual", "kernel_size", "stride", "padding")

# Aliases of activation functions, and their names in answers.
ACTIVATIONS = {"identity": "linear", "swish": "silu"}


@dataclass(frozen=True, repr=False)
class Signal(Table):
    """A signal and its gradient through a stack of layers, measured and predicted. A row is a layer.

    ``answer``: the whole answer of the service, as a mapping; docs/signal.md describes it. ``input``, ``layers``,
    ``theory`` and ``first_not_finite`` are parts of it.

    Columns: ``layer``, from 1; ``kind``, ``width``, ``activation``, ``normalization``, ``residual``. Measured: ``q``,
    ``correlation``, ``forward.*``, ``backward.*``; ``spread.*`` are their standard deviations over several seeds.
    Predicted: ``theory.*``. None is a number that is not finite, or that theory does not have.
    """

    answer: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "layer",
        "kind",
        "width",
        "activation",
        "normalization",
        "residual",
        *_MEASURED,
        *(f"theory.{name}" for name in _THEORY),
        *(f"spread.{name}" for name in _MEASURED),
    )
    SHOWN: ClassVar[tuple[str, ...]] = (
        "layer",
        "forward.mean",
        "forward.std",
        "forward.rms",
        "theory.rms",
        "forward.zeros",
        "forward.saturated",
        "correlation",
        "theory.correlation",
        "backward.rms",
        "theory.backward_rms",
    )
    PLOTTED: ClassVar[tuple[str, ...]] = ("forward.rms", "backward.rms")
    X_LABEL: ClassVar[str] = "layer"

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Signal":
        """Return the table of an answer of ``/signal``."""
        return cls(tuple(map(_row, answer["layers"])), answer)

    @property
    def input(self) -> Mapping[str, Any]:
        """The numbers of the input, which is layer 0."""
        found: Mapping[str, Any] = self.answer["input"]
        return found

    @property
    def layers(self) -> list[Mapping[str, Any]]:
        """The layers, with the schemes of their weights."""
        found: list[Mapping[str, Any]] = self.answer["layers"]
        return found

    @property
    def theory(self) -> Mapping[str, Any]:
        """The theory of the stack: the maps, their fixed points, chi_1, depth scales and the verdict."""
        found: Mapping[str, Any] = self.answer["theory"]
        return found

    @property
    def first_not_finite(self) -> Mapping[str, int | None]:
        """The first layers with a value that is not finite: ``forward`` and ``backward``; None if there is none."""
        found: Mapping[str, int | None] = self.answer["first_not_finite"]
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what theory says of the stack, and on values that are not finite."""
        first = {"value": self.first_not_finite["forward"], "gradient": self.first_not_finite["backward"]}
        lost = [f"first {kind} that is not finite: layer {at}" for kind, at in first.items() if at is not None]
        return (*lost, *_words(self.theory))

    def plot(self, *columns: str, ax: "Axes | None" = None, label: str | None = None, **options: Any) -> "Axes":
        """Draw columns against the layer: see ``Table.plot``. Without names, theory is drawn too, as dashed lines."""
        axes = super().plot(*columns, ax=ax, label=label, **options)
        if not columns:
            super().plot("theory.rms", "theory.backward_rms", ax=axes, label=label, **{**options, "linestyle": "--"})
        return axes


def _row(layer: Mapping[str, Any]) -> Row:
    spread = layer["spread"]
    return {
        **{name: layer[name] for name in ("layer", "kind", "width", "activation", "normalization", "residual")},
        **_flat(layer),
        **{f"theory.{name}": layer["theory"][name] for name in _THEORY},
        **({} if spread is None else {f"spread.{name}": value for name, value in _flat(spread).items()}),
    }


def _flat(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measured numbers of a place, by column."""
    found = {}
    for name in _MEASURED:
        part, _, leaf = name.rpartition(".")
        found[name] = measured[part][leaf] if part else measured[leaf]
    return found


def _words(theory: Mapping[str, Any]) -> Iterator[str]:
    """Yield the theory of a stack in words."""
    if theory["weight_variance"] is not None:
        where = "the fixed point " if theory["at_fixed_point"] else ""
        verdict = f"{theory['verdict']}, " if theory["verdict"] else ""
        chi = "chi_1 is infinite" if theory["chi_1"] is None else f"chi_1 = {cell(theory['chi_1'])}"
        yield f"theory: {verdict}{chi} at {where}q = {cell(theory['q'])}"
    for point in theory["fixed_points"] or ():
        yield f"fixed point of the variance: q = {cell(point['q'])}, slope {cell(point['slope'])}: {point['stability']}"
    if theory["every_q_is_fixed"]:
        yield "every variance is a fixed point: slope 1, marginal"
    scales = [f"{name} = {cell(theory[name])}" for name in ("xi_q", "xi_c") if theory[name] is not None]
    if scales:
        yield f"depth scales in layers: {', '.join(scales)}"
    if theory["reason"]:
        yield f"theory: {theory['reason']}"


# Questions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """The fields of a request to ``/signal``: of equal layers, or of a list of ``layers``."""

    fields: Mapping[str, Any]

    @classmethod
    def of(cls, layers: Iterable[Mapping[str, Any]] | None, fields: Mapping[str, Any]) -> "Question":
        """Read the arguments of ``Client.signal``; raise TypeError or ValueError for one that cannot be sent."""
        read = {name: _read(name, value) for name, value in fields.items() if value is not None}
        if layers is None:
            return cls(read)
        if isinstance(layers, Mapping | str):
            raise TypeError(f"layers must be a list of dicts, such as [{{'width': 256}}], got {layers!r:.80}")
        listed = []
        for layer in layers:
            if not isinstance(layer, Mapping):
                raise TypeError(f"a layer must be a dict, such as {{'width': 256}}, got {layer!r:.80}")
            listed.append({name: _read(name, value) for name, value in layer.items() if value is not None})
        return cls({"layers": listed, **read})

    @property
    def request(self) -> Request:
        """The request: a GET for equal layers, a POST for a list."""
        return Request("signal", self.fields, is_posted="layers" in self.fields)

    def read(self, answer: Any) -> Signal:
        """Return the table of an answer; raise ``UnexpectedResponse`` if it belongs to another question."""
        asked = {name: self.fields[name] for name in ("dtype", "batch", "correlation") if name in self.fields}
        raise_first(mismatches(asked, answer))
        if "seeds" in self.fields and not is_same([str(seed) for seed in self._seeds], list(map(str, answer["seeds"]))):
            raise UnexpectedResponse(f"the answer belongs to another request: seeds: {answer['seeds']!r:.80}")
        layers = answer["layers"]
        expected = list(self._layers(len(layers)))
        if len(expected) != len(layers):
            raise UnexpectedResponse(f"the answer has {len(layers)} layers, and {len(expected)} were requested")
        for place, (fields, layer) in enumerate(zip(expected, layers, strict=True)):
            raise_first(mismatches(_of_layer(fields), layer, f"layers.{place}"))
            if "scheme" in fields:
                scheme = {"scheme": SCHEMES.get(fields["scheme"], fields["scheme"])}
                raise_first(mismatches(scheme, layer["weight"], f"layers.{place}.weight"))
        return Signal.of(answer)

    @property
    def _seeds(self) -> list[int]:
        seeds = self.fields["seeds"]
        return seeds if isinstance(seeds, list) else [seeds]

    def _layers(self, default: int) -> Iterator[Mapping[str, Any]]:
        """Yield the fields of every layer."""
        if "layers" not in self.fields:
            yield from [self.fields] * int(self.fields.get("depth", default))
        for layer in self.fields.get("layers", ()):
            yield from [layer] * int(layer.get("repeat", 1))


def _of_layer(fields: Mapping[str, Any]) -> dict[str, object]:
    """Return the fields of a layer that its part of an answer repeats. A linear layer has no kernel."""
    conv = fields.get("kind") == "conv2d"
    names = _OF_LAYER if conv else tuple(n for n in _OF_LAYER if n not in ("kernel_size", "stride", "padding"))
    found: dict[str, object] = {name: fields[name] for name in names if name in fields}
    if (name := fields.get("activation")) is not None:
        found["activation"] = OneOf((name, ACTIVATIONS.get(name, name)))
    return found


def _read(name: str, value: Any) -> Any:
    """Return a field as JSON has it."""
    if name == "dtype":
        return dtype_of(value).name
    if name == "seeds":
        several = isinstance(value, Iterable) and not isinstance(value, str)
        return [seed_of(seed) for seed in value] if several else [seed_of(value)]
    if isinstance(value, str | bool):
        return value
    return parameter_of(name, value)
