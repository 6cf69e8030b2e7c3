"""A part survives an interruption, and becomes either the complete file or nothing."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from weightwell.files import disk
from weightwell.files.part import Part
from weightwell.transfers.spans import Span

HEAD = b"12345678{header}"
DATA = bytes(range(256)) * 16
ETAG = '"one"'


def opened(path: Path, etag: str | None = ETAG, size: int = len(DATA)) -> tuple[Part, Sequence[Span]]:
    part = Part(path)
    return part, part.open(HEAD, size, etag)


def fill(part: Part, start: int, stop: int) -> None:
    stream = io.BytesIO(DATA[start:stop])
    for window in part.buffers(start, stop):
        stream.readinto(window)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weight"


def test_a_file_appears_when_it_is_committed(path: Path) -> None:
    part, there = opened(path)
    assert list(there) == []
    fill(part, 2000, len(DATA))
    fill(part, 0, 2000)
    assert not path.exists()
    part.commit()
    part.close()
    assert path.read_bytes() == HEAD + DATA
    assert list(path.parent.iterdir()) == [path]


def test_what_was_interrupted_is_gone_on_with(path: Path) -> None:
    part, _ = opened(path)
    fill(part, 100, 200)
    fill(part, 3000, 4000)
    part.close()
    part, there = opened(path)
    assert list(there) == [(100, 200), (3000, 4000)]
    for start, stop in [(0, 100), (200, 3000), (4000, len(DATA))]:
        fill(part, start, stop)
    part.commit()
    assert path.read_bytes() == HEAD + DATA
    assert list(path.parent.iterdir()) == [path]


def test_a_buffer_that_is_not_full_is_not_there(path: Path) -> None:
    part, _ = opened(path)
    fill(part, 0, 100)
    buffers = part.buffers(100, 200)
    next(buffers)
    part.close()
    part, there = opened(path)
    assert list(there) == [(0, 100)]
    part.close()


def test_a_part_of_another_file_is_replaced(path: Path) -> None:
    part, _ = opened(path)
    fill(part, 0, len(DATA))
    part.close()
    part, there = opened(path, etag='"two"')
    assert list(there) == []
    assert (path.parent / "weight.part").read_bytes() == HEAD + bytes(len(DATA))
    part.close()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("size", [0, 100, len(HEAD) + len(DATA) + 1])
def test_a_record_of_another_part_claims_nothing(path: Path, size: int) -> None:
    part, _ = opened(path)
    fill(part, 0, len(DATA))
    part.close()
    (path.parent / "weight.part").write_bytes(bytes(size))
    part, there = opened(path)
    assert list(there) == []
    part.close()


def test_what_has_no_entity_tag_is_not_kept(path: Path) -> None:
    part, _ = opened(path, etag=None)
    fill(part, 0, 100)
    part.close()
    assert list(path.parent.iterdir()) == []


def test_what_has_not_begun_is_not_kept(path: Path) -> None:
    Part(path).close()
    assert list(path.parent.iterdir()) == []


def test_an_attempt_to_which_nothing_comes_leaves_the_part_of_an_earlier_one(path: Path) -> None:
    part, _ = opened(path)
    fill(part, 0, 100)
    part.close()
    Part(path).close()
    part, there = opened(path)
    assert list(there) == [(0, 100)]
    part.close()


def test_starting_over_leaves_nothing_of_the_first_beginning(path: Path) -> None:
    part, _ = opened(path)
    fill(part, 0, len(DATA))
    assert list(part.open(b"head", 6, '"two"')) == []
    fill(part, 0, 6)
    part.commit()
    assert path.read_bytes() == b"head" + DATA[:6]


def test_bytes_that_were_overwritten_are_not_there(path: Path) -> None:
    part, _ = opened(path)
    fill(part, 0, 1000)
    fill(part, 1000, 2000)
    part.close()
    with (path.parent / "weight.part").open("r+b") as file:
        file.seek(len(HEAD) + 1500)
        file.write(b"damaged")
    part, there = opened(path)
    assert list(there) == [(0, 1000)]
    part.close()


@pytest.mark.parametrize("name", ["weight.part", "weight.part.json"])
def test_a_fifo_in_the_place_of_a_part_is_an_error(path: Path, name: str) -> None:
    os.mkfifo(path.parent / name)
    with pytest.raises(OSError, match="is not a regular file: remove it"):
        opened(path)


def test_a_part_that_is_discarded_is_not_kept(path: Path) -> None:
    part, _ = opened(path)
    fill(part, 0, len(DATA))
    part.discard()
    part.close()
    assert list(path.parent.iterdir()) == []


def test_a_second_save_to_the_same_path_is_refused(path: Path) -> None:
    part, _ = opened(path)
    fill(part, 0, 100)
    with pytest.raises(BlockingIOError, match="another process") as caught:
        Part(path)
    assert caught.value.filename == str(path)
    fill(part, 100, len(DATA))
    part.commit()
    assert path.read_bytes() == HEAD + DATA


def test_the_lock_goes_with_the_process(path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from weightwell.files.part import Part
Part(Path({str(path)!r}))
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (path.parent / "weight.part").exists()
    part, _ = opened(path)
    part.commit()


def test_a_lock_on_a_renamed_file_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, _ = opened(path)
    fill(part, 0, len(DATA))
    lock = disk.lock

    def late(descriptor: int) -> None:
        monkeypatch.setattr(disk, "lock", lock)
        part.commit()  # the other one is done between our opening of the part and our lock
        lock(descriptor)

    monkeypatch.setattr(disk, "lock", late)
    again, there = opened(path, etag='"two"')
    assert list(there) == []
    assert path.read_bytes() == HEAD + DATA
    again.close()


def test_a_file_has_the_permissions_of_any_new_file(path: Path) -> None:
    (path.parent / "plain").touch()
    opened(path)[0].commit()
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode


def test_a_link_stays_a_link(path: Path) -> None:
    (path.parent / "link").symlink_to(path)
    opened(path.parent / "link", size=0)[0].commit()
    assert (path.parent / "link").is_symlink()
    assert path.read_bytes() == HEAD


def test_a_link_to_itself_is_replaced(path: Path) -> None:
    path.symlink_to(path)
    opened(path, size=0)[0].commit()
    assert path.read_bytes() == HEAD


def test_a_part_that_is_a_link_is_not_followed(path: Path) -> None:
    (path.parent / "weight.part").symlink_to(path.parent / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        Part(path)
    assert not (path.parent / "precious").exists()


def test_a_change_of_directory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    part, _ = opened(Path("weight"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    part.commit()
    assert (tmp_path / "weight").exists()


def test_a_missing_directory_is_said_by_the_callers_path(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "weight"
    with pytest.raises(FileNotFoundError) as caught:
        Part(path)
    assert caught.value.filename == str(path)


def test_a_disk_that_is_too_small_says_so_before_anything_comes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "allocate", _full)
    part = Part(path)
    with pytest.raises(OSError, match=f"the file takes {len(HEAD) + len(DATA)} bytes, and [0-9]+ are free") as caught:
        part.open(HEAD, len(DATA), ETAG)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    part.close()
    assert list(path.parent.iterdir()) == []


def test_what_has_come_before_the_disk_is_full_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, _ = opened(path)
    fill(part, 0, 100)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_at", _full)
        with pytest.raises(OSError, match="No space left"):
            fill(part, 100, 200)
    part.close()
    part, there = opened(path)
    assert list(there) == [(0, 100)]
    part.close()


def test_a_file_larger_than_any_disk_is_an_error_at_once(path: Path) -> None:
    part = Part(path)
    with pytest.raises(OSError, match=r"File too large|No space left") as caught:
        part.open(HEAD, 1 << 60, ETAG)
    assert caught.value.filename == str(path)
    part.close()
    assert list(path.parent.iterdir()) == []


def test_a_file_system_that_cannot_take_room_ahead_still_takes_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refused)
    part, _ = opened(path)
    fill(part, 0, len(DATA))
    part.commit()
    assert path.read_bytes() == HEAD + DATA


def _full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
