"""No token, signature or key is in a log, a traceback, an answer or a metric, whatever door it was sent to."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha256

import httpx
import pytest
from fastapi import FastAPI

from weightwell_service.access.signatures import signed
from weightwell_service.app import create_app
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

# Each is found as a part of any text that has it.
TOKEN, WRONG, KEY = "wwt_hunter2hunter2", "wwt_wrong3wrong3", "swordfish" * 4
DIGEST = sha256(TOKEN.encode()).hexdigest()

DOORS = [
    *("/init?shape=64&scheme=normal", "/init?shape=-1&scheme=normal", "/plan?shape=4&scheme=normal"),
    *("/inspect?shape=8&scheme=normal", "/signal?depth=2&width=8&scheme=normal", "/gain?nonlinearity=none", "/schemes"),
    *("/tiny/gpt2/resolve/main/model.safetensors", "/api/models/tiny/gpt2", "/api/nothing", "/metrics", "/nowhere"),
    *("/s3/tiny/gpt2/config.json", "/s3/tiny?list-type=2", "/s3/none/none", "/", "/docs", "/guide/http"),
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    limits = 'max_responses = 9\nmax_tensors = 3\ngenerators = ["philox"]\n'
    file.write_text(f'signing_key = "{KEY}"\n[[tokens]]\nname = "training"\nsha256 = "{DIGEST}"\n{limits}')
    return create_app(Settings(threads=1, tokens_file=file))


@pytest.fixture(scope="module")
def http(app: FastAPI, serve: Serve) -> Iterator[httpx.Client]:
    with serve(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def requests(path: str) -> Iterator[tuple[str, str, dict[str, str], str]]:
    """Yield requests to a path: the method, the URL, the header fields, and the secret in them."""
    for value in ("Bearer {}", "Bearer {} more", "AWS4-HMAC-SHA256 Credential={}/1/r/s3/aws4_request, Signature=0"):
        yield "GET", path, {"Authorization": value.format(TOKEN)}, TOKEN
    for value in ("Bearer {}", "Basic {}", "{}"):
        yield "GET", path, {"Authorization": value.format(WRONG)}, WRONG
    for method, seconds in (("GET", 60), ("POST", 60), ("GET", -60)):
        url = signed(path, "training", KEY.encode(), int(time.time()) + seconds)
        yield method, url, {}, url[-64:]


@pytest.mark.parametrize("path", DOORS)
def test_no_secret_is_shown_at_a_door(http: httpx.Client, path: str, caplog: pytest.LogCaptureFixture) -> None:
    statuses, secrets = set(), {KEY, DIGEST}
    with caplog.at_level(logging.INFO):
        for method, url, headers, secret in requests(path):
            secrets.add(secret)
            answer = http.request(method, url, headers=headers)
            statuses.add(answer.status_code)
            sent = answer.text + str(answer.headers)
            assert [each for each in secrets if each in sent] == []
        http.get("/health/live")  # after it, the line about the request before is written
    assert len(secrets) >= 4
    assert [each for each in secrets if each in service_log(caplog)] == []
    assert "GET " in service_log(caplog)
    assert statuses & {401, 403}
    assert statuses - {401, 403}


def service_log(caplog: pytest.LogCaptureFixture) -> str:
    """All lines of the service, with what lines of JSON have in addition.

    The client of this test has lines of its own. ``uvicorn.access`` has lines under pytest alone, as it has no handler.
    """
    return "\n".join(
        f"{each.getMessage()} {each.__dict__.get('request')} {each.exc_text}"
        for each in caplog.records
        if not each.name.startswith(("httpx", "httpcore", "uvicorn.access"))
    )


def test_a_fault_shows_no_secret_in_its_traceback(
    http: httpx.Client, app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    service = app.state.service
    for name in ("open_recent", "describe", "repository", "costs_of", "readiness"):
        monkeypatch.setattr(service, name, failing)
    signature = ""
    for path in DOORS:
        answer = http.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert TOKEN not in answer.text
        url = signed(path, "training", KEY.encode(), int(time.time()) + 60)
        signature = url[-64:]
        assert signature not in http.get(url).text
        assert signature not in service_log(caplog)
    assert caplog.text.count("RuntimeError: a fault") > 4
    assert "Traceback" in caplog.text
    assert [each for each in (TOKEN, KEY, DIGEST) if each in caplog.text + service_log(caplog)] == []


def test_metrics_name_no_client(http: httpx.Client) -> None:
    for path in DOORS:
        http.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        http.get(signed(path, "training", KEY.encode(), int(time.time()) + 60))
    text = http.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    assert "weightwell_requests_total" in text
    assert [each for each in (TOKEN, KEY, DIGEST, "training", "127.0.0.1", "signature") if each in text] == []
