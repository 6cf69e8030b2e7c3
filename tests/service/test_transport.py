"""TLS and CORS: a service for clients without a proxy, and for pages of other origins."""

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
import trustme
from fastapi import FastAPI

import weightwell
from weightwell_service.app import create_app
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]

PAGE = "https://page.example"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(serve: Serve, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    with serve(create_app(Settings(threads=2, tls_certificate=chain, tls_key=key))) as url:
        yield url.replace("http://", "https://")


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_file_comes_over_tls_as_over_http(secure: str, server: str, trusting: ssl.SSLContext) -> None:
    path = "/init?shape=2000,1000&scheme=normal"
    expected = httpx.get(server + path, trust_env=False, timeout=30).content
    with httpx.Client(verify=trusting, trust_env=False, timeout=30) as client:
        assert client.get(secure + path).content == expected
        assert client.get(secure + path, headers={"Range": "bytes=-16"}).content == expected[-16:]
        assert client.post(f"{secure}/init", json={"shape": [2000, 1000], "scheme": "normal"}).content == expected


def test_our_client_speaks_tls(
    secure: str, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with weightwell.Client(secure) as client:
        assert client.init((1000, 1000), "ones", framework="numpy").sum() == 1e6


def test_an_unknown_authority_is_refused_by_clients(secure: str) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{secure}/gain", trust_env=False, timeout=30)


def test_plain_http_to_a_port_with_tls_gets_no_answer(secure: str, trusting: ssl.SSLContext) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(secure.replace("https://", "http://") + "/gain", trust_env=False, timeout=30)
    assert httpx.get(f"{secure}/gain", verify=trusting, trust_env=False, timeout=30).status_code == 200


@pytest.fixture(scope="module")
def shared(serve: Serve) -> Iterator[httpx.Client]:
    """A client of a service with tokens, whose answers the pages of one origin may read."""
    tokens = Path(__file__).parent / "access" / "tokens.toml"
    settings = Settings(threads=2, cors_origins=f"{PAGE},http://other.example:8080", tokens_file=tokens)
    with serve(create_app(settings)) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def test_a_page_of_an_allowed_origin_may_read_answers_and_their_headers(shared: httpx.Client) -> None:
    answer = shared.get(
        "/init?shape=4&scheme=normal", headers={"Origin": PAGE, "Authorization": "Bearer right", "Range": "bytes=0-3"}
    )
    assert answer.status_code == 206
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = set(re.split(", *", answer.headers["access-control-expose-headers"]))
    assert {"ETag", "Content-Range", "Weightwell-Generator"} <= exposed
    assert "Origin" in answer.headers["vary"]


def test_a_preflight_needs_no_token(shared: httpx.Client) -> None:
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, range",
    }
    answer = shared.options("/init", headers=headers)
    assert answer.status_code == 200
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert shared.options("/init", headers={**headers, "Origin": "https://evil.example"}).status_code == 400


def test_refusals_can_be_read_by_the_page(shared: httpx.Client) -> None:
    answer = shared.get("/gain", headers={"Origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, PAGE)


def test_other_origins_are_not_allowed(shared: httpx.Client, server: str) -> None:
    headers = {"Origin": "https://evil.example", "Authorization": "Bearer right"}
    assert "access-control-allow-origin" not in shared.get("/gain", headers=headers).headers
    assert (
        "access-control-allow-origin"
        not in httpx.get(f"{server}/gain", headers=headers, trust_env=False, timeout=30).headers
    )


@pytest.mark.parametrize("origins", ["*", "https://a.example", "https://a.example,http://b:80"])
def test_origins_have_a_scheme_and_no_path(origins: str) -> None:
    assert Settings(cors_origins=origins).cors_origins == origins
    for wrong in ("a.example", "https://a.example/", "https://a.example, https://b.example", f"{origins},"):
        with pytest.raises(ValueError, match="cors_origins"):
            Settings(cors_origins=wrong)
