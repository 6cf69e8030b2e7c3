"""A record lists the written bytes; bytes that are missing or damaged on the disk do not count."""

import json
import os
from pathlib import Path

import pytest

from weightwell.files.record import Record
from weightwell.transfers.spans import Span

DATA = bytes(range(100))
HEAD = '{"etag": "one", "size": 100}'


def spans(path: Path, data: bytes = DATA, etag: str = "one") -> list[Span]:
    record = Record(path)
    found = record.spans(etag, 100, lambda start, stop: data[start:stop])
    record.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    record = Record(tmp_path / "record")
    record.begin("one", 100)
    for start, stop in [(0, 10), (50, 70)]:
        record.add(start, memoryview(DATA)[start:stop])
    record.close()
    return tmp_path / "record"


def test_a_record_is_read_as_it_was_written(path: Path) -> None:
    assert spans(path) == [(0, 10), (50, 70)]


def test_bytes_that_were_damaged_are_not_there(path: Path) -> None:
    assert spans(path, DATA[:60] + b"?" + DATA[61:]) == [(0, 10)]


def test_bytes_that_never_reached_the_disk_are_not_there(path: Path) -> None:
    assert spans(path, DATA[:50]) == [(0, 10)]


def test_another_file_has_nothing(path: Path) -> None:
    assert spans(path, etag="two") == []


def test_a_line_that_is_incomplete_does_not_count(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)
    assert spans(path) == [(0, 10)]


@pytest.mark.parametrize(
    "text",
    [
        *["", "[]", "{}", "null", '{"etag": "', "\n\n", HEAD, '{"etag": "one", "size": 100, "spans": [[0, 100]]}'],
        pytest.param("[" * 100_000, id="deep"),
        *[f"{HEAD}\n{line}" for line in ("5", "[0, 5]", "[0, 5, null]", "[-1, 5, 0]", "[6, 5, 0]", "[90, 110, 0]")],
        f"{HEAD}\n{json.dumps([0, 10**30, 0])}",
    ],
)
def test_anything_else_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert spans(tmp_path / "record") == []


def test_a_fifo_in_the_place_of_a_record_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record")
    with pytest.raises(OSError, match="is not a regular file: remove it"):
        Record(tmp_path / "record")
