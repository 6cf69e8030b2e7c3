"""Plans are read from what a server answers, and printed for people; what a server answers is in tests/contract."""

from typing import Any

import pytest

from weightwell import Manifest, Plan

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
MANIFEST = Manifest({}, rules=[{"match": "w", "scheme": "ones"}, {"match": "x", "scheme": "zeros"}])


def test_a_plan_names_the_rules_that_nothing_took() -> None:
    assert Plan.of(ANSWER, MANIFEST, None).unused == ({"match": "x", "scheme": "zeros"},)


def test_a_plan_is_printed_as_a_table() -> None:
    assert str(Plan.of(ANSWER, MANIFEST, None)).splitlines() == [
        "w     [10, 512]  float32  uniform in [-0.0442, 0.0442]",
        "tied                      is w",
        '2 names, 20480 bytes, "abc"',
    ]


def test_a_plan_of_nothing_is_printed() -> None:
    assert str(Plan.of(ANSWER | {"tensors": {}, "unused": []}, MANIFEST, None)) == '0 names, 20480 bytes, "abc"'


@pytest.mark.parametrize("field", ["nbytes", "etag", "generator", "unused", "tensors"])
def test_an_answer_that_lacks_something_is_no_plan(field: str) -> None:
    with pytest.raises(KeyError):
        Plan.of({key: value for key, value in ANSWER.items() if key != field}, MANIFEST, None)
