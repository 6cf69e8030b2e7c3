"""Pipes and devices are written directly; regular files are written as a part first."""

import io
import os
from pathlib import Path

import pytest

from weightwell.files.output import OpenFile, opened
from weightwell.files.part import Part


def test_a_path_becomes_a_part(tmp_path: Path) -> None:
    output = opened(str(tmp_path / "weight"))
    output.close()
    assert isinstance(output, Part)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        opened(tmp_path)


def test_a_device_is_written_to_and_not_replaced() -> None:
    output = opened(os.devnull)
    assert isinstance(output, OpenFile)
    output.destination.open(b"head", 0, None)
    output.commit()
    output.close()
    assert Path(os.devnull).is_char_device()


def test_a_stream_of_the_caller_stays_open() -> None:
    stream = io.BytesIO()
    output = opened(stream)
    output.destination.open(b"head", 0, None)
    output.commit()
    output.close()
    assert stream.getvalue() == b"head"
