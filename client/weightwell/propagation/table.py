"""Rows of statistics as a text table, a table of a notebook, a data frame and a plot."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

from weightwell.frameworks import imported
from weightwell.problems import did_you_mean

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

HEAD, TAIL = 40, 10  # rows of a long table that are shown
BARS = "▁▂▃▄▅▆▇█"
NOT_FINITE, NO_BAR = "!", " "
SPARKS = 60  # characters of a sparkline at most

Row = Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of statistics. Each row maps the name of a column to a number, a text or None (there is no such value).

    ``print(table)`` shows the main columns, and the first and the last rows of many; a notebook shows the same.
    ``table.text()`` has all rows, ``to_pandas()`` all rows and all columns. ``table["forward.rms"]`` is one column as a
    list; iteration yields rows.

    A subclass names its columns. ``COLUMNS`` are all, in order. ``SHOWN`` are printed, except for those without any
    value. ``PLOTTED`` are drawn by ``plot()``, and as sparklines below the text. ``X_LABEL`` names a row in a plot.
    """

    rows: tuple[Row, ...]

    COLUMNS: ClassVar[tuple[str, ...]] = ()
    SHOWN: ClassVar[tuple[str, ...]] = ()
    PLOTTED: ClassVar[tuple[str, ...]] = ()
    X_LABEL: ClassVar[str] = "row"

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that are printed below the table."""
        return ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        """Return a column as a list. Raises KeyError for a name that is no column."""
        if column not in self.COLUMNS:
            hint = did_you_mean(column, self.COLUMNS)
            raise KeyError(f"no column {column!r}; the columns are {', '.join(self.COLUMNS)}{hint}")
        return [row.get(column) for row in self.rows]

    def text(self, *columns: str) -> str:
        """Return all rows as aligned columns, a line each. Without names: the main columns."""
        return "\n".join(_aligned([columns or self._shown(), *self._cells(self.rows, columns or self._shown())]))

    def to_pandas(self) -> "pandas.DataFrame":
        """Return all rows and all columns as a ``pandas.DataFrame``. Raises MissingFramework without pandas."""
        frame: pandas.DataFrame = imported("pandas", extra="plots").DataFrame(
            [[row.get(column) for column in self.COLUMNS] for row in self.rows], columns=list(self.COLUMNS)
        )
        return frame

    def plot(self, *columns: str, ax: "Axes | None" = None, label: str | None = None, **options: Any) -> "Axes":
        """Draw columns against the number of the row, from 1, and return the axes of matplotlib.

        Without names: the main statistics. ``ax``: draw into these axes, over what is there. ``label``: the name of
        the line in the legend, by default the name of the column. ``options``: for ``Axes.plot``. The vertical axis
        is logarithmic if no value is negative. Values that are not finite are gaps, and so are zeros on a logarithmic
        axis. Raises MissingFramework without matplotlib.
        """
        axes = new_axes() if ax is None else ax
        drawn = [column for column in columns or self.PLOTTED if any(value is not None for value in self[column])]
        for column in drawn:
            heights = [_height(value) for value in self[column]]
            name = column if label is None else label if len(drawn) == 1 else f"{label}, {column}"
            axes.plot(range(1, len(heights) + 1), heights, label=name, **options)
        every: list[Any] = [line.get_ydata() for line in axes.get_lines()]
        finite = [height for heights in every for height in heights if math.isfinite(height)]
        axes.set_yscale("log" if min(finite, default=0) >= 0 and any(finite) else "linear")
        axes.set_xlabel(self.X_LABEL)
        if drawn:
            axes.legend()
        return axes

    def sparkline(self, column: str) -> str:
        """Return a column as one line of characters: see ``sparkline``."""
        return sparkline(self[column])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.rows)} rows)"

    def __str__(self) -> str:
        shown = self._shown()
        first, hidden, last = self._some()
        lines = _aligned([shown, *self._cells(first, shown), *self._cells(last, shown)])
        if hidden:
            lines.insert(1 + len(first), f"... and {hidden} more")
        return "\n".join([*lines, *self._sparklines(), *self.notes])

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        shown = self._shown()
        first, hidden, last = self._some()
        body = [_html_row(cells) for cells in self._cells(first, shown)]
        if hidden:
            body.append(f'<tr><td colspan="{len(shown)}">... and {hidden} more</td></tr>')
        body += [_html_row(cells) for cells in self._cells(last, shown)]
        below = "".join(f"<pre>{escape(line)}</pre>" for line in (*self._sparklines(), *self.notes))
        return f"<table><thead>{_html_row(shown, 'th')}</thead><tbody>{''.join(body)}</tbody></table>{below}"

    def _shown(self) -> tuple[str, ...]:
        """Return the main columns that have a value, or all of them if there is none."""
        return tuple(c for c in self.SHOWN if any(v not in {None, ""} for v in self[c])) or self.SHOWN

    def _some(self) -> tuple[Sequence[Row], int, Sequence[Row]]:
        """Return the first rows, the number of hidden ones, and the last rows."""
        hidden = len(self.rows) - HEAD - TAIL
        return (self.rows, 0, ()) if hidden <= 1 else (self.rows[:HEAD], hidden, self.rows[-TAIL:])

    def _cells(self, rows: Sequence[Row], columns: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(cell(row.get(column)) for column in columns) for row in rows]

    def _sparklines(self) -> list[str]:
        """Return a line for each main statistic: its name, its sparkline, its least and its largest value."""
        drawn = [c for c in self.PLOTTED if sum(isinstance(v, int | float) for v in self[c]) > 1]
        width = max(map(len, drawn), default=0)
        return [f"{column:{width}}  {self.sparkline(column)}  {_interval(self[column])}".rstrip() for column in drawn]


def new_axes() -> "Axes":
    """Return the axes of a new figure of pyplot. Raises MissingFramework without matplotlib."""
    axes: Axes = imported("matplotlib.pyplot", extra="plots").subplots()[1]
    return axes


def sparkline(values: Sequence[float | None]) -> str:
    """Return numbers as one line of block characters, a character each, or at most 60 of them evenly spaced.

    The scale is logarithmic if no number is negative, and its whole height is at least a factor of 10, so that noise
    looks flat; zero is the lowest bar. It is linear otherwise. ``!`` is a number that is not finite, a space is None.
    """
    if len(values) > SPARKS:
        values = [values[round(place * (len(values) - 1) / (SPARKS - 1))] for place in range(SPARKS)]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    scale = math.log10 if min(finite, default=0) >= 0 else float
    heights = [scale(value) for value in finite if value or scale is float] or [0.0]
    low, high = min(heights), max(heights)
    if scale is math.log10 and high - low < 1:
        # The middle of the numbers is in the middle of a bar.
        low = (low + high) / 2 - (len(BARS) + 1) / (2 * len(BARS))
        high = low + 1
    span = high - low or 1.0

    def bar(value: float | None) -> str:
        if value is None:
            return NO_BAR
        if not math.isfinite(value):
            return NOT_FINITE
        if not value and scale is math.log10:
            return BARS[0]
        return BARS[min(int((scale(value) - low) / span * len(BARS)), len(BARS) - 1)]

    return "".join(map(bar, values))


def cell(value: object) -> str:
    """Return a value as it is printed: numbers with four significant digits, None as nothing."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _height(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else math.nan


def _interval(values: Sequence[float | None]) -> str:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return f"{cell(min(finite))} to {cell(max(finite))}" if finite else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, of which the first is the heading, as lines. Columns of numbers are aligned to the right."""
    columns = list(zip(*rows, strict=True))
    numbers = [all(map(_is_number, column[1:])) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            f"{text:{'>' if number else '<'}{width}}" for text, number, width in zip(row, numbers, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _is_number(text: str) -> bool:
    """Whether a cell is a number or nothing."""
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _html_row(cells: Sequence[str], kind: str = "td") -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(text)}</{kind}>' for text in cells)}</tr>"
