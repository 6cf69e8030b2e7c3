"""File objects: whatever reads files reads the file that ``save`` writes, range by range."""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

import weightwell
from weightwell.files.remote import HttpReadable, OpenFile

if TYPE_CHECKING:
    from tests.client.conftest import Server

DATA = bytes(range(256)) * 4


class Memory:
    """A source of ``DATA``, which counts its reads."""

    nbytes = len(DATA)

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.closed = 0

    def read_into(self, start: int, buffer: memoryview) -> int:
        self.reads.append((start, len(buffer)))
        count = len(DATA[start : start + len(buffer)])
        buffer[:count] = DATA[start : start + count]
        return count

    def close(self) -> None:
        self.closed += 1


# The file object -----------------------------------------------------------------------------------------------------


def test_a_file_object_does_what_a_file_of_the_same_bytes_does() -> None:
    file, twin = OpenFile(Memory(), "name"), io.BytesIO(DATA)
    for offset, whence, count in [
        (0, 0, 7),
        (3, 1, 100),
        (-5, 2, 20),
        (2000, 0, 3),
        (0, 2, 1),
        (1000, 0, -1),
        (9, 0, 0),
    ]:
        assert file.seek(offset, whence) == twin.seek(offset, whence)
        assert file.read(count) == twin.read(count)
        assert file.tell() == twin.tell()
    assert file.seek(0, os.SEEK_END) == len(DATA)
    assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
    assert (file.name, file.mode) == ("name", "rb")


def test_memory_of_any_element_type_is_filled() -> None:
    array = np.zeros(5, np.int32)
    assert OpenFile(Memory(), "name").readinto(array) == 20
    assert array.tobytes() == DATA[:20]


def test_the_rest_of_a_file_is_one_read() -> None:
    source = Memory()
    file = OpenFile(source, "name")
    file.seek(24)
    assert file.read() == DATA[24:]
    assert source.reads == [(24, 1000)]


def test_a_buffered_reader_reads_in_large_blocks() -> None:
    source = Memory()
    with io.BufferedReader(OpenFile(source, "name"), 512) as file:
        assert b"".join(file.read(1) for _ in range(600)) == DATA[:600]
    assert source.reads == [(0, 512), (512, 512)]
    assert source.closed == 1


def test_a_closed_file_cannot_be_read() -> None:
    source = Memory()
    with OpenFile(source, "name") as file:
        pass
    file.close()
    assert source.closed == 1
    for use in (file.tell, file.read, file.readall, lambda: file.seek(0), lambda: file.readinto(bytearray(1))):
        with pytest.raises(ValueError, match="closed"):
            use()


@pytest.mark.parametrize(("position", "whence"), [(-1, 0), (-1025, 2), (0, 7)])
def test_a_position_that_cannot_be_is_refused(position: int, whence: int) -> None:
    with pytest.raises(ValueError, match=r"must be 0 or more, got -1|whence must be 0, 1 or 2, got 7"):
        OpenFile(Memory(), "name").seek(position, whence)


def test_what_is_beyond_the_end_is_not_requested() -> None:
    source = HttpReadable(10, lambda _, buffer: len(buffer))
    assert source.read_into(4, memoryview(bytearray(20))) == 6
    assert source.read_into(10, memoryview(bytearray(20))) == 0


# With a server -------------------------------------------------------------------------------------------------------

MANIFEST = {"tensors": {"a": {"shape": [300, 7], "scheme": "normal"}, "b": {"shape": [5], "scheme": "ones"}}, "seed": 3}


@pytest.fixture
def client(server: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(server) as client:
        yield client


def test_the_file_is_the_one_that_save_writes(client: weightwell.Client) -> None:
    saved, copied = io.BytesIO(), io.BytesIO()
    client.save(saved, MANIFEST)
    with client.open(MANIFEST) as file:
        shutil.copyfileobj(file, copied, 1000)
        assert copied.getvalue() == saved.getvalue()
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(saved.getvalue()).digest()
        assert client.plan(MANIFEST).url == file.name
        assert repr(file) == f"<OpenFile of {len(saved.getvalue())} bytes: {file.name}>"


def test_libraries_read_it(client: weightwell.Client) -> None:
    with io.BufferedReader(client.open((300, 7), "normal", seed=3), 1 << 20) as file:
        assert torch.equal(load(file.read())["weight"], client.init((300, 7), "normal", seed=3))


@pytest.mark.parametrize("generator", ["philox", "torch"])
def test_any_range_of_it_is_right(client: weightwell.Client, generator: str) -> None:
    whole = io.BytesIO()
    client.save(whole, (300, 7), "normal", generator=generator)
    with client.open((300, 7), "normal", generator=generator) as file:
        for start, count in [(8000, 900), (3, 5), (0, 1), (701, 1024)]:
            file.seek(start)
            assert file.read(count) == whole.getvalue()[start : start + count]


def test_a_manifest_that_is_too_long_for_a_url_is_refused(client: weightwell.Client) -> None:
    names = [hashlib.sha256(bytes([each % 256, each // 256])).hexdigest() for each in range(400)]
    manifest = {"tensors": {name: {"shape": [1], "scheme": "ones"} for name in names}}
    with pytest.raises(ValueError, match=r"too long for a URL.*fewer tensors, use weightwell\.local\(\), or save"):
        client.open(manifest)


def test_an_invalid_request_is_refused_when_the_file_is_opened(client: weightwell.Client) -> None:
    with pytest.raises(weightwell.InvalidRequest, match="std"):
        client.open((3, 4), "normal", std=-1)


# With a server that misbehaves ---------------------------------------------------------------------------------------


class Planned:
    """A client of a fake server, and the file that it opens. The first answer is the plan of the file."""

    def __init__(self, fake: "Server", client: weightwell.Client):
        self.naps: list[float] = []
        self.open = client.open
        self.bytes = fake.file_of({"shape": "30,7", "dtype": "float32", "scheme": "normal", "seed": "0"})
        door: Any = client._door
        door.sleep = lambda seconds, _: self.naps.append(seconds)
        door.retry.clock = lambda: sum(self.naps)
        tensor = {"shape": [30, 7], "dtype": "float32", "seed": 0, "scheme": "normal"}
        plan = {
            "url": "/init?shape=30,7",
            "nbytes": len(self.bytes),
            "etag": fake.etag_of(self.bytes),
            "url_note": None,
            "refusal": None,
            "generator": {"name": "philox", "identity": "philox"},
            "unused": [],
            "tensors": {"weight": {**tensor, "parameters": {"mean": 0.0, "std": 1.0}}},
        }
        fake.faults.append(fake.answer(200, json.dumps(plan).encode(), Content_Type="application/json"))


@pytest.fixture
def planned(fake: "Server") -> Iterator[Planned]:
    with weightwell.Client(fake.url, wait=100) as client:
        yield Planned(fake, client)


def test_reads_are_conditional_ranges_of_the_planned_file(fake: "Server", planned: Planned) -> None:
    with planned.open((30, 7), "normal") as file:
        file.seek(100)
        assert file.read(50) == planned.bytes[100:150]
        assert file.read() == planned.bytes[150:]
        assert file.read() == b""
    etag = fake.etag_of(planned.bytes)
    assert [(asked.path, asked.headers.get("range"), asked.headers.get("if-range")) for asked in fake.requests] == [
        ("/plan", None, None),
        ("/init", "bytes=100-149", etag),
        ("/init", "bytes=150-", etag),
    ]


def test_a_broken_read_is_continued(fake: "Server", planned: Planned) -> None:
    fake.faults.extend([fake.cut(10), fake.silence, fake.refuse(503), fake.cut(33)])
    with planned.open((30, 7), "normal") as file:
        assert file.read() == planned.bytes
    ranges = [asked.headers.get("range") for asked in fake.requests[1:]]
    assert ranges == ["bytes=0-", "bytes=10-", "bytes=10-", "bytes=10-", "bytes=43-"]
    assert planned.naps


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("other_file", weightwell.FileChanged, "has changed"),
        ("without_ranges", weightwell.FileChanged, "sent the whole file where a range was requested"),
        ("not_found", weightwell.NotFound, "404"),
        ("other_range", weightwell.UnexpectedResponse, "not the requested range"),
    ],
)
def test_a_read_that_cannot_succeed_is_an_error(
    fake: "Server", planned: Planned, fault: str, kind: type[Exception], words: str
) -> None:
    faults = {
        "not_found": fake.refuse(404),
        "other_range": fake.change(Content_Range="bytes 1-20/1000"),
    }
    fake.faults.append(faults.get(fault) or getattr(fake, fault))
    with planned.open((30, 7), "normal") as file, pytest.raises(kind, match=re.escape(words)):
        file.read(20)
    assert len(fake.requests) == 2
