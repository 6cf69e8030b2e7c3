"""Records are read as they were written, and anything else is no record."""

from pathlib import Path

import pytest

from weightwell.files.record import Record
from weightwell.transfers.spans import Span


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record.of('"one"', 1 << 40, [(0, 5), (7, 1 << 39)])
    record.write(tmp_path / "record")
    assert Record.read(tmp_path / "record") == record
    assert list(tmp_path.iterdir()) == [tmp_path / "record"]


def test_a_record_is_replaced_by_the_next(tmp_path: Path) -> None:
    Record.of('"one"', 10, [(0, 5)]).write(tmp_path / "record")
    Record.of('"one"', 10, [(0, 9)]).write(tmp_path / "record")
    found = Record.read(tmp_path / "record")
    assert found is not None
    assert found.spans == ((0, 9),)


@pytest.mark.parametrize(
    "text",
    [
        *["", "[]", "{}", "null", '{"etag": "'],
        *['{"etag": "x", "size": 3}', '{"etag": 1, "size": 3, "spans": [5]}'],
        '{"etag": "x", "size": 1e999, "spans": []}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_anything_else_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert Record.read(tmp_path / "record") is None


@pytest.mark.parametrize("span", [(0, 11), (10, 20), (-1, 5), (6, 5)])
def test_a_record_of_bytes_that_the_file_does_not_have_is_none(tmp_path: Path, span: Span) -> None:
    Record.of('"one"', 10, [(0, 5), span]).write(tmp_path / "record")
    assert Record.read(tmp_path / "record") is None


def test_there_may_be_no_record(tmp_path: Path) -> None:
    assert Record.read(tmp_path / "record") is None
