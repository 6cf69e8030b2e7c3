import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_service.exceptions import RangeNotSatisfiable
from weightwell_service.ranges import etag_in, range_applies, select_range

SIZE = 10_000
ETAG = '"2f8b"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        # The examples of RFC 9110, section 14.1.2.
        ("bytes=0-499", (0, 500)),
        ("bytes=500-999", (500, 1000)),
        ("bytes=-500", (9500, 10_000)),
        ("bytes=9500-", (9500, 10_000)),
        ("bytes=0-0", (0, 1)),
        ("bytes=-1", (9999, 10_000)),
        # Clamped at the end of the file.
        ("bytes=9999-20000", (9999, 10_000)),
        ("bytes=0-99999999999999999999999999", (0, 10_000)),
        ("bytes=-10001", (0, 10_000)),
        ("bytes=0-", (0, 10_000)),
        ("BYTES=0-1", (0, 2)),
        ("bytes= 0-1\t", (0, 2)),
        ("bytes=00-01", (0, 2)),
    ],
)
def test_a_range_is_selected_and_clamped(header: str, expected: tuple[int, int]) -> None:
    assert select_range(header, SIZE) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=20000-19999",
        "bytes=0-1,4-5",
        "bytes=0-1,",
        "bytes=,0-1",
        "bytes=1",
        "bytes=--1",
        "bytes=-1-2",
        "bytes=+1-2",
        "bytes=0x0-0x1",
        "bytes=1.0-2",
        "bytes=1_0-20",
        "bytes=0 - 1",
        "bytes=\u0660-\u0661",
        "bytes=\u00b2-",
        "bytes=0-1\n",
        "\nbytes=0-1",
        "items=0-1",
        "0-1",
        "bytes=0-" + "9" * 5000,
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_malformed_or_several_or_of_another_unit_means_the_whole_file(header: str | None) -> None:
    assert select_range(header, SIZE) is None


@pytest.mark.parametrize(
    "header", ["bytes=10000-", "bytes=10000-10001", "bytes=99999999999999999999-", "bytes=-0", "bytes=-000"]
)
def test_a_range_without_a_byte_of_the_file_is_not_satisfiable(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable, match="10000 bytes long") as caught:
        select_range(header, SIZE)
    assert caught.value.size == SIZE


@given(st.integers(1, 2**80), st.data())
def test_a_range_inside_a_file_is_unchanged(size: int, data: st.DataObject) -> None:
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, size - 1)] * 2)))
    assert select_range(f"bytes={first}-{last}", size) == (first, last + 1)
    assert select_range(f"bytes={first}-", size) == (first, size)
    assert select_range(f"bytes=-{size - first}", size) == (first, size)


@given(st.text(), st.integers(0, 100))
def test_any_header_means_a_range_of_the_file_or_the_whole_file_or_none(header: str, size: int) -> None:
    try:
        selected = select_range(f"bytes={header}", size)
    except RangeNotSatisfiable:
        return
    assert selected is None or 0 <= selected[0] < selected[1] <= size


@pytest.mark.parametrize("header", [ETAG, f'"other", {ETAG}', f'{ETAG},W/"x"', "*", f" {ETAG} "])
@pytest.mark.parametrize("weak", [True, False])
def test_a_listed_tag_matches(header: str, weak: bool) -> None:
    assert etag_in(header, ETAG, weak=weak)


@pytest.mark.parametrize("header", ["", '"other"', "2f8b", '"2F8B"', 'w/"2f8b"', '"2f8b', '"*"'])
@pytest.mark.parametrize("weak", [True, False])
def test_a_tag_that_is_not_listed_does_not_match(header: str, weak: bool) -> None:
    assert not etag_in(header, ETAG, weak=weak)


def test_a_weak_tag_matches_in_the_weak_comparison_alone() -> None:
    assert etag_in(f"W/{ETAG}", ETAG, weak=True)
    assert not etag_in(f"W/{ETAG}", ETAG, weak=False)


@pytest.mark.parametrize(
    ("if_range", "applies"),
    [
        (None, True),
        (ETAG, True),
        (f" {ETAG} ", True),
        ("", False),
        ("*", False),
        ('"other"', False),
        (f"W/{ETAG}", False),
        (f'{ETAG}, "other"', False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
    ],
)
def test_a_range_applies_if_the_tag_is_that_of_the_file(if_range: str | None, applies: bool) -> None:
    assert range_applies(if_range, ETAG) is applies
