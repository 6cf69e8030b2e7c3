"""Records are read as they were written, and anything else is no record."""

from pathlib import Path

import pytest

from weightwell.files.record import Record


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
    "text", ["", "[]", "{}", "null", '{"etag": "x", "size": 3}', '{"etag": 1, "size": 3, "spans": [5]}', '{"etag": "']
)
def test_anything_else_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert Record.read(tmp_path / "record") is None


def test_there_may_be_no_record(tmp_path: Path) -> None:
    assert Record.read(tmp_path / "record") is None
