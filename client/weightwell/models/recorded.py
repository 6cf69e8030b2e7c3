"""Recorded models: the tensors of a manifest, as a model's own code initializes them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from weightwell.models.modules import Slot, is_foreign, slots_of, torch_type
from weightwell.models.recipes import Fields, Preset, Recipe, Rules

if TYPE_CHECKING:
    from torch import nn

    from weightwell.recorder.numbers import Computation
    from weightwell.recorder.parameters import Recorded

# Problems that an error lists.
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Row:
    """What was recorded of one tensor: its ``name`` and ``shape``, its ``law`` in words, and the ``line`` of code."""

    name: str
    shape: tuple[int, ...]
    law: str
    line: str


class Recording:
    """A context in which models are built, and initialized by their own code.

    What the code writes into parameters is recorded, on the meta device or any other. Random numbers are not drawn, so
    parameters on other devices hold NaN.
    """

    def __init__(self) -> None:
        from weightwell.recorder.mode import Recorder

        self.recorder = Recorder()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        from weightwell.recorder.functions import recorded_functions

        self._stack.enter_context(recorded_functions(self.recorder))
        self._stack.enter_context(self.recorder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def table(self, model: "nn.Module", prefix: str = "") -> list[Row]:
        """Return for each tensor of a model its law, and the line of code that wrote it last."""
        slots = [slot for slot in slots_of(model, prefix) if slot.persistent and not slot.is_part]
        found, _ = self._recorded({slot.name: _tensor(slot) for slot in slots})
        return [Row(name, each.shape, _words(each), each.where) for name, each in found.items()]

    def _recorded(self, tensors: Mapping[str, Any]) -> "tuple[dict[str, Recorded], dict[Any, Any]]":
        from weightwell.recorder.parameters import recorded

        return recorded(self.recorder, tensors)


def table_text(rows: Sequence[Row]) -> str:
    """Return rows as aligned columns, a line each."""
    cells = [(row.name, str(list(row.shape)), row.law, row.line) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(lines)


def built(
    build: Callable[..., "nn.Module"], args: tuple[Any, ...] = (), initialize: Any = None
) -> tuple[Recording, "nn.Module"]:
    """Return the recording of a model that is built on the meta device, and the model."""
    import torch

    from weightwell.recorder import initializers

    with Recording() as recording:
        with torch.device("meta"):
            model = build(*args)
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"build must return a torch module, got {model!r:.80}")
        if initialize is not None:
            initializers.initialize(model, initialize)
        else:
            with torch.no_grad():
                initializers.initialize_by_library(model)
    return recording, model


def initialized(model: "nn.Module", initialize: Any) -> tuple[Recording, "nn.Module"]:
    """Return the recording of the initializers of a model that exists, and its twin on which they were run."""
    from weightwell.recorder import initializers
    from weightwell.recorder.twins import twin_of

    slots_of(model)  # raises where tensors are not as the model has them
    recording = Recording()
    twin = twin_of(model, recording.recorder)
    with recording:
        initializers.initialize(twin, initialize)
    return recording, twin


def has_own_code(model: "nn.Module") -> bool:
    """Whether a model, or a module in it, is initialized by code that is not torch's."""
    from weightwell.recorder.initializers import has_own_initializer

    return any(
        has_own_initializer(each) or (is_foreign(each) and any(p is not None for p in each._parameters.values()))
        for each in model.modules()
    )


@dataclass(frozen=True, slots=True)
class Model:
    """A recorded model as the fields of a manifest."""

    tensors: dict[str, Fields]
    rules: list[Fields]
    preset: Preset | None
    dtype: object
    buffers: "dict[str, Computation]"


def described(
    recording: Recording,
    twin: "nn.Module",
    model: "nn.Module",
    *,
    rules: Rules | None = None,
    dtype: object = None,
    prefix: str = "",
) -> Model:
    """Return the fields of a manifest for a model; ``twin`` is the model that was recorded, or the model itself.

    ``rules``: for tensors of which nothing was recorded. Raises ValueError, with the line of code, for tensors that
    cannot be recorded and have no rule.
    """
    from weightwell.recorder.numbers import Computation

    kept = {slot.name: slot for slot in slots_of(twin, prefix) if not slot.is_part}
    found, streams = recording._recorded({name: _tensor(slot) for name, slot in kept.items()})
    own: dict[str, Fields] = {}
    buffers: dict[str, Computation] = {}
    problems: list[Recorded] = []
    for name, slot in kept.items():
        each = found[name]
        if slot.is_drawn and each.problem is not None and slot.source is not None and torch_type(slot.owner):
            own[name] = {"scheme": "reset_parameters"}
        elif slot.is_drawn and each.problem is not None:
            problems.append(each)
        elif slot.is_drawn and each.fields is not None:
            own[name] = each.fields
        elif slot.is_drawn:
            own[name] = {"computed": Computation(each, streams)}
        elif slot.is_buffer and each.problem is None:
            buffers[name] = Computation(each, streams)
    if problems and not rules:
        raise ValueError(_unrecorded(problems))
    recipe = Recipe.of(rules, None) if rules else Recipe(preset=None)
    common, tensors = recipe.entries(model, dtype, prefix, recorded=own)
    return Model(tensors, list(recipe.rules), recipe.preset, common, buffers)


def _tensor(slot: Slot) -> Any:
    """Return the tensor that a slot's law is written to: of a slot that is computed, the last of its originals."""
    from weightwell.models.places import tensor_at

    return slot.tensor if slot.source is None else tensor_at(slot.source.originals[-1])


def _words(each: "Recorded") -> str:
    if each.problem is not None:
        return f"not recorded: {each.problem}"
    if each.fields is None:
        return "computed, from random numbers as well" if each.has_draws else "computed"
    fields = {key: value for key, value in each.fields.items() if key not in {"scheme", "parts"}}
    said = ", ".join(
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )
    text = f"{each.fields['scheme']}({said})" if said else str(each.fields["scheme"])
    parts = each.fields.get("parts", [])
    if len(parts) > 1:
        return f"{text}, and {len(parts)} parts"
    return f"{text}, but {parts[0]['scheme']} in [{parts[0]['slice']}]" if parts else text


def _unrecorded(problems: "list[Recorded]") -> str:
    listed = "; ".join(f"{each.name}: {each.problem} ({each.where})" for each in problems[:_LISTED])
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return (
        f"{len(problems)} tensors of the model cannot be recorded: {listed}{more}. Give rules for them, such as "
        f"[{{'match': {problems[0].name!r}, 'scheme': 'normal', 'std': 0.02}}]"
    )
