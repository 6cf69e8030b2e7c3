"""Requests: their identifiers, their lines in the log, and the metrics, as an operator sees them."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from weightwell_service.app import create_app
from weightwell_service.observation.metrics import Metrics
from weightwell_service.observation.requests import Observed, route_of
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

TOKENS = Path(__file__).parent.parent / "access" / "tokens.toml"
RIGHT = {"Authorization": "Bearer right"}
INIT = "/init?shape=16&scheme=normal"
LOGGER = "weightwell_service.observation.requests"


@pytest.fixture(scope="module")
def http(serve: Serve) -> Iterator[httpx.Client]:
    with (
        serve(create_app(Settings(threads=2, tokens_file=TOKENS, open_metrics=True))) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client


def samples(http: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The metrics by name and labels."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(http: httpx.Client, name: str, **labels: str) -> float:
    return samples(http).get((f"weightwell_{name}", frozenset(labels.items())), 0.0)


# Identifiers ---------------------------------------------------------------------------------------------------------


def test_every_answer_has_an_identifier_of_its_own(http: httpx.Client) -> None:
    found = [http.get(path, headers=RIGHT).headers["x-request-id"] for path in (INIT, INIT, "/gain", "/nowhere", "/s3")]
    assert len(set(found)) == 5
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in found)


def test_the_identifier_of_the_client_is_taken(http: httpx.Client) -> None:
    answer = http.get(INIT, headers=RIGHT | {"X-Request-Id": "job-7.rank_3"})
    assert answer.headers["x-request-id"] == "job-7.rank_3"


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 129, 'a"b'])
def test_an_identifier_that_could_forge_a_line_is_not_taken(http: httpx.Client, wrong: str) -> None:
    assert http.get(INIT, headers=RIGHT | {"X-Request-Id": wrong}).headers["x-request-id"] != wrong


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/init?shape=-1&scheme=normal"), ("GET", "/nowhere"), ("DELETE", "/init")]
)
@pytest.mark.parametrize("headers", [RIGHT, {}], ids=["with a token", "without"])
def test_a_problem_says_its_request(http: httpx.Client, method: str, path: str, headers: dict[str, str]) -> None:
    answer = http.request(method, path, headers={**headers, "X-Request-Id": "mine"})
    assert answer.status_code >= 400
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine"


# The log -------------------------------------------------------------------------------------------------------------


def test_a_request_is_one_line_with_all_that_is_known_and_no_secret(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        length = len(http.get(INIT, headers=RIGHT).content)
        http.get("/gain", headers={"Authorization": "Bearer secret"})
        http.get("/health/live")  # after it, the line about the request before is written
    first, second, *_ = (each for each in caplog.records if each.name == LOGGER)
    line = rf'127\.0\.0\.1:\d+ right "GET {re.escape(INIT)} HTTP/1\.1" 200 {length} bytes \d\.\d{{4}} s'
    assert re.fullmatch(line, first.getMessage())
    assert re.fullmatch(r'127\.0\.0\.1:\d+ - "GET /gain HTTP/1\.1" 401 \d+ bytes \d\.\d{4} s', second.getMessage())
    fields: dict[str, Any] = first.__dict__["request"]
    assert (fields["token"], fields["status"], fields["nbytes"], fields["reason"]) == ("right", 200, length, None)
    assert second.__dict__["request"]["reason"] == "unauthorized"
    assert "secret" not in caplog.text


def test_the_log_has_no_signature_of_a_refused_request(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        http.post(INIT + "&signed_by=right&expires=9999999999&signature=" + "5" * 64)  # which may be valid for GET
        http.get("/s3/acme/model.safetensors?X-Amz-Credential=right%2F20261128%2Fs3&X-Amz-Signature=" + "5" * 64)
        http.get("/s3/acme/model.safetensors?AWSAccessKeyId=right&Signature=555")
        http.get("/health/live")
    assert "signed_by=right&expires=9999999999&signature=..." in caplog.text
    assert "X-Amz-Credential=...&X-Amz-Signature=..." in caplog.text
    assert "AWSAccessKeyId=...&Signature=..." in caplog.text
    assert "555" not in caplog.text


def test_the_log_of_requests_can_be_turned_off(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with serve(create_app(Settings(access_log=False))) as url, caplog.at_level(logging.INFO, LOGGER):
        httpx.get(f"{url}/gain", trust_env=False, timeout=30)
    assert not [each for each in caplog.records if each.name == LOGGER]


# Metrics -------------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_route_and_status(http: httpx.Client) -> None:
    before = samples(http)
    length = len(http.get(f"{INIT}&seed=1", headers=RIGHT).content)  # no other test draws it
    http.get("/init?shape=-1&scheme=normal", headers=RIGHT)
    http.get(INIT)
    after = samples(http)

    def grown(name: str, **labels: str) -> float:
        key = f"weightwell_{name}", frozenset(labels.items())
        return after.get(key, 0.0) - before.get(key, 0.0)

    assert grown("requests_total", route="/init", method="GET", status="200") == 1
    assert grown("requests_total", route="/init", method="GET", status="422") == 1
    assert grown("refusals_total", reason="invalid-spec") == 1
    assert grown("refusals_total", reason="unauthorized") == 1
    assert grown("first_byte_seconds_count", route="/init") == 3
    assert grown("request_seconds_count", route="/init") == 3
    assert grown("sent_bytes_total", route="/init") >= length
    assert grown("drawn_bytes_total") == length
    assert value(http, "requests_under_way", route="/init") == 0


def test_a_stream_is_counted_in_threads_and_seconds(http: httpx.Client) -> None:
    before = value(http, "drawn_bytes_total"), value(http, "drawing_seconds_total", lane="draw")
    length = len(http.get("/init?shape=1000000&scheme=normal", headers=RIGHT).content)
    assert value(http, "drawn_bytes_total") >= before[0] + 4_000_000
    assert length > 4_000_000
    assert value(http, "drawing_seconds_total", lane="draw") > before[1]
    assert value(http, "responses") == value(http, "memory_queue") == 0


def test_plans_are_counted_by_where_they_come_from(http: httpx.Client) -> None:
    before = value(http, "plans_total", source="cache"), value(http, "plans_total", source="new")
    for _ in range(3):
        http.get("/init?shape=17,3&scheme=normal", headers=RIGHT)
    assert value(http, "plans_total", source="cache") == before[0] + 2
    assert value(http, "plans_total", source="new") >= before[1] + 1
    assert value(http, "plan_cache_bytes") > 0


def test_the_server_is_described(http: httpx.Client) -> None:
    [labels] = [dict(labels) for name, labels in samples(http) if name == "weightwell_info"]
    assert labels["device"] == "cpu"
    assert value(http, "memory_limit_bytes") == 4 * 2**30


def test_openmetrics_is_spoken_if_it_is_asked_for(http: httpx.Client) -> None:
    answer = http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_metrics_need_a_token_like_every_path(serve: Serve) -> None:
    with serve(create_app(Settings(tokens_file=TOKENS))) as url:
        assert httpx.get(f"{url}/metrics", trust_env=False, timeout=30).status_code == 401
        assert httpx.get(f"{url}/metrics", trust_env=False, timeout=30, headers=RIGHT).status_code == 200


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/init", "/init"),
        ("/health/live", "/health/live"),
        ("/tiny/gpt2/resolve/main/config.json", "/resolve"),
        ("/tiny/gpt2/raw/main/config.json", "/resolve"),
        ("/api/models/tiny/gpt2", "/api"),
        ("/inspect", "/inspect"),
        ("/guide/http", "/guide"),
        ("/page/page.js", "/page"),
        ("/s3/tiny", "/s3"),
        ("/s3", "/s3"),
        ("/s3x", "other"),
        ("/init/", "other"),
        ("/" + "x" * 1000, "other"),
    ],
)
def test_paths_have_few_routes(path: str, route: str) -> None:
    assert route_of(path) == route


async def _fails(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive, send
    raise ConnectionError


def test_a_request_without_an_answer_is_counted_as_such() -> None:
    import asyncio

    metrics = Metrics()
    observed = Observed(_fails, metrics, None, clock=iter([1.0, 3.5]).__next__)
    scope = {"type": "http", "path": "/init", "method": "BREW", "headers": []}
    with pytest.raises(ConnectionError):
        asyncio.run(observed(scope, None, None))  # type: ignore[arg-type]
    text = metrics.text("")[0].decode()
    assert 'weightwell_requests_total{method="other",route="/init",status="none"} 1.0' in text
    assert 'weightwell_request_seconds_sum{route="/init"} 2.5' in text
    assert 'weightwell_first_byte_seconds_count{route="/init"} 0.0' in text
