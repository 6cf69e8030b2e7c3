"""Every invalid request gets a problem body with the reason, and never a status of 500."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

import weightwell_engine.exceptions
import weightwell_service.exceptions
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import (
    Busy,
    DeviceUnavailable,
    GeneratorUnsound,
    InvalidSpec,
    InvalidSpecs,
    MalformedDocument,
    TooLarge,
    UnsupportedSpec,
    WeightwellError,
)
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.torch import TorchGenerator
from weightwell_engine.parsing import SINGLES
from weightwell_engine.plan import Plan
from weightwell_engine.presets import PRESETS
from weightwell_engine.schemes import ALIASES
from weightwell_service.access.costs import Costs
from weightwell_service.app import create_app
from weightwell_service.exceptions import NotAllowed, PreconditionFailed, RangeNotSatisfiable, UnsupportedEncoding
from weightwell_service.problems import PROBLEMS
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

LIMIT = 2**20


class Failing(TorchGenerator):
    """A generator that fails for every plan."""

    def __init__(self, error: WeightwellError):
        super().__init__(Cpu())
        self._error = error

    def check(self, plan: Plan) -> None:
        """Raise the error."""
        del plan
        raise self._error


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(
        Settings(threads=1, max_bytes=LIMIT, max_resident_bytes=LIMIT, max_request_bytes=2**14, queue_timeout=0.01)
    )


@pytest.fixture(scope="module")
def small(app: FastAPI, serve: Serve) -> Iterator[httpx.Client]:
    """A client of a service with low limits."""
    with serve(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the body of a response, which is a problem as RFC 9457 has it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = json.loads(response.content.decode(), parse_constant=refuse_constant)
    assert {"type", "title", "status", "detail"} == set(body) - {"errors", "request_id"}
    assert body.get("request_id") == response.headers.get("x-request-id")
    assert body["status"] == status
    assert body["detail"]
    for error in body.get("errors", []):
        assert set(error) - {"hint"} == {"field", "got", "expected", "detail"}
        assert error["field"]
        assert error["expected"]
    return body


# The table -----------------------------------------------------------------------------------------------------------

QUERY = {"shape": "3,5", "scheme": "normal", "generator": "torch"}
MATRIX = {"shape": "30,30", "scheme": "orthogonal", "generator": "torch"}


def _busy(app: FastAPI, http: httpx.Client) -> httpx.Response:
    budget = app.state.service.resources.budget
    budget.take(budget.for_rest)
    try:
        return http.get("/init", params=MATRIX)
    finally:
        budget.give(budget.for_rest)


def _failing(error: WeightwellError) -> Callable[[FastAPI, httpx.Client], httpx.Response]:
    def ask(app: FastAPI, http: httpx.Client) -> httpx.Response:
        service = app.state.service
        kept, service.engine = service.engine, Engine(Cpu(), threads=1, generators={"torch": Failing(error)})
        try:
            return http.get("/init", params={**QUERY, "seed": "9"})
        finally:
            service.engine = kept

    return ask


def _not_allowed(app: FastAPI, http: httpx.Client) -> httpx.Response:
    service = app.state.service
    service.costs = Costs.of("this server allows", {"generators": frozenset({"philox"})})
    try:
        return http.get("/init", params=QUERY)
    finally:
        service.costs = None


CAUSES: dict[type[WeightwellError], Callable[[FastAPI, httpx.Client], httpx.Response]] = {
    MalformedDocument: lambda _, http: http.post("/init", content=b"{"),
    InvalidSpec: lambda _, http: http.get("/init", params={**QUERY, "std": "-1"}),
    InvalidSpecs: lambda _, http: http.get("/init", params={**QUERY, "std": "-1", "val": "1"}),
    UnsupportedSpec: lambda _, http: http.get("/init", params={**QUERY, "dtype": "float8_e5m2"}),
    UnsupportedEncoding: lambda _, http: http.post("/init", content=b"{}", headers={"content-encoding": "gzip"}),
    TooLarge: lambda _, http: http.get("/init", params={**QUERY, "shape": "10000,10000"}),
    NotAllowed: _not_allowed,
    PreconditionFailed: lambda _, http: http.get("/init", params=QUERY, headers={"if-match": '"another"'}),
    RangeNotSatisfiable: lambda _, http: http.get("/init", params=QUERY, headers={"range": "bytes=999999-"}),
    Busy: _busy,
    DeviceUnavailable: _failing(DeviceUnavailable("the device is lost")),
    GeneratorUnsound: _failing(GeneratorUnsound("a known answer is wrong")),
}


def test_every_exception_is_a_problem() -> None:
    exceptions = [*vars(weightwell_engine.exceptions).values(), *vars(weightwell_service.exceptions).values()]
    raised = {e for e in exceptions if isinstance(e, type) and issubclass(e, WeightwellError)} - {WeightwellError}
    assert set(PROBLEMS) == set(CAUSES) == raised


@pytest.mark.parametrize("exception", PROBLEMS, ids=lambda exception: exception.__name__)
def test_every_problem_agrees_with_its_row(app: FastAPI, small: httpx.Client, exception: type[WeightwellError]) -> None:
    status, kind, title = PROBLEMS[exception]
    response = CAUSES[exception](app, small)
    body = problem(response, status)
    assert body["type"] == f"urn:weightwell:problem:{kind}"
    assert body["title"] == title
    assert ("retry-after" in response.headers) == (status == 503)
    assert ("errors" in body) == (status == 422)


def test_every_field_that_is_wrong_is_named(small: httpx.Client) -> None:
    tensors = {"a": {"shape": [2, -1], "scheme": "ones"}, "b": {"shape": [2], "scheme": "normal", "std": "x", "val": 1}}
    body = problem(small.post("/init", json={"tensors": tensors}), 422)
    assert {error["field"] for error in body["errors"]} == {"tensors.a.shape", "tensors.b.std", "tensors.b.val"}


# What HTTP itself can get wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nothing", "/initx", "/Init", "/%00", "/init/../etc/passwd"])
def test_a_path_that_is_not_there_is_a_problem(small: httpx.Client, path: str) -> None:
    body = problem(small.get(path), 404)
    assert body["type"] == "about:blank"
    assert body["detail"].endswith("; see /docs")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/init", {"GET", "HEAD", "POST"}),
        ("DELETE", "/init", {"GET", "HEAD", "POST"}),
        ("POST", "/gain", {"GET", "HEAD"}),
        ("PATCH", "/", {"GET", "HEAD"}),
    ],
)
def test_a_method_that_is_not_there_is_a_problem_that_tells_those_that_are(
    small: httpx.Client, method: str, path: str, allowed: set[str]
) -> None:
    response = small.request(method, path)
    body = problem(response, 405)
    assert body["type"] == "about:blank"
    assert body["detail"].endswith(f", got {method}")
    assert allowed <= set(response.headers["allow"].split(", ")) <= allowed | {"HEAD"}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b" ", b"{", b"[]", b"null", b"1", b'"x"', b"true", b"\xff\xfe", b'{"shape":[2],"scheme":"ones"} x'),
        *(b"shape=2&scheme=ones", b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1,"a":2}', b'{"a":"\xe9"}', b'{"a":"\n"}'),
        *(b"[" * 9000, b'{"a":' * 1800, b'{"a":' + b"9" * 5000 + b"}"),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_body_that_is_no_json_object_is_a_problem(small: httpx.Client, content: bytes) -> None:
    assert problem(small.post("/init", content=content), 400)["type"] == "urn:weightwell:problem:malformed-body"


def test_a_body_of_any_media_type_is_read_as_json(small: httpx.Client) -> None:
    content = b'{"shape":[2],"scheme":"ones"}'
    types = [
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain; charset=utf-16",
    ]
    files = {small.post("/init", content=content, headers={"content-type": media_type}).content for media_type in types}
    assert len(files) == 1
    assert files.pop().endswith(b"\x00\x00\x80\x3f" * 2)


@pytest.mark.parametrize("body", [b" " * 2**15, iter([b" " * 2**10] * 32)], ids=["with its length", "in chunks"])
def test_a_body_that_is_too_long_is_not_read(small: httpx.Client, body: bytes | Iterator[bytes]) -> None:
    assert "16384" in problem(small.post("/init", content=body), 413)["detail"]


def test_a_head_that_is_refused_has_no_body(server: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"HEAD /init?scheme=ones HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert received.startswith(b"HTTP/1.1 422 ")
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        *(b"\r\n\r\n\r\n\r\nX\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"),
        *(b"GET /init HTTP/1.1\r\nRange\r\n\r\n", b"POST /init HTTP/1.1\r\nContent-Length: -5\r\n\r\n"),
        *(b"POST /init HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",),
        *(b"GET /" + b"x" * 2**17 + b" HTTP/1.1\r\n\r\n", b"GET /init?shape=\xff\xfe&scheme=\x00 HTTP/1.1\r\n\r\n"),
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_noise_is_refused_and_the_next_request_served(small: httpx.Client, sent: bytes) -> None:
    with socket.create_connection((small.base_url.host, small.base_url.port or 0), timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505"))
    assert small.get("/init", params=QUERY).status_code == 200


@pytest.mark.parametrize("begin", [b"GET /init?manifest=", b"GET / HTTP/1.1\r\nX: "])
def test_a_head_without_an_end_is_refused_before_it_fills_the_memory(small: httpx.Client, begin: bytes) -> None:
    with socket.create_connection((small.base_url.host, small.base_url.port or 0), timeout=30) as connection:
        sent = 0
        with suppress(ConnectionError):  # which is how the refusal ends if it is not read
            connection.sendall(begin)
            while sent < 2**27:
                connection.sendall(b"x" * 2**16)
                sent += 2**16
    assert sent < 2**25
    assert small.get("/init", params=QUERY).status_code == 200


def test_pipelined_requests_are_separated(small: httpx.Client) -> None:
    body = b" " * (2**14 - 40) + b'{"shape": [3], "scheme": "ones"}'
    posted = b"POST /init HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection((small.base_url.host, small.base_url.port or 0), timeout=30) as connection:
        connection.sendall(posted * 20 + b"GET /nowhere HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert received.count(b"HTTP/1.1 200 ") == 20
    assert received.count(b"HTTP/1.1 404 ") == 1


# Hints ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/gain?nonlinearity=rellu", "did you mean relu?"),
        ("/gain?nonlinearity=elu", "/gain with source=quadrature measures the gain of elu, "),
        ("/init?shape=3,4&scheme=he_normal&nonlinearity=gelu", "/gain with source=quadrature measures"),
        ("/gain?nonlinearity=gellu", "did you mean gelu?"),
        ("/gain?nonlinearity=gellu&source=quadrature", "did you mean gelu?"),
        ("/gain?nonlinearity=relu&source=quadratur", "did you mean quadrature?"),
        ("/gain?nonlinearty=relu", "did you mean nonlinearity?"),
        ("/init?shape=3,4&scheme=kaiming_norml", "did you mean kaiming_normal?"),
        ("/init?shape=3,4&scheme=he_normal&nonlinearity=rellu", "did you mean relu?"),
        ("/init?shape=3,4&scheme=he_normal&mode=fanin", "did you mean fan_in?"),
        ("/init?shape=3,4&scheme=variance_scaling&distribution=norml", "did you mean normal?"),
        ("/init?shape=3,4&scheme=ones&dtype=bfloat", "did you mean bfloat16?"),
        ("/init?shape=3,4&scheme=ones&generator=Torch", "did you mean torch?"),
        ("/init?shape=3,4&scheme=ones&sed=1", "did you mean seed?"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_one_that_was_meant(small: httpx.Client, path: str, hint: str) -> None:
    [error] = problem(small.get(path), 422)["errors"]
    assert error["hint"].startswith(hint)


def test_a_scheme_in_the_place_of_a_preset_is_answered_with_the_rule_that_was_meant(small: httpx.Client) -> None:
    manifest = {"tensors": {"fc.weight": {"shape": [3, 4]}}, "preset": "xavier_uniform"}
    [error] = problem(small.post("/init", json=manifest), 422)["errors"]
    assert error["hint"].startswith("xavier_uniform is a scheme: give it by a rule, such as ")
    rule = json.loads(error["hint"].partition("such as ")[2])
    assert small.post("/init", json={"tensors": manifest["tensors"], "rules": [rule]}).status_code == 200


def test_a_word_like_no_other_has_no_hint(small: httpx.Client) -> None:
    [error] = problem(small.get("/init?shape=3,4&scheme=ones&dtype=xyz"), 422)["errors"]
    assert "hint" not in error


def test_no_name_is_both_a_scheme_and_a_preset() -> None:
    assert not ALIASES.keys() & PRESETS.keys()


# Nothing that is sent is the server's fault --------------------------------------------------------------------------

FIELDS = sorted({field for model in SINGLES.values() for field in model.model_fields})

numbers = (
    st.integers(-(2**65), 2**65) | st.floats(width=64) | st.sampled_from([10**40, -1, 0, 2**63, 2**64, 1e-320, 1e308])
)
sizes = st.lists(st.integers(0, 9) | numbers, max_size=5)
slices = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map("{0[0]}:{0[1]}".format), max_size=4).map(",".join)
# Half a surrogate pair is what JSON can say and UTF-8 cannot.
texts = st.text(st.characters(codec=None), max_size=9) | st.sampled_from(["\ud800", "__metadata__", "", "x" * 2000])
junk = st.none() | st.booleans() | numbers | texts | sizes | st.dictionaries(texts, numbers, max_size=2)
values = {
    "scheme": st.sampled_from(sorted(ALIASES)),
    "shape": sizes,
    "dtype": st.sampled_from(list(DTYPES)),
    "slice": slices,
    "mode": st.sampled_from(["fan_in", "FAN_OUT", "fan_avg"]),
    "nonlinearity": st.sampled_from(["relu", "tanh", "leaky_relu", "gelu"]),
}


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a body that is nearly a spec."""
    names = {"scheme", "shape"} | draw(st.sets(st.sampled_from(FIELDS), max_size=4))
    spec: dict[str, Any] = {name: draw(values.get(name, numbers)) for name in sorted(names)}
    if draw(st.booleans()):
        spec[draw(st.sampled_from(FIELDS) | texts)] = draw(junk)
    return spec


def settled(response: httpx.Response) -> None:
    """Assert that a response is a file, or a problem that is the reader's."""
    if response.status_code != 200:
        assert response.status_code in {400, 413, 422}, response.text
        problem(response, response.status_code)


@settings(max_examples=100)
@given(spec=specs())
def test_no_body_is_the_servers_fault(small: httpx.Client, spec: dict[str, Any]) -> None:
    for path in ("/init", "/plan"):
        settled(small.post(path, content=json.dumps(spec).encode()))


@settings(max_examples=100)
@given(
    tensors=st.dictionaries(texts, specs() | junk, max_size=3),
    rest=st.dictionaries(st.sampled_from(FIELDS), junk, max_size=1),
)
def test_no_manifest_is_the_servers_fault(small: httpx.Client, tensors: dict[str, Any], rest: dict[str, Any]) -> None:
    settled(small.post("/init", content=json.dumps({"tensors": tensors, **rest}).encode()))


def in_query(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.encode(errors="replace").decode()


@settings(max_examples=70)
@given(spec=specs())
def test_no_query_is_the_servers_fault(small: httpx.Client, spec: dict[str, Any]) -> None:
    settled(small.get("/init", params={in_query(name): in_query(value) for name, value in spec.items()}))
