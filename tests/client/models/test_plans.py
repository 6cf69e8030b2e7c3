"""Plans: reading the answer of a fake server, and printing. Real answers are in tests/contract."""

from typing import Any

import pytest

from weightwell import Plan
from weightwell.models.plans import HEAD, TAIL

LAW = {"kind": "uniform", "words": "uniform in [-0.0442, 0.0442]"}
ANSWER: dict[str, Any] = {
    "url": None,
    "url_note": "9000 characters; split it",
    "refusal": None,
    "nbytes": 20480,
    "etag": '"abc"',
    "generator": {"name": "philox", "identity": "philox/1"},
    "unused": [1],
    "tensors": {"w": {"shape": [10, 512], "dtype": "float32", "law": LAW}, "tied": {"alias": "w"}},
}
RULES: list[dict[str, Any]] = [{"match": "w", "scheme": "ones"}, {"match": "x", "scheme": "zeros"}]


def test_a_plan_names_the_rules_that_nothing_took() -> None:
    assert Plan.of(ANSWER, RULES, None).unused == ({"match": "x", "scheme": "zeros"},)


def test_a_plan_is_printed_as_a_table() -> None:
    assert str(Plan.of(ANSWER, RULES, None)).splitlines() == [
        "w     [10, 512]  float32  uniform in [-0.0442, 0.0442]",
        "tied                      is w",
        '2 names, 20480 bytes, "abc"',
    ]


def test_a_plan_of_nothing_is_printed() -> None:
    assert str(Plan.of(ANSWER | {"tensors": {}, "unused": []}, RULES, None)) == '0 names, 20480 bytes, "abc"'


@pytest.mark.parametrize("field", ["nbytes", "etag", "generator", "unused", "tensors"])
def test_an_answer_that_lacks_something_is_no_plan(field: str) -> None:
    with pytest.raises(KeyError):
        Plan.of({key: value for key, value in ANSWER.items() if key != field}, RULES, None)


def large(count: int) -> Plan:
    """The plan of so many tensors."""
    tensors = {f"layers.{index}.weight": ANSWER["tensors"]["w"] for index in range(count)}
    return Plan.of(ANSWER | {"tensors": tensors}, RULES, None)


def test_the_repr_of_a_plan_is_one_short_line() -> None:
    assert repr(large(5000)) == 'Plan(5000 names, 20480 bytes, "abc")'


def test_a_long_plan_is_printed_with_its_first_and_last_tensors() -> None:
    lines = str(large(5000)).splitlines()
    assert len(lines) == HEAD + 1 + TAIL + 1
    assert [lines[place].partition(" ")[0] for place in (0, HEAD - 1, HEAD + 1, -2)] == [
        *("layers.0.weight", f"layers.{HEAD - 1}.weight", f"layers.{5000 - TAIL}.weight", "layers.4999.weight"),
    ]
    assert lines[HEAD] == f"... and {5000 - HEAD - TAIL} more"


@pytest.mark.parametrize("count", [HEAD + TAIL, HEAD + TAIL + 1])
def test_nothing_is_left_out_where_that_would_not_be_shorter(count: int) -> None:
    assert str(large(count)) == large(count).table()


def test_the_table_of_a_plan_has_every_tensor() -> None:
    assert len(large(5000).table().splitlines()) == 5001


def test_a_notebook_shows_a_table_in_which_names_are_text() -> None:
    tensors = {"<script>alert('x')</script>": ANSWER["tensors"]["w"], "a&b": {"alias": "<b>"}}
    html = Plan.of(ANSWER | {"tensors": tensors, "etag": '"<i>"'}, RULES, None)._repr_html_()
    assert "<td>&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;</td><td>[10, 512]</td><td>float32</td>" in html
    assert "<td>a&amp;b</td><td></td><td></td><td>is &lt;b&gt;</td>" in html
    assert "&quot;&lt;i&gt;&quot;</caption>" in html


def test_a_notebook_shows_a_long_plan_in_part() -> None:
    assert large(5000)._repr_html_().count("<tr>") == 1 + HEAD + 1 + TAIL
