import base64
import json
import zlib
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs, TooLarge
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import UNLIMITED, make_plan
from weightwell_engine.spec import Spec, TensorSpec
from weightwell_service.links import MAX_URL, address, link, pack, unpack
from weightwell_service.queries import read_query

TIED = {
    "seed": 2**64 - 1,
    "generator": "torch",
    "tensors": {
        "é\n.weight": {"shape": [3, 5], "scheme": "he_normal", "slice": "0:2,:"},
        "count": {"shape": [], "scheme": "zeros", "dtype": "int64"},
        "head.weight": {"alias": "é\n.weight"},
    },
}


def spec(fields: dict[str, Any]) -> Spec:
    return read_document(json.dumps(fields).encode())


def followed(url: str) -> Spec:
    """Return the spec that a link leads to."""
    assert url.isascii()
    assert urlsplit(url).path == "/init"
    return read_query(parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True))


def models(layers: int) -> dict[str, Any]:
    """Return a manifest as large as that of a Llama with so many layers: 9 tensors a layer, 3 beside them."""
    names = [f"self_attn.{each}_proj" for each in "qkvo"] + [f"mlp.{each}_proj" for each in ("gate", "up", "down")]
    weights = {f"model.layers.{i}.{name}.weight": {"shape": [8192, 8192]} for i in range(layers) for name in names}
    norms = {
        f"model.layers.{i}.{name}_layernorm.weight": {"shape": [8192]}
        for i in range(layers)
        for name in ("input", "post_attention")
    }
    ends = {
        "model.embed_tokens.weight": {"shape": [128256, 8192]},
        "model.norm.weight": {"shape": [8192]},
        "lm_head.weight": {"shape": [128256, 8192]},
    }
    rules = [{"match": "*norm.weight", "scheme": "ones"}, {"match": "*", "scheme": "normal", "std": 0.02}]
    return {"seed": 42, "dtype": "bfloat16", "rules": rules, "tensors": weights | norms | ends}


# The link of a spec --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        TIED,
        {"tensors": {}},
        {"shape": [3, 5], "scheme": "normal"},
        {"shape": [], "scheme": "constant", "val": -0.1, "name": "a&b=c d+é%"},
        {"shape": [4, 6], "scheme": "he_normal", "transposed": True, "fan_in": 9, "slice": "1:2,:", "seed": 2**64 - 1},
        {"tensors": {"w": {"shape": [3], "scheme": "ones"}, "v": {"alias": "w"}}},
    ],
)
def test_a_link_leads_to_the_spec(fields: dict[str, Any]) -> None:
    asked = spec(fields)
    assert followed(link(asked)) == asked
    assert followed(link(asked)).canonical() == asked.canonical()


def test_the_link_of_one_tensor_can_be_read() -> None:
    url = link(spec({"tensors": {"fc.weight": {"shape": [3, 5], "scheme": "normal", "std": 0.02}}}))
    assert url.startswith("/init?shape=3,5&scheme=normal&mean=0.0&std=0.02&dtype=float32&seed=0&name=fc.weight&")


def test_the_manifest_of_a_model_of_seventy_billion_parameters_fits_into_a_url() -> None:
    asked = spec(models(layers=80))
    assert len(asked.tensors) == 723
    assert len(link(asked)) < MAX_URL / 2


# The packing ---------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8")))
def test_what_is_packed_is_unpacked(text: str) -> None:
    assert unpack(pack(text), limit=10**6) == text.encode()


@pytest.mark.parametrize("level", range(10))
def test_any_compression_level_is_accepted(level: int) -> None:
    text = json.dumps(TIED, indent=2).encode()
    padded = base64.urlsafe_b64encode(zlib.compress(text, level)).decode()
    assert read_query([("manifest", padded)]) == read_query([("manifest", padded.rstrip("="))]) == spec(TIED)


def test_a_single_tensor_can_be_packed_as_well() -> None:
    fields = {"shape": [3], "scheme": "ones"}
    assert read_query([("manifest", pack(json.dumps(fields)))]) == spec(fields)


PACKED = pack(json.dumps(TIED))


@pytest.mark.parametrize(
    "packed",
    [
        *("", "=", "A", "e*", "é", "eNo", "eJw", PACKED[:-2], PACKED + "AAAA", PACKED.replace("e", "+", 1)),
        base64.urlsafe_b64encode(json.dumps(TIED).encode()).decode(),
        base64.urlsafe_b64encode(zlib.compress(b"{}", wbits=-15)).decode(),
    ],
)
def test_an_invalid_packed_manifest_is_refused(packed: str) -> None:
    with pytest.raises(
        InvalidSpec, match="manifest must be complete JSON, compressed with zlib, in base64url"
    ) as caught:
        unpack(packed, limit=10**6)
    assert caught.value.field == "manifest"


def test_a_little_text_that_unpacks_to_much_is_refused_before_it_has() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * 2**22, 9)).decode()
    assert len(bomb) < MAX_URL
    with pytest.raises(TooLarge, match="more than the 65536 bytes"):
        unpack(bomb, limit=2**16)


def test_a_manifest_may_be_as_long_as_is_allowed_and_no_longer() -> None:
    assert len(unpack(pack("x" * 100), limit=100)) == 100
    with pytest.raises(TooLarge):
        unpack(pack("x" * 101), limit=100)


def test_what_unpacks_to_a_mebibyte_is_too_large_however_much_may_be_posted() -> None:
    with pytest.raises(TooLarge, match="more than the 1048576 bytes that this server reads from a URL; post it"):
        read_query([("manifest", pack(" " * (2**20 + 1)))], max_manifest=2**24)


# Queries -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["shape", "seed", "generator", "unknown"])
def test_a_manifest_stands_alone_in_a_query(field: str) -> None:
    with pytest.raises(InvalidSpec, match=f"{field} must be absent if there is a manifest") as caught:
        read_query([("manifest", PACKED), (field, "1")])
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"tensors": {}, "tensors": {}}', "NaN"])
def test_a_packed_text_that_is_no_json_object_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_query([("manifest", pack(text))])
    assert caught.value.field == "manifest"


def test_errors_of_a_packed_manifest_are_those_of_a_posted_one() -> None:
    text = json.dumps({"tensors": {"a": {"shape": [-1], "scheme": "ones"}, "b": {"alias": "c"}}})
    with pytest.raises(InvalidSpecs) as posted:
        read_document(text.encode())
    with pytest.raises(InvalidSpecs, match="a: shape must be") as linked:
        read_query([("manifest", pack(text))])
    assert str(linked.value) == str(posted.value)


def many(count: int, generator: str) -> tuple[str | None, str | None]:
    """Return the address of a file of tensors whose names no compression makes short."""
    names = (f"{i * 2654435761 % 2**32:x}" for i in range(count))
    tensors = {name: {"shape": [1], "scheme": "ones"} for name in names}
    return address(read_document(json.dumps({"tensors": tensors, "generator": generator}).encode()))


@pytest.mark.parametrize(
    ("generator", "advice"),
    [("philox", "or split it into 3 manifests"), ("torch", "do not split it: with generator=torch")],
)
def test_the_note_for_a_long_manifest_has_the_number_of_parts(generator: str, advice: str) -> None:
    url, note = many(2000, generator)
    assert url is None
    assert advice in str(note)


@pytest.mark.parametrize("layers", [1, 80, 200])
def test_the_address_of_a_manifest_is_its_link(layers: int) -> None:
    asked = spec(models(layers))
    assert address(asked) == (link(asked), None)


def test_a_manifest_that_is_too_long_for_a_url_is_compressed_no_further_than_to_know_that() -> None:
    compressed = []

    class Deflater:
        def compress(self, data: bytes) -> bytes:
            compressed.append(len(data))
            return data

        def flush(self) -> bytes:
            return b""

    with mock.patch("weightwell_service.links.zlib.compressobj", return_value=Deflater()):
        assert many(20_000, "philox")[0] is None
    assert len(compressed) == 1


def test_the_canonical_text_of_a_spec_is_made_once_for_its_plan_and_its_address() -> None:
    asked = spec(models(1))
    with mock.patch.object(TensorSpec, "canonical", autospec=True, side_effect=TensorSpec.canonical) as made:
        make_plan(asked, "philox", portable=True, max_bytes=UNLIMITED)
        address(asked)
    assert made.call_count == len(asked.tensors)


def test_no_address_has_more_json_than_a_server_reads() -> None:
    names = [f"{'a' * 1020}{i:04}" for i in range(1000)]
    asked = spec({"tensors": {name: {"shape": [1], "scheme": "ones"} for name in names}})
    assert len(link(asked)) < MAX_URL
    url, note = address(asked)
    assert url is None
    assert "a server reads at most 1048576" in str(note)
    assert "split it into 2 manifests" in str(note)


def test_the_parts_of_a_split_manifest_do_fit_into_a_url() -> None:
    url, note = many(2000 // 3, "philox")
    assert len(str(url)) <= MAX_URL
    assert note is None
