"""Over a socket, ``/init`` behaves like a file of a static web server."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors
import safetensors.numpy
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from weightwell_engine.schemes import SCHEMES
from weightwell_engine.spec import GENERATORS
from weightwell_service.app import create_app
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]
Query = dict[str, str]

SMALL = {"shape": "7,3", "scheme": "normal", "dtype": "float16"}
FILES: dict[str, Query] = {
    "small": SMALL,
    "of odd size": {"shape": "13", "scheme": "constant", "val": "2", "dtype": "float8_e5m2"},
    "of many chunks": {"shape": "523,521", "scheme": "uniform"},
    "sliced": {"shape": "40,50", "scheme": "xavier_normal", "slice": "3:17,5:50"},
    "without elements": {"shape": "0,3", "scheme": "normal"},
}
OTHER = '"00000000000000000000000000000000"'

each_generator = pytest.mark.parametrize("generator", GENERATORS)
each_file = pytest.mark.parametrize("query", FILES.values(), ids=FILES)


@pytest.fixture(scope="module")
def whole(http: httpx.Client) -> httpx.Response:
    """The small file, as it comes without conditions."""
    return http.get("/init", params=SMALL)


def get(http: httpx.Client, **headers: str) -> httpx.Response:
    """Ask for the small file with the given headers, whose names have _ for -."""
    return http.get("/init", params=SMALL, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("query", "cost"),
    [
        ({"scheme": "normal"}, "proportional"),
        ({"scheme": "normal", "generator": "torch"}, "whole"),
        ({"scheme": "orthogonal"}, "whole"),
    ],
)
def test_a_header_has_the_cost_of_a_range(http: httpx.Client, query: Query, cost: str) -> None:
    assert http.head("/init", params={"shape": "7,3", **query}).headers["weightwell-range-cost"] == cost


# HEAD ----------------------------------------------------------------------------------------------------------------


@each_generator
@each_file
def test_head_has_the_headers_of_get(http: httpx.Client, query: Query, generator: str) -> None:
    query = {**query, "generator": generator}
    head, got = http.head("/init", params=query), http.get("/init", params=query)
    assert head.content == b""
    assert head.status_code == got.status_code == 200
    of_each = {"date": "", "x-request-id": ""}
    assert {**head.headers, **of_each} == {**got.headers, **of_each}
    assert len(got.content) == int(got.headers["content-length"])


@pytest.fixture(scope="module")
def vast(serve: Serve) -> Any:
    """A client of a service without limits that matter."""
    with (
        serve(create_app(Settings(max_bytes=2**62, threads=1))) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client


@each_generator
def test_head_works_for_a_file_that_is_too_costly_to_draw(vast: httpx.Client, generator: str) -> None:
    query = {"shape": f"{2**30},{2**28}", "scheme": "kaiming_normal", "generator": generator}
    headers = vast.head("/init", params=query).headers
    assert int(headers["content-length"]) > 2**60


@each_generator
def test_the_end_of_a_file_of_an_exabyte_is_a_range_like_any_other(vast: httpx.Client, generator: str) -> None:
    query = {"shape": f"{2**30},{2**28}", "scheme": "ones", "generator": generator}
    got = vast.get("/init", params=query, headers={"range": "bytes=-6"})
    assert got.status_code == 206
    assert got.content == b"\x80\x3f\x00\x00\x80\x3f"


# Ranges --------------------------------------------------------------------------------------------------------------


@each_generator
@each_file
@settings(max_examples=25)
@given(data=st.data())
def test_ranges_that_cover_a_file_are_the_file(
    http: httpx.Client, query: Query, generator: str, data: st.DataObject
) -> None:
    query = {**query, "generator": generator}
    body = http.get("/init", params=query).content
    cuts = data.draw(st.lists(st.integers(1, len(body) - 1), max_size=5, unique=True))
    ranges = [f"bytes={start}-{stop - 1}" for start, stop in pairwise([0, *sorted(cuts), len(body)])]
    parts = [http.get("/init", params=query, headers={"range": wanted}) for wanted in ranges]
    assert {part.status_code for part in parts} == {206}
    assert b"".join(part.content for part in parts) == body


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=5-8", slice(5, 9)),
        ("bytes=5-", slice(5, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-99999999999999999999", slice(5, None)),
        ("bytes=-99999999999999999999", slice(0, None)),
        ("BYTES= 5-8", slice(5, 9)),
    ],
)
def test_a_range_is_clamped_to_the_file(http: httpx.Client, whole: httpx.Response, wanted: str, part: slice) -> None:
    size = len(whole.content)
    start, stop, _ = part.indices(size)
    got = get(http, range=wanted)
    assert got.status_code == 206
    assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    assert got.headers["etag"] == whole.headers["etag"]
    assert got.content == whole.content[part]


@pytest.mark.parametrize(
    "wanted",
    ["bytes=0-1,4-5", "bytes=9-3", "bytes=a-b", "bytes=", "bytes=-", "bytes 0-1", "items=0-1", "", "bytes=1-2-3"],
)
def test_a_range_that_is_not_understood_is_ignored(http: httpx.Client, whole: httpx.Response, wanted: str) -> None:
    got = get(http, range=wanted)
    assert got.status_code == 200
    assert got.content == whole.content


@pytest.mark.parametrize("wanted", ["bytes={size}-", "bytes={size}-{size}", "bytes=99999999999999999999-", "bytes=-0"])
def test_a_range_beyond_the_end_is_a_problem_that_tells_the_size(
    http: httpx.Client, whole: httpx.Response, wanted: str
) -> None:
    size = len(whole.content)
    got = get(http, range=wanted.format(size=size))
    assert got.status_code == 416
    assert got.headers["content-range"] == f"bytes */{size}"
    assert got.json()["status"] == 416


# Conditions ----------------------------------------------------------------------------------------------------------


def test_a_range_of_the_same_file_is_resumed(http: httpx.Client, whole: httpx.Response) -> None:
    got = get(http, range="bytes=9-", if_range=whole.headers["etag"])
    assert got.status_code == 206
    assert got.content == whole.content[9:]


@pytest.mark.parametrize("condition", [OTHER, "W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT", "*", ""])
def test_a_range_of_another_file_is_the_whole_of_this_one(
    http: httpx.Client, whole: httpx.Response, condition: str
) -> None:
    got = get(http, range="bytes=9-", if_range=condition.format(etag=whole.headers["etag"]))
    assert got.status_code == 200
    assert got.content == whole.content


@pytest.mark.parametrize("condition", ["{etag}", "W/{etag}", '"a", {etag},"b"', '"a",W/{etag}', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_that_the_reader_has_is_not_sent_again(
    http: httpx.Client, whole: httpx.Response, method: str, condition: str
) -> None:
    headers = {"if-none-match": condition.format(etag=whole.headers["etag"]), "range": "bytes=0-3"}
    got = http.request(method, "/init", params=SMALL, headers=headers)
    assert got.status_code == 304
    assert got.content == b""
    kept = ("etag", "cache-control", "weightwell-generator")
    assert [got.headers[name] for name in kept] == [whole.headers[name] for name in kept]


@pytest.mark.parametrize("condition", [OTHER, f"{OTHER}, W/{OTHER}", "", "junk"])
def test_a_file_that_the_reader_has_not_is_sent(http: httpx.Client, whole: httpx.Response, condition: str) -> None:
    got = get(http, if_none_match=condition)
    assert got.status_code == 200
    assert got.content == whole.content


@pytest.mark.parametrize("condition", ["{etag}", '"a", {etag}', "*"])
def test_a_file_that_is_still_the_same_is_sent(http: httpx.Client, whole: httpx.Response, condition: str) -> None:
    assert get(http, if_match=condition.format(etag=whole.headers["etag"])).content == whole.content


@pytest.mark.parametrize("condition", [OTHER, "W/{etag}", ""])
def test_a_file_that_is_another_by_now_is_refused_and_the_refusal_kept_nowhere(
    http: httpx.Client, whole: httpx.Response, condition: str
) -> None:
    got = get(http, if_match=condition.format(etag=whole.headers["etag"]), if_none_match="*")
    assert got.status_code == 412
    assert got.headers["cache-control"] == "no-store"


def test_the_answer_to_a_post_is_the_whole_file_even_with_a_range(http: httpx.Client, whole: httpx.Response) -> None:
    spec = {**SMALL, "shape": [7, 3]}
    headers = {"range": "bytes=0-3", "if-none-match": whole.headers["etag"]}
    got = http.post("/init", json=spec, headers=headers)
    assert got.status_code == 200
    assert got.content == whole.content
    assert got.headers["etag"] == whole.headers["etag"]


# Headers -------------------------------------------------------------------------------------------------------------


def test_another_file_has_another_etag(http: httpx.Client) -> None:
    changes = [
        {},
        {"seed": "1"},
        {"name": "w"},
        {"shape": "3,7"},
        {"dtype": "float32"},
        {"std": "2"},
        {"slice": "0:6,:"},
    ]
    etags = [http.head("/init", params={**SMALL, **change}).headers["etag"] for change in changes]
    assert len(set(etags)) == len(changes)


@pytest.mark.parametrize(
    "spelling", [{"seed": "0"}, {"mean": "0"}, {"std": "1.0"}, {"name": "weight"}, {"slice": ":,0:3"}, {"slice": ":"}]
)
def test_the_same_file_in_other_words_has_the_same_etag(
    http: httpx.Client, whole: httpx.Response, spelling: Query
) -> None:
    assert http.head("/init", params={**SMALL, **spelling}).headers["etag"] == whole.headers["etag"]


def test_a_file_is_kept_for_ever_only_if_it_never_changes(http: httpx.Client) -> None:
    kept = {
        row["name"]: "immutable"
        in http.head("/init", params={**SMALL, "generator": row["name"]}).headers["cache-control"]
        for row in http.get("/schemes").json()["generators"]
    }
    portable = {row["name"]: row["portable"] for row in http.get("/schemes").json()["generators"]}
    assert kept == portable


def test_a_file_is_bytes_and_never_compressed(http: httpx.Client) -> None:
    headers = get(http, accept_encoding="gzip, br, zstd", accept="text/html").headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["accept-ranges"] == "bytes"
    assert "content-encoding" not in headers


@pytest.mark.parametrize(
    "name", ["h.0.weight", "a b", "poids\u00e9", 'a"; filename="b', "../../etc/passwd", "\r\nx: y", "\U0001f600"]
)
def test_a_name_cannot_get_out_of_the_file_name(http: httpx.Client, name: str) -> None:
    got = http.get("/init", params={**SMALL, "name": name})
    stem = got.headers["content-disposition"].removeprefix('attachment; filename="').removesuffix('.safetensors"')
    assert stem
    assert set(stem) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert list(safetensors.numpy.load(got.content)) == [name]


# The files themselves ------------------------------------------------------------------------------------------------


def required(scheme: str) -> dict[str, Any]:
    if scheme == "randint":
        return {"high": 7, "dtype": "int8"}
    if scheme == "power_of_two":
        return {"low": -2, "high": 2}
    names = [parameter.name for parameter in SCHEMES[scheme].parameters if parameter.default is ...]
    return {name: [0.5, 1, -2, 0.1] if name == "values" else 0.5 for name in names} | (
        {"dims": [1, 4]} if scheme == "values" else {}
    )


SPECS: list[dict[str, Any]] = [
    *(
        {"shape": [6, 4] if SCHEMES[name].ndim[0] <= 2 else [6, 4, 3], "scheme": name, **required(name)}
        for name in SCHEMES
    ),
    {"shape": [9], "scheme": "normal", "seed": 2**64 - 1, "name": '\u00e9 "\\\n\U0001f600', "slice": "3:9"},
    {
        "dtype": "bfloat16",
        "seed": str(2**53 + 1),
        "tensors": {
            "b": {"shape": [5], "scheme": "ones"},
            "a": {"shape": [5, 2], "scheme": "he_normal", "dtype": "float32"},
            "\u00e9": {"shape": [], "scheme": "uniform"},
        },
    },
    {"tensors": {}},
]


@each_generator
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec.get("scheme", len(spec.get("tensors", ())))))
def test_a_file_says_how_to_make_it_again(
    http: httpx.Client, tmp_path: Path, spec: dict[str, Any], generator: str
) -> None:
    if spec.get("scheme") == "power_of_two" and generator == "torch":
        pytest.skip("torch draws no powers of two")
    made = http.post("/init", json={**spec, "generator": generator})
    (tmp_path / "made").write_bytes(made.content)
    with safetensors.safe_open(tmp_path / "made", "numpy") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(spec.get("tensors", {spec.get("name", "weight")}))
    assert metadata["generator"] == made.headers["weightwell-generator"]
    assert http.post("/init", content=metadata["spec"]).content == made.content
    assert json.loads(metadata["spec"])["generator"] == generator
