"""Requests: every field reaches the server as it was meant."""

import math

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell.request import MAX_QUERY, asking


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_as_the_same_float(value: float) -> None:
    text = asking("init", std=value).fields["std"]
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (2**64 - 1, "18446744073709551615"), ((3, 4), "3,4"), ((), ""), ("a&b", "a&b")],
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
