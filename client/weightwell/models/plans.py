"""Plans: what a manifest would draw, told by the server before anything is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weightwell.models.manifest import Manifest
from weightwell.models.recipes import Fields


@dataclass(frozen=True, slots=True)
class Plan:
    """What a manifest would draw.

    ``nbytes``: size of the whole file in bytes. ``etag``: its entity tag; the same tag is the same bytes.
    ``url``: an address that anything that speaks HTTP may fetch it from; None where the manifest does not fit into one,
    and ``url_note`` says how to split it. ``refusal``: why this server would not draw it; None where it would.
    ``generator``: who draws it. ``unused``: the rules that no tensor took.
    ``tensors``: by name, each tensor's ``shape``, ``scheme``, ``parameters``, ``dtype``, ``seed``, ``rule``, its
    ``law`` in numbers and in ``words``, ``mean``, ``std``, ``fan_in``, ``fan_out``, ``data_offsets``, ``nbytes``; or
    its ``alias``. ``print(plan)`` shows the most of this as a table.
    """

    nbytes: int
    etag: str
    url: str | None
    url_note: str | None
    refusal: str | None
    generator: str
    unused: tuple[Fields, ...]
    tensors: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, answer: Mapping[str, Any], manifest: Manifest, url: str | None) -> "Plan":
        """Read the answer to ``POST /plan``; KeyError, TypeError or ValueError where it is none."""
        return cls(
            nbytes=int(answer["nbytes"]),
            etag=str(answer["etag"]),
            url=url,
            url_note=answer["url_note"],
            refusal=answer["refusal"],
            generator=str(answer["generator"]["identity"]),
            unused=tuple(manifest.rules[index] for index in answer["unused"]),
            tensors=dict(answer["tensors"]),
        )

    def __str__(self) -> str:
        rows = [_row(name, tensor) for name, tensor in self.tensors.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, f"{len(rows)} names, {self.nbytes} bytes, {self.etag}"])


def _row(name: str, tensor: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the line of one tensor: its name, shape, dtype and law."""
    if "alias" in tensor:
        return name, "", "", f"is {tensor['alias']}"
    return name, str(tensor["shape"]), tensor["dtype"], tensor["law"]["words"]
