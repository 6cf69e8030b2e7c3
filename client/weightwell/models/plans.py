"""Plans: the server's description of a file that has not been drawn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from weightwell.models.recipes import Fields

HEAD, TAIL = 40, 10  # rows of a long table that are shown

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """The description of a file: of a manifest or of one tensor.

    ``nbytes``: size of the whole file in bytes. ``etag``: its entity tag; the same tag means the same bytes.
    ``url``: the address of the file for any HTTP client. It is None if the manifest is too long for a URL; then
    ``url_note`` says how to split it. ``refusal``: the reason why this server would refuse it, or None.
    ``generator``: the generator of the numbers. ``unused``: the rules that no tensor uses.
    ``tensors``: by name, each tensor's ``shape``, ``scheme``, ``parameters``, ``dtype``, ``seed``, ``rule``, its
    ``law`` (the distribution, as numbers and as ``words``), ``mean``, ``std``, ``fan_in``, ``fan_out``,
    ``data_offsets``, ``nbytes``; or its ``alias``.

    ``print(plan)`` shows the tensors as a table, the first and the last of many; ``plan.table()`` has them all.
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
    def of(cls, answer: Mapping[str, Any], rules: Sequence[Fields], url: str | None) -> "Plan":
        """Read the answer of ``/plan`` to these rules; raise KeyError, TypeError or ValueError if it is malformed."""
        return cls(
            nbytes=int(answer["nbytes"]),
            etag=str(answer["etag"]),
            url=url,
            url_note=answer["url_note"],
            refusal=answer["refusal"],
            generator=str(answer["generator"]["identity"]),
            unused=tuple(rules[index] for index in answer["unused"]),
            tensors=dict(answer["tensors"]),
        )

    def table(self) -> str:
        """Return a text table: name, shape, dtype and distribution of each tensor, and a line for the file."""
        return self._table([_row(name, tensor) for name, tensor in self.tensors.items()])

    def __repr__(self) -> str:
        return f"Plan({self._summary()})"

    def __str__(self) -> str:
        return self._table(list(self._some()))

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        head = "".join(f"<th>{cell}</th>" for cell in ("name", "shape", "dtype", "law"))
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._some())
        return f"<table><caption>{escape(self._summary())}</caption><tr>{head}</tr>{body}</table>"

    def _some(self) -> Iterator[Row]:
        """Yield the rows of the first and the last tensors, and between them a row with the number of hidden ones."""
        names, hidden = list(self.tensors), len(self.tensors) - HEAD - TAIL
        if hidden <= 1:
            hidden = 0
        for place, name in enumerate(names):
            if not hidden or place < HEAD or place >= HEAD + hidden:
                yield _row(name, self.tensors[name])
            elif place == HEAD:
                yield f"... and {hidden} more", "", "", ""

    def _table(self, rows: Sequence[Row]) -> str:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self._summary()])

    def _summary(self) -> str:
        count = len(self.tensors)
        return f"{count} {'name' if count == 1 else 'names'}, {self.nbytes} bytes, {self.etag}"


def _row(name: str, tensor: Mapping[str, Any]) -> Row:
    """Return the row of one tensor: its name, shape, dtype and distribution."""
    if "alias" in tensor:
        return name, "", "", f"is {tensor['alias']}"
    return name, str(tensor["shape"]), tensor["dtype"], tensor["law"]["words"]


def fields_of(planned: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a planned tensor or part, with its parameters, in the form of a file's metadata."""
    fields = ("alias", "shape", "slice", "stream", "dtype", "seed", "scheme")
    return {**{field: planned.get(field) for field in fields}, **planned.get("parameters", {})}
