"""Tables of statistics: as text, for notebooks, for pandas and as plots."""

import builtins
import importlib
import math
from collections.abc import Iterator
from typing import Any

import pytest

from weightwell import MissingFramework
from weightwell.propagation.table import Table, sparkline


class Layers(Table):
    """Two statistics of named layers."""

    COLUMNS = ("layer", "forward.rms", "backward.rms", "note")
    SHOWN = ("layer", "forward.rms", "backward.rms")
    PLOTTED = ("forward.rms", "backward.rms")
    X_LABEL = "layer"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("all <layers>",)


TABLE = Layers(
    (
        {"layer": "first", "forward.rms": 1.0, "backward.rms": None, "note": "a"},
        {"layer": "b", "forward.rms": 12345.678, "note": None},
        {"layer": "c", "forward.rms": math.inf},
    )
)


def test_the_text_has_the_main_columns_that_have_values_a_sparkline_and_the_notes() -> None:
    assert str(TABLE) == (
        "layer  forward.rms\n"
        "first            1\n"
        "b        1.235e+04\n"
        "c              inf\n"
        "forward.rms  ▁█!  1 to 1.235e+04\n"
        "all <layers>"
    )


def test_the_text_can_have_other_columns() -> None:
    assert TABLE.text("note", "layer") == "note  layer\na     first\n      b\n      c"


def test_a_column_is_a_list() -> None:
    assert TABLE["forward.rms"] == [1.0, 12345.678, math.inf]
    assert TABLE["backward.rms"] == [None, None, None]


def test_an_unknown_column_is_an_error_with_the_columns() -> None:
    with pytest.raises(KeyError, match=r"the columns are layer, forward\.rms, .*; did you mean forward\.rms\?"):
        TABLE["forward.rm"]


def test_rows_are_iterated() -> None:
    assert [row["layer"] for row in TABLE] == ["first", "b", "c"]
    assert len(TABLE) == 3
    assert repr(TABLE) == "Layers(3 rows)"


def long(rows: int) -> Layers:
    return Layers(tuple({"layer": f"l{number}", "forward.rms": 1.0} for number in range(rows)))


def test_a_long_table_shows_its_first_and_last_rows() -> None:
    lines = str(long(100)).splitlines()
    assert lines[40:43] == ["l39              1", "... and 50 more", "l90              1"]
    assert len(lines) == 1 + 40 + 1 + 10 + 2
    assert len(long(100).text().splitlines()) == 101
    assert "... and 50 more" in long(100)._repr_html_()


def test_a_row_is_not_hidden_for_a_line_that_says_so() -> None:
    assert "more" not in str(long(51))


def test_a_notebook_shows_the_same_with_text_escaped() -> None:
    html = TABLE._repr_html_()
    assert "<th>layer</th><th>forward.rms</th>" in html
    assert "<td>b</td><td>1.235e+04</td>" in html
    assert "all &lt;layers&gt;" in html


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([1, 10, 100, 1000], "▁▃▆█"),
        ([1.0, 1.1, 0.95], "▅▅▅"),  # noise is flat: a whole height is a factor of 10
        ([-1, 0, 1], "▁▅█"),
        ([0, 1, 1000], "▁▁█"),
        ([5.0], "▅"),
        ([0.0, 0.0], "▁▁"),
        ([1.0, None, math.nan, math.inf], "▅ !!"),
        ([math.nan, None], "! "),
        ([], ""),
    ],
)
def test_a_sparkline_is_logarithmic_if_nothing_is_negative(values: list[float | None], line: str) -> None:
    assert sparkline(values) == line


def test_a_sparkline_of_many_numbers_has_the_first_and_the_last() -> None:
    line = sparkline([1.0] * 999 + [1000.0])
    assert len(line) == 60
    assert line[0] == "▁"
    assert line[-1] == "█"


def test_a_data_frame_has_all_columns() -> None:
    frame = TABLE.to_pandas()
    assert list(frame.columns) == list(Layers.COLUMNS)
    assert frame["forward.rms"].tolist() == [1.0, 12345.678, math.inf]
    assert frame["note"][0] == "a"


@pytest.fixture
def figures() -> Iterator[None]:
    import matplotlib as mpl
    from matplotlib import pyplot

    with mpl.rc_context({"backend": "agg"}):
        yield
        pyplot.close("all")


@pytest.mark.usefixtures("figures")
def test_a_plot_is_logarithmic_with_gaps_where_a_value_is_not_finite() -> None:
    axes: Any = TABLE.plot()
    (line,) = axes.get_lines()
    assert list(line.get_xdata()) == [1, 2, 3]
    assert list(line.get_ydata())[:2] == [1.0, 12345.678]
    assert math.isnan(line.get_ydata()[2])
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "layer"


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize(("low", "scale"), [(0.0, "log"), (-1.0, "linear")])
def test_the_axis_of_a_plot_is_linear_only_for_negative_values(low: float, scale: str) -> None:
    rows = ({"layer": "a", "forward.rms": low}, {"layer": "b", "forward.rms": 1.0})
    assert Layers(rows).plot().get_yscale() == scale


@pytest.mark.usefixtures("figures")
def test_plots_are_drawn_over_one_another() -> None:
    axes: Any = TABLE.plot("forward.rms", label="one")
    assert long(2).plot("forward.rms", ax=axes, label="two", linestyle=":") is axes
    legend: Any = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    assert axes.get_lines()[1].get_linestyle() == ":"


@pytest.mark.parametrize(("call", "package"), [(Table.to_pandas, "pandas"), (Table.plot, "matplotlib")])
def test_a_missing_package_is_an_error_that_names_the_extra(
    call: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(name: str) -> Any:
        if name.startswith(package):
            raise ModuleNotFoundError(name)
        return builtins.__import__(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingFramework, match=r"not installed; pip install 'weightwell\[plots\]'"):
        call(TABLE)
