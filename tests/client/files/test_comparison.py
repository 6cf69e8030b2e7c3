"""The comparison of a file with the server's file for the same metadata reports every difference."""

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weightwell
from weightwell.files.comparison import Claim, Comparison, first_difference

Connect = Callable[..., Any]

MANIFEST = weightwell.Manifest(
    {
        "a": {"shape": [3, 5], "scheme": "normal"},
        "b": {"shape": [], "scheme": "ones", "dtype": "float64"},
        "c": {"shape": [0, 4], "scheme": "ones"},
        "d": {"shape": [40, 30], "scheme": "xavier_uniform", "dtype": "bfloat16"},
        "e": {"alias": "d"},
    },
    seed=3,
)


@dataclass
class File:
    """A file that a server has drawn, to be tampered with."""

    path: Path

    @property
    def offset(self) -> int:
        """Where the data begins."""
        return int(8 + struct.unpack("<Q", self.path.read_bytes()[:8])[0])

    @property
    def header(self) -> dict[str, Any]:
        header: dict[str, Any] = json.loads(self.path.read_bytes()[8 : self.offset])
        return header

    def place(self, name: str) -> int:
        """Where a tensor begins."""
        return int(self.offset + self.header[name]["data_offsets"][0])

    def flip(self, position: int) -> None:
        data = bytearray(self.path.read_bytes())
        data[position] ^= 1
        self.path.write_bytes(data)

    def rewrite(self, change: Callable[[dict[str, Any]], object]) -> None:
        header, data = self.header, self.path.read_bytes()[self.offset :]
        change(header)
        text = json.dumps(header).encode()
        self.path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture(scope="module")
def drawn(server: str) -> bytes:
    """The file of the manifest."""
    with weightwell.Client(server) as client:
        plan = client.plan(MANIFEST)
        assert plan.url is not None
        return httpx.get(plan.url, trust_env=False).content


@pytest.fixture
def file(drawn: bytes, tmp_path: Path) -> File:
    path = tmp_path / "model.safetensors"
    path.write_bytes(drawn)
    return File(path)


@pytest.fixture
def verify(door: str, file: File, connect: Connect) -> Callable[[], weightwell.Verdict]:
    client = connect(door)
    return lambda: client.verify(file.path)


Verify = Callable[[], weightwell.Verdict]


def test_a_file_as_it_was_drawn_is_so(verify: Verify, file: File) -> None:
    verdict = verify()
    assert verdict.same
    assert str(verdict) == f"verified: all {len(file.path.read_bytes())} bytes match (4 tensors)"


def test_the_repr_of_a_verdict_is_one_line(verify: Verify, file: File) -> None:
    size = file.path.stat().st_size
    assert repr(verify()) == f"Verdict(same=True, 4 tensors, {size} bytes)"
    file.path.write_bytes(file.path.read_bytes() + b"?")
    assert repr(verify()).endswith(f", {size} bytes, 0 differences, 1 remarks)")


def test_a_file_of_one_tensor_is_so(door: str, connect: Connect, tmp_path: Path) -> None:
    client = connect(door)
    client.save(tmp_path / "w", (64, 32), "normal", seed=2**64 - 1, std=0.02, slice="8:16,:", name="w")
    assert client.verify(str(tmp_path / "w")).same


@pytest.mark.parametrize(("byte", "index"), [(0, (0, 0)), (59, (0, 29)), (60, (1, 0)), (2399, (39, 29))])
def test_a_flipped_bit_is_found_in_its_element(verify: Verify, file: File, byte: int, index: tuple[int, ...]) -> None:
    position = file.place("d") + byte
    file.flip(position)
    verdict = verify()
    assert verdict.differences == (weightwell.Difference("d", index, position),)
    assert str(verdict) == (
        f"1 of 4 tensors differ; the first is d, from element {list(index)} on, byte {position} of the file"
    )


def test_the_first_of_several_is_the_first_of_the_file(verify: Verify, file: File) -> None:
    for name in ("d", "b", "a"):
        file.flip(file.place(name))
    verdict = verify()
    assert [each.tensor for each in verdict.differences] == sorted("abd", key=file.place)
    assert str(verdict).startswith(f"3 of 4 tensors differ; the first is {verdict.differences[0].tensor}, ")
    assert not verdict.same


def test_a_scalar_has_an_index_of_no_dimensions(verify: Verify, file: File) -> None:
    file.flip(file.place("b") + 7)
    assert verify().differences == (weightwell.Difference("b", (), file.place("b") + 7),)


@pytest.mark.parametrize("missing", [1, 2000])
def test_a_file_that_is_cut_off_says_where(verify: Verify, file: File, missing: int) -> None:
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-missing])
    verdict = verify()
    assert verdict.remarks == (f"the file is cut off after {len(whole) - missing} of {len(whole)} bytes",)
    assert verdict.differences[0].byte == len(whole) - missing


def test_bytes_after_the_end_are_no_part_of_the_file(verify: Verify, file: File) -> None:
    file.path.write_bytes(file.path.read_bytes() + b"xyz")
    assert verify().remarks == ("3 bytes follow the end of the file",)


def test_another_generator_is_said_and_the_data_compared(verify: Verify, file: File) -> None:
    file.rewrite(lambda header: header["__metadata__"].update(generator="philox/0"))
    verdict = verify()
    assert len(verdict.remarks) == 1
    assert "the metadata differ in 'generator': 'philox/0' in the file, 'philox" in str(verdict)
    assert "the data of 4 tensors matches" in str(verdict)
    assert not verdict.same


def test_a_file_rewritten_by_another_library_has_the_same_data(verify: Verify, file: File) -> None:
    file.rewrite(lambda header: header.update(dict(reversed(header.items()))))
    verdict = verify()
    assert verdict.remarks == (
        "the header has the same tensors and metadata, but in another order or with other spaces",
    )
    assert verdict.differences == ()


def test_a_tensor_that_only_one_of_the_two_has_is_named(verify: Verify, file: File) -> None:
    def rename(header: dict[str, Any]) -> None:
        header["z"] = header.pop("a")

    file.rewrite(rename)
    verdict = verify()
    assert verdict.remarks == ("a is not in the file", "z is in the file, and not in its spec")
    assert verdict.tensors == 3  # of the four that the server draws


def test_a_tensor_of_another_shape_is_named(verify: Verify, file: File) -> None:
    file.rewrite(lambda header: header["a"].update(shape=[5, 3]))
    verdict = verify()
    assert verdict.remarks == ("a is F32 [5, 3] in the file, and by its spec F32 [3, 5]",)
    assert "the data of 3 tensors matches" in str(verdict)


def test_a_spec_that_the_server_refuses_is_its_words(verify: Verify, file: File) -> None:
    def change(header: dict[str, Any]) -> None:
        metadata = header["__metadata__"]
        metadata["spec"] = metadata["spec"].replace("xavier_uniform", "xavier_unicorn")

    file.rewrite(change)
    with pytest.raises(weightwell.InvalidRequest, match="xavier_unicorn"):
        verify()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "has no spec"),
        ({"format": "pt"}, "has no spec"),
        ({"spec": "{"}, "not JSON"),
        ({"spec": "[]"}, "not a spec of Weightwell"),
    ],
)
def test_a_file_that_claims_nothing_cannot_be_verified(file: File, metadata: Any, message: str) -> None:
    file.rewrite(lambda header: header.update(__metadata__=metadata))
    with pytest.raises(ValueError, match=message):
        Claim(file.path)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 20, (2).to_bytes(8, "little") + b"[]"])
def test_what_is_no_safetensors_file_cannot_be_verified(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'file'} cannot be verified"):
        Claim(tmp_path / "file")


@given(st.binary(min_size=1, max_size=300), st.data())
def test_the_first_difference_is_the_first(text: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(text) - 1))
    other = bytearray(text)
    other[position] ^= 5
    tail = data.draw(st.binary(max_size=len(text) - position - 1))
    other[position + 1 : position + 1 + len(tail)] = tail
    assert first_difference(text, bytes(other)) == position
    assert first_difference(text, text[:position]) == position


@given(st.randoms(use_true_random=True))
def test_ranges_may_come_in_any_order(drawn: bytes, random: Random) -> None:
    with TemporaryDirectory() as directory:
        file = File(Path(directory) / "file")
        file.path.write_bytes(drawn)
        position = random.randrange(file.offset, len(drawn))
        file.flip(position)
        with closing(Claim(file.path)) as claim:
            comparison = Comparison(claim)
            size = max(entry.stop for entry in claim.entries.values())
            comparison.open(claim.head, size, None)
            data = drawn[file.offset :]
            cuts = sorted({0, size, *(random.randrange(size) for _ in range(5))})
            for start, stop in random.sample(list(pairwise(cuts)), len(cuts) - 1):
                _fill(comparison.buffers(start, stop), data[start:stop])
            assert [each.byte for each in comparison.verdict().differences] == [position]


def test_a_new_attempt_forgets_earlier_differences(file: File) -> None:
    claim = Claim(file.path)
    comparison = Comparison(claim)
    size = max(entry.stop for entry in claim.entries.values())
    data = file.path.read_bytes()[file.offset :]
    for offset in (1, 0):
        comparison.open(claim.head, size, None)
        _fill(comparison.buffers(0, size), bytes(byte ^ offset for byte in data))
        assert comparison.verdict().same == (offset == 0)
    claim.close()


def _fill(windows: Iterator[memoryview], data: bytes) -> None:
    start = 0
    for window in windows:
        window[:] = data[start : start + len(window)]
        start += len(window)
