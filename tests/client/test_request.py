"""Requests: the server receives every field with the right value."""

import base64
import json
import math
import zlib
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.request import MAX_MANIFEST, MAX_QUERY, asking, asking_for_manifest


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_as_the_same_float(value: float) -> None:
    text = asking("init", std=value).fields["std"]
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (2**64 - 1, "18446744073709551615"),
        ((3, 4), "3,4"),
        ((), ""),
        ([0, -1], "0,-1"),
        ("a&b", "a&b"),
    ],
)
def test_a_field_has_the_text_that_the_server_reads(value: object, text: str) -> None:
    assert asking("init", field=value).fields == {"field": text}


def test_a_field_that_is_not_given_is_not_sent() -> None:
    assert asking("gain", param=None, source=None).fields == {}


@pytest.mark.parametrize("length", [MAX_QUERY - 5, MAX_QUERY - 4])
def test_a_query_that_is_too_long_becomes_a_body(length: int) -> None:
    request = asking("init", name="n" * length, seed=None)
    query = str(httpx.QueryParams({"name": "n" * length}))
    assert request.method == ("GET" if len(query) <= MAX_QUERY else "POST")


def test_a_body_keeps_numbers_as_numbers() -> None:
    request = asking("init", shape=(3, 4), std=0.5, transposed=True, name="é" * 4096)
    assert request.message["json"] == {"shape": (3, 4), "std": 0.5, "transposed": True, "name": "é" * 4096}


def unpacked(text: str) -> Any:
    """The manifest in a query."""
    return json.loads(zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))


JSON = st.recursive(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_a_manifest_comes_back_out_of_its_url(manifest: dict[str, Any]) -> None:
    request = asking_for_manifest("init", manifest)
    assert request.method == "GET"
    assert unpacked(request.fields["manifest"]) == manifest
    assert str(httpx.URL("http://server/init", params=request.fields)).endswith(request.fields["manifest"])


def test_a_manifest_that_is_too_long_for_a_url_is_posted() -> None:
    names = [str(math.sin(number)) for number in range(1000)]  # nothing that could be compressed well
    requests = [asking_for_manifest("init", {"tensors": names[:count]}) for count in range(0, 1000, 10)]
    methods = [request.method for request in requests]
    fits = methods.index("POST")
    assert methods == ["GET"] * fits + ["POST"] * (100 - fits)
    assert 0.95 * MAX_MANIFEST < len(requests[fits - 1].fields["manifest"]) <= MAX_MANIFEST
    assert requests[fits].message["json"] == {"tensors": names[: 10 * fits]}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_does_not_have_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = asking_for_manifest("init", {"tensors": {"w": {"std": value}}}).message
