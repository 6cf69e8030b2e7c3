"""Files appear whole or not at all, and what is no regular file is written to as it is."""

import io
import os
from pathlib import Path

import pytest

from weightwell.output import NewFile, OpenFile, opened


def test_a_file_appears_when_it_is_committed(tmp_path: Path) -> None:
    output = opened(tmp_path / "weight")
    output.file.write(b"tensor")
    assert not (tmp_path / "weight").exists()
    output.commit()
    output.discard()
    assert (tmp_path / "weight").read_bytes() == b"tensor"
    assert list(tmp_path.iterdir()) == [tmp_path / "weight"]


def test_a_discarded_file_leaves_nothing(tmp_path: Path) -> None:
    output = opened(str(tmp_path / "weight"))
    output.file.write(b"ten")
    output.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    output = opened(tmp_path / "weight")
    output.commit()
    assert (tmp_path / "weight").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "weight")
    output = opened(tmp_path / "link")
    output.file.write(b"tensor")
    output.commit()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "weight").read_bytes() == b"tensor"


def test_a_change_of_directory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    output = opened("weight")
    monkeypatch.chdir(tmp_path / "elsewhere")
    output.commit()
    assert (tmp_path / "weight").exists()


def test_a_missing_directory_is_said_by_the_callers_path(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "weight"
    with pytest.raises(FileNotFoundError) as caught:
        opened(path)
    assert caught.value.filename == str(path)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        opened(tmp_path)


def test_a_device_is_written_to_and_not_replaced() -> None:
    output = opened(os.devnull)
    assert isinstance(output, OpenFile)
    output.file.write(b"tensor")
    output.commit()
    output.discard()
    assert output.file.closed
    assert Path(os.devnull).is_char_device()


def test_a_stream_of_the_caller_stays_open() -> None:
    stream = io.BytesIO()
    output = opened(stream)
    output.file.write(b"tensor")
    output.commit()
    output.discard()
    assert stream.getvalue() == b"tensor"


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path: Path) -> None:
    output = opened(tmp_path / "weight")
    assert isinstance(output, NewFile)
    output.file.close()
    output.file = open("/dev/full", "wb")  # noqa: SIM115, PTH123 - its last bytes cannot be written, so close() fails
    output.file.write(b"tensor")
    with pytest.raises(OSError, match="No space left"):
        output.commit()
    output.discard()
    assert list(tmp_path.iterdir()) == []
