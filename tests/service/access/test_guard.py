"""A server with tokens: who is let in, at every door, and what the others are told."""

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.numpy
from fastapi import FastAPI
from fastapi.testclient import TestClient

import weightwell
from weightwell_service.access.clients import Client, address_of
from weightwell_service.access.guard import Addresses, Gate
from weightwell_service.access.signatures import signed
from weightwell_service.access.usage import Usage
from weightwell_service.app import create_app
from weightwell_service.scheduler import Requester, Scheduler
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

KEY = "k" * 32
INIT = "/init?shape=64&scheme=normal"
WEIGHTS = "/tiny/gpt2/resolve/main/model.safetensors"
OBJECT = "/s3/tiny/gpt2/config.json"


def entry(name: str, **limits: float | str | list[str]) -> str:
    """The entry of a token, which is its name."""
    digest = sha256(name.encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\n' + "".join(
        f"{field} = {value!r}\n" for field, value in limits.items()
    )


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    limited = entry("small", max_bytes=400) + entry("narrow", max_responses=1) + entry("daily", bytes_per_day=1000)
    limited += entry("simple", max_tensors=2, max_cpu_seconds=0.01, generators=["philox"])
    limited += entry("timed", max_cpu_seconds=0.05)
    limited += entry("bulk", share=5, priority="batch")
    file.write_text(f'signing_key = "{KEY}"\n{entry("right")}{limited}')
    return create_app(Settings(threads=2, tokens_file=file))


@pytest.fixture(scope="module")
def url(serve: Serve, app: FastAPI) -> Iterator[str]:
    with serve(app) as url:
        yield url


@pytest.fixture
def gate(app: FastAPI) -> Iterator[Gate]:
    gate: Gate = app.state.service.gate
    yield gate
    gate.usage.clock = time.time


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Tokens --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [INIT, "/gain", "/schemes", "/", "/docs", "/openapi.json", "/api/models/tiny/gpt2", WEIGHTS, "/nowhere"]
)
@pytest.mark.parametrize("headers", [{}, bearing("wrong"), {"Authorization": "Basic cmlnaHQ6cmlnaHQ="}])
def test_no_path_answers_without_a_token(http: httpx.Client, path: str, headers: dict[str, str]) -> None:
    answer = http.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="weightwell"'
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "urn:weightwell:problem:unauthorized"
    assert problem["detail"] == answer.headers["x-error-message"]
    assert "wrong" not in answer.text


def test_the_page_and_the_guide_are_open_to_a_browser(http: httpx.Client) -> None:
    browser = {"Accept": "text/html,*/*;q=0.8"}
    for path in ("/", "/page/page.js", "/page/signal.json", "/guide/", "/guide/page"):
        assert http.get(path, headers=browser).status_code == 200
        assert http.post(path, headers=browser).status_code == 401
    for path in ("/docs", "/init", "/page", "/pages/page.js", "/page/../schemes"):
        assert http.get(path, headers=browser).status_code == 401


def test_the_page_can_be_closed(app: FastAPI, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("right"))
    closed = TestClient(
        create_app(Settings(threads=2, tokens_file=file, open_page=False), engine=app.state.service.engine)
    )
    for path in ("/", "/page/page.js", "/guide/"):
        assert closed.get(path, headers={"Accept": "text/html"}).status_code == 401


def test_posts_are_refused_as_well_and_their_bodies_are_not_read(http: httpx.Client) -> None:
    assert http.post("/init", json={"shape": [4], "scheme": "normal"}).status_code == 401
    assert http.post("/init", content=b"not JSON").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/healthz", "/health/live", "/health/ready"])
def test_health_is_open(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


def test_health_may_need_a_token(serve: Serve, app: FastAPI) -> None:
    closed = create_app(Settings(tokens_file=app.state.service.settings.tokens_file, open_health=False))
    with serve(closed) as url:
        assert httpx.get(f"{url}/health/live", trust_env=False).status_code == 401
        assert httpx.get(f"{url}/health/live", trust_env=False, headers=bearing("right")).status_code == 200


def test_a_token_opens_every_door_and_no_shared_cache_keeps_the_answer(http: httpx.Client) -> None:
    for path in (INIT, WEIGHTS):
        answer = http.get(path, headers=bearing("right"))
        assert answer.status_code == 200
        assert answer.headers["cache-control"].split(", ")[0] == "private"
        assert "authorization" in answer.headers["vary"].lower()
    assert http.get("/gain", headers=bearing("right")).headers["cache-control"] == "private"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "AWS4-HMAC-SHA256 Credential=wrong/1/r/s3/aws4_request"}])
def test_s3_refuses_in_its_own_form(http: httpx.Client, headers: dict[str, str]) -> None:
    answer = http.get(OBJECT, headers=headers)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/xml"
    assert "<Code>AccessDenied</Code>" in answer.text


def test_the_access_key_of_s3_is_the_token(http: httpx.Client) -> None:
    key = "AWS4-HMAC-SHA256 Credential=right/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    assert http.get(OBJECT, headers={"Authorization": key}).status_code == 200


def test_a_client_sends_its_token_and_never_shows_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with weightwell.Client(url, token="right") as client:
        assert client.init(4, "normal", framework="numpy").shape == (4,)
        assert "right" not in repr(client) + repr(client._door.pool.settings)  # type: ignore[attr-defined]
    monkeypatch.setenv("WEIGHTWELL_TOKEN", "right\n")
    with weightwell.Client(url) as client:
        assert client.gain("relu") > 1
    with weightwell.Client(url, token="wrong") as client, pytest.raises(weightwell.AccessDenied, match="does not know"):
        client.gain("relu")
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        weightwell.Client(url, token="a b")
    assert "a b" not in str(caught.value)


def test_a_client_with_its_own_authorization_sends_no_token(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTWELL_TOKEN", "right")
    with weightwell.Client(url, auth=("user", "password")) as client, pytest.raises(weightwell.AccessDenied):
        client.gain("relu")


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_file_may_not_be_larger_than_the_token_allows(http: httpx.Client) -> None:
    assert http.get("/init?shape=100&scheme=normal", headers=bearing("small")).status_code == 200
    for method, path in (("GET", "/init?shape=101&scheme=normal"), ("HEAD", WEIGHTS)):
        assert http.request(method, path, headers=bearing("small")).status_code == 413
    answer = http.post("/init", json={"shape": [101], "scheme": "normal"}, headers=bearing("small"))
    assert "the token small may have 400 (max_bytes)" in answer.json()["detail"]
    assert (
        "<Code>EntityTooLarge</Code>"
        in http.get(
            OBJECT[:-11] + "model.safetensors",
            headers={"Authorization": "AWS4-HMAC-SHA256 Credential=small/1/r/s3/aws4_request"},
        ).text
    )


def test_a_token_has_a_number_of_answers_at_once(url: str, http: httpx.Client, gate: Gate) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as reader:
        reader.sendall(
            b"GET /init?shape=100000000&scheme=normal HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer narrow\r\n\r\n"
        )
        assert reader.recv(12) == b"HTTP/1.1 200"  # and nothing more is read
        refused = http.get(INIT, headers=bearing("narrow"))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert "max_responses" in refused.json()["detail"]
        assert http.get(INIT, headers=bearing("right")).status_code == 200
    eventually(lambda: not gate.usage.of(gate.tokens.named("narrow")).responses)  # type: ignore[arg-type]
    assert http.get(INIT, headers=bearing("narrow")).status_code == 200


def test_a_token_has_a_number_of_bytes_a_day(http: httpx.Client, gate: Gate) -> None:
    gate.usage.clock = lambda: 86400 * 100 + 86390
    length = len(http.get(INIT, headers=bearing("daily")).content)
    assert http.head(INIT, headers=bearing("daily")).status_code == 200  # sends no bytes
    refused = http.get(INIT, headers=bearing("daily"))
    assert 500 < length <= 1000
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert f"has had {length}, and this answer has {length}" in refused.json()["detail"]
    assert http.get(INIT, headers=bearing("daily") | {"Range": "bytes=0-9"}).status_code == 206
    gate.usage.clock = lambda: 86400 * 101
    assert http.get(INIT, headers=bearing("daily")).status_code == 200


def test_a_file_beyond_the_bytes_of_a_day_is_refused_before_it_is_drawn(
    http: httpx.Client, app: FastAPI, gate: Gate
) -> None:
    gate.usage.clock = lambda: 86400 * 150.0
    drawn = app.state.service.resources.totals.drawn
    refused = http.get("/init?shape=1000,1000&scheme=normal", headers=bearing("daily"))
    assert refused.status_code == 429
    assert app.state.service.resources.totals.drawn == drawn


def test_a_limit_of_s3_is_told_in_its_own_form(http: httpx.Client, gate: Gate) -> None:
    gate.usage.clock = lambda: 86400 * 200.0
    gate.usage.take(gate.tokens.named("daily"), 1000)  # type: ignore[arg-type]
    key = {"Authorization": "AWS4-HMAC-SHA256 Credential=daily/1/r/s3/aws4_request"}
    answer = http.get(OBJECT, headers=key)
    assert answer.status_code == 503
    assert "<Code>SlowDown</Code>" in answer.text


# Limits at every door ------------------------------------------------------------------------------------------------


MANIFEST: dict[str, Any] = {"tensors": {name: {"shape": [2], "scheme": "normal"} for name in "abc"}}
MATRIX = "shape=1000,1000&scheme=normal"  # some 4 ms
LARGE = "shape=4000,4000&scheme=normal"  # some 0.06 s
TORCH = "shape=4&scheme=normal&generator=torch"
FOLDER = OBJECT.removesuffix("config.json")

# Requests that no door lets a token do, with the number, the limit and the cure that the refusal must have.
TENSORS = (413, ["3 tensors", "the token simple may have 2 (max_tensors)", "split the manifest"])
SECONDS = (413, ["0.0", "CPU seconds", "the token simple may have 0.01 (max_cpu_seconds)", "fewer"])
GENERATOR = (403, ["generator=torch", "the token simple may have philox (generators)", "use one of these"])
BEYOND: dict[str, tuple[str, str, Any, tuple[int, list[str]]]] = {
    "init, tensors": ("POST", "/init", MANIFEST, TENSORS),
    "init, seconds": ("GET", f"/init?{LARGE}", None, SECONDS),
    "init, generator": ("GET", f"/init?{TORCH}", None, GENERATOR),
    "plan, tensors": ("POST", "/plan", MANIFEST, TENSORS),
    "plan, generator": ("GET", f"/plan?{TORCH}", None, GENERATOR),
    "inspect, seconds": ("GET", f"/inspect?{LARGE}", None, SECONDS),
    "inspect, generator": ("GET", f"/inspect?{TORCH}", None, GENERATOR),
    "signal, seconds": ("GET", "/signal?depth=50&width=512&activation=tanh&scheme=xavier_normal", None, SECONDS),
    "hub, tensors": ("GET", WEIGHTS, None, (413, ["tensors", "may have 2 (max_tensors)"])),
    "s3, tensors": ("GET", f"{FOLDER}model.safetensors", None, (413, ["tensors", "may have 2 (max_tensors)"])),
}


@pytest.mark.parametrize("case", BEYOND)
def test_a_request_may_not_cost_more_than_its_token_allows(http: httpx.Client, case: str) -> None:
    method, path, body, (status, words) = BEYOND[case]
    answer = http.request(method, path, json=body, headers=bearing("simple"))
    assert answer.status_code == status, answer.text
    text = answer.text if path.startswith("/s3/") else answer.headers["x-error-message"]
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("case", ["init, seconds", "init, generator", "s3, tensors"])
def test_the_costs_of_a_token_hold_for_its_signed_addresses(http: httpx.Client, case: str) -> None:
    _, path, _, (status, words) = BEYOND[case]
    answer = http.get(signed(path, "simple", KEY.encode(), int(time.time()) + 60))
    assert answer.status_code == status
    assert [word for word in words if word not in answer.text] == []


def test_a_part_of_a_file_that_needs_few_seconds_is_sent(http: httpx.Client) -> None:
    assert http.head(f"/init?{LARGE}", headers=bearing("simple")).status_code == 200
    part = http.get(f"/init?{LARGE}", headers=bearing("simple") | {"Range": "bytes=0-999999"})
    assert part.status_code == 206
    assert http.get(f"/init?{LARGE}", headers=bearing("right") | {"Range": "bytes=0-999999"}).content == part.content


def test_a_plan_says_what_the_token_would_be_refused(http: httpx.Client) -> None:
    assert http.get(f"/plan?{MATRIX}", headers=bearing("simple")).json()["refusal"] is None
    refusal = http.get(f"/plan?{LARGE}", headers=bearing("simple")).json()["refusal"]
    assert "may have 0.01 (max_cpu_seconds)" in refusal
    assert http.get(f"/plan?{LARGE}", headers=bearing("right")).json()["refusal"] is None
    assert "(max_bytes)" in http.get(f"/plan?{MATRIX}", headers=bearing("small")).json()["refusal"]


def test_a_client_raises_its_own_exceptions_with_the_advice(url: str) -> None:
    with weightwell.Client(url, token="simple", wait=0) as client:
        with pytest.raises(weightwell.AccessDenied, match=r"philox \(generators\); use one of these"):
            client.init(4, "normal", generator="torch", framework="numpy")
        with pytest.raises(weightwell.TooLarge, match=r"\(max_cpu_seconds\); request a smaller range"):
            client.init((4000, 4000), "normal", framework="numpy")
    with weightwell.Client(url, token="daily", wait=0) as client:
        with pytest.raises(weightwell.Busy, match=r"\(bytes_per_day\), .* try again after midnight") as caught:
            client.init(1000, "normal", framework="numpy")
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 0


PATHS = [INIT, "/plan?shape=4&scheme=normal", "/inspect?shape=8&scheme=normal", WEIGHTS, OBJECT, "/gain", "/schemes"]


@pytest.mark.parametrize("path", [*PATHS, "/signal?depth=2&width=8&activation=tanh&scheme=xavier_normal"])
def test_answers_at_once_and_bytes_a_day_are_limited_at_every_door(http: httpx.Client, gate: Gate, path: str) -> None:
    status = 503 if path.startswith("/s3") else 429
    gate.usage.clock = lambda: 86400 * 300.0
    narrow, daily = gate.tokens.named("narrow"), gate.tokens.named("daily")
    assert narrow is not None
    assert daily is not None
    address = signed(path, "narrow", KEY.encode(), 86400 * 300 + 60)
    eventually(lambda: gate.usage.of(narrow).responses == 0)
    gate.usage.begin(narrow)
    for refused in (http.get(path, headers=bearing("narrow")), http.get(address)):
        assert (refused.status_code, refused.headers["retry-after"]) == (status, "1")
        assert "max_responses" in refused.text
    gate.usage.end(narrow)
    assert http.get(address).status_code == 200
    day = gate.usage.take(daily, 1000 - gate.usage.of(daily).nbytes)
    for headers in (bearing("daily"), {"Authorization": "AWS4-HMAC-SHA256 Credential=daily/1/r/s3/aws4_request"}):
        refused = http.get(path, headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (status, "86400")
        assert "bytes_per_day" in refused.text
    gate.usage.give(daily, 1000, day)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the server has counted the end of an answer, which is after its client has it."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_that_uses_more_cpu_time_than_estimated_is_ended(
    http: httpx.Client, app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = itertools.count()  # each unit takes a second of CPU time
    for lane in app.state.service.resources.lanes.values():
        monkeypatch.setattr(lane, "_cpu", lambda: float(next(seconds)))
    # Before the first byte it is a problem, and after it the connection is closed.
    late = http.get(
        "/init?shape=2000000&scheme=normal&generator=torch", headers=bearing("timed") | {"Range": "bytes=-4"}
    )
    assert late.status_code == 413
    assert "was ended after" in late.json()["detail"]
    assert "2 times the limit: the token timed may have 0.05 (max_cpu_seconds)" in late.json()["detail"]
    with http.stream("GET", f"/init?{MATRIX}", headers=bearing("timed")) as cut:
        assert cut.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            cut.read()
    assert http.get(f"/init?{MATRIX}", headers=bearing("right")).status_code == 200
    lines = [each for each in caplog.messages if "was cut off" in each]
    assert [f"GET /init?{MATRIX} was cut off: the request was ended after" in each for each in lines] == [True]
    assert "Traceback" not in caplog.text


# Turns ---------------------------------------------------------------------------------------------------------------


def test_the_client_of_the_scheduler_is_the_token_with_its_share_and_priority(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Requester] = []
    submit = Scheduler.submit

    def seen(lane: Scheduler, job: Any, requester: Requester) -> Any:
        asked.append(requester)
        return submit(lane, job, requester)

    monkeypatch.setattr(Scheduler, "submit", seen)
    for path in (f"/init?{MATRIX}", "/inspect?shape=8&scheme=normal", "/signal?depth=2&width=8&scheme=normal"):
        for token in ("right", "bulk"):
            asked.clear()
            assert http.get(path, headers=bearing(token)).status_code == 200
            turns = (1, False) if token == "right" else (5, True)
            assert {(each.client, each.share, each.batch) for each in asked} == {(f"token {token}", *turns)}


# Addresses -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_app() -> FastAPI:
    return create_app(Settings(threads=2, max_responses_per_address=2, bytes_per_day_per_address=3000, max_tensors=2))


@pytest.fixture(scope="module")
def open_url(serve: Serve, open_app: FastAPI) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.1")
        with serve(open_app) as url:
            yield url


def test_without_tokens_an_address_has_limits_and_a_trusted_proxy_says_it(open_url: str) -> None:
    with httpx.Client(base_url=open_url, trust_env=False, timeout=30) as http:

        def status(address: str, path: str = "/init?shape=500&scheme=normal") -> int:
            return http.get(path, headers={"X-Forwarded-For": address}).status_code

        length = len(http.get("/init?shape=500&scheme=normal", headers={"X-Forwarded-For": "10.0.0.1"}).content)
        assert 2000 < length < 3000
        refused = http.get("/init?shape=500&scheme=normal", headers={"X-Forwarded-For": "10.0.0.1"})
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:weightwell:problem:limit-of-client"
        assert "the address 10.0.0.1 may have 3000 bytes a day" in refused.json()["detail"]
        assert "(WEIGHTWELL_BYTES_PER_DAY_PER_ADDRESS)" in refused.json()["detail"]
        assert 0 < int(refused.headers["retry-after"]) <= 86400
        # Each address has its own count, what a proxy should not send has one together, and of IPv6 a network has one.
        assert status("10.0.0.2") == 200
        assert [status("nonsense"), status("10.0.0.3:80x")] == [200, 429]
        assert [status("2001:db8::1"), status("2001:db8::2"), status("2001:db8:0:1::1")] == [200, 429, 200]
        # A client cannot choose its address: the proxy adds the last one.
        assert status("10.9.9.9, 10.0.0.2") == 429
        # Health checks and metrics have no limit, and their bytes are not counted.
        assert {status("10.0.0.1", path) for path in ("/health/ready", "/health/live", "/metrics")} == {200}


def test_without_tokens_an_address_has_a_number_of_answers_at_once(open_url: str, open_app: FastAPI) -> None:
    usage = clients_of(open_app).usage
    client = Client("address", "10.1.0.1")
    usage.begin(client)
    usage.begin(client)
    headers = {"X-Forwarded-For": "10.1.0.1"}
    refused = httpx.get(f"{open_url}/gain", trust_env=False, headers=headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "has 2 answers under way, and may have 2 (WEIGHTWELL_MAX_RESPONSES_PER_ADDRESS)" in refused.json()["detail"]
    usage.end(client)
    answer = httpx.get(f"{open_url}/init?shape=4&scheme=normal", trust_env=False, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["cache-control"].startswith("public")  # it is the same for everybody


def test_a_limit_of_the_server_is_for_everybody(open_url: str) -> None:
    answer = httpx.post(f"{open_url}/plan", trust_env=False, json=MANIFEST, headers={"X-Forwarded-For": "10.2.0.1"})
    assert answer.status_code == 413
    assert "3 tensors, and this server allows 2 (WEIGHTWELL_MAX_TENSORS); split" in answer.json()["detail"]


def clients_of(app: FastAPI) -> Addresses:
    [clients] = [each.kwargs["clients"] for each in app.user_middleware if "clients" in each.kwargs]
    assert isinstance(clients, Addresses)
    return clients


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("10.0.0.7", 80), "10.0.0.7"),
        (("::ffff:10.0.0.7", 80), "10.0.0.7"),
        (("2001:db8:1:2:3:4:5:6", 80), "2001:db8:1:2::/64"),
        (("::1", 0), "::/64"),
        (("a client", 0), "unknown"),
        (None, "unknown"),
    ],
)
def test_an_address_is_that_of_ipv4_or_a_network_of_ipv6(client: tuple[str, int] | None, address: str) -> None:
    assert address_of({"client": client}) == address


# Signed addresses ----------------------------------------------------------------------------------------------------


def test_a_signed_address_opens_one_file_without_a_token(http: httpx.Client, url: str) -> None:
    with weightwell.Client(url, token="right") as client:
        address = client.sign((8, 8), "xavier_uniform", seed=3, seconds=60)
        expected = client.init((8, 8), "xavier_uniform", seed=3, framework="numpy")
    assert address.startswith(url)
    answer = http.get(address)
    assert (safetensors.numpy.load(answer.content)["weight"] == expected).all()
    assert http.head(address).status_code == 200
    assert http.get(address, headers={"Range": "bytes=0-7"}).status_code == 206
    for other in (address.replace("seed=3", "seed=4"), address[:-1] + ("0" if address[-1] != "0" else "1")):
        assert http.get(other).status_code == 401
    assert http.post(address, json={}).status_code == 401


def test_manifests_and_posts_are_signed_as_well(http: httpx.Client) -> None:
    manifest: dict[str, Any] = {
        "tensors": {"a": {"shape": [4], "scheme": "normal"}, "b": {"shape": [4], "scheme": "ones"}}
    }
    planned = http.post("/plan?sign_for=60", json=manifest, headers=bearing("right")).json()
    assert {*safetensors.numpy.load(http.get(planned["url"]).content)} == {"a", "b"}


def test_a_signed_address_ends_at_its_time(http: httpx.Client, gate: Gate) -> None:
    gate.usage.clock = lambda: 1_000_000.0
    address = http.get(INIT.replace("/init", "/plan") + "&sign_for=60", headers=bearing("right")).json()["url"]
    assert "expires=1000060" in address
    gate.usage.clock = lambda: 1_000_059.0
    assert http.get(address).status_code == 200
    gate.usage.clock = lambda: 1_000_060.0
    assert "expired, 0 s ago" in http.get(address).json()["detail"]


def test_the_limits_of_the_token_that_signed_apply(http: httpx.Client) -> None:
    address = signed("/init?shape=101&scheme=normal", "small", KEY.encode(), int(time.time()) + 60)
    assert http.get(address).status_code == 413


def test_an_address_signed_by_a_token_that_is_gone_is_refused(http: httpx.Client) -> None:
    answer = http.get(signed(INIT, "gone", KEY.encode(), int(time.time()) + 60))
    assert (answer.status_code, "gone" in answer.json()["detail"]) == (401, True)


@pytest.mark.parametrize("seconds", ["0", "604801", "-1", "1.5", "soon", "", "9" * 30])
def test_a_time_that_cannot_be_is_refused(http: httpx.Client, seconds: str) -> None:
    answer = http.get(f"/plan?shape=4&scheme=normal&sign_for={seconds}", headers=bearing("right"))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "sign_for"


def test_a_server_without_tokens_signs_nothing(server: str) -> None:
    with weightwell.Client(server) as client, pytest.raises(weightwell.InvalidRequest, match="no signing_key"):
        client.sign(4, "normal", seconds=60)
    with weightwell.local() as client, pytest.raises(ValueError, match="no address"):
        client.sign(4, "normal", seconds=60)


# The file is read again ----------------------------------------------------------------------------------------------


def test_the_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("old"))
    gate = Gate(file, Usage())
    gate.usage.begin(gate.tokens.named("old"))  # type: ignore[arg-type]
    file.write_text(entry("new") + entry("old"))
    gate.read_again()
    assert gate.tokens.find(b"new") is not None
    assert gate.usage.of(gate.tokens.named("old")).responses == 1  # type: ignore[arg-type]
    file.write_text("tokens = 3")
    with caplog.at_level(logging.WARNING):
        gate.read_again()
    assert gate.tokens.find(b"new") is not None
    assert "the former ones stay" in caplog.text


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("old"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "weightwell_service", "--port", str(port), "--tokens-file", str(file)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        assert any("Uvicorn running" in line for line in lines)
        address = f"http://127.0.0.1:{port}/gain"
        assert httpx.get(address, headers=bearing("new"), trust_env=False).status_code == 401
        file.write_text(entry("new"))
        os.kill(server.pid, signal.SIGHUP)
        assert any("the tokens have been read again" in line for line in lines)
        assert httpx.get(address, headers=bearing("new"), trust_env=False).status_code == 200
        assert httpx.get(address, headers=bearing("old"), trust_env=False).status_code == 401
    finally:
        server.terminate()
        server.communicate(timeout=30)
