"""Saturation: when a server is not ready, when it is again, and that several processes say the same."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from weightwell_service.app import create_app
from weightwell_service.saturation import Load, Saturation
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]


class Server:
    """A load that the test sets."""

    responses = 0
    waited = 0.0

    def load(self) -> Load:
        return Load(self.responses, 10, self.waited, 30.0)


def test_a_server_is_saturated_from_the_limit_on_until_it_is_well_below() -> None:
    server = Server()
    saturation = Saturation(0.5, server.load)
    found = []
    for server.responses in (0, 4, 5, 4, 5, 4, 3, 4, 5):
        found.append(saturation.reason() is not None)
    assert found == [False, False, True, True, True, True, False, False, True]


def test_a_long_wait_for_memory_saturates_too_and_the_reason_names_the_larger_part() -> None:
    server = Server()
    saturation = Saturation(0.9, server.load)
    server.responses, server.waited = 9, 1.0
    assert saturation.reason() == (
        "saturated: 9 files are being sent, of at most 10; ready again below 72% of that (WEIGHTWELL_SATURATION)"
    )
    server.responses, server.waited = 1, 27.0
    assert str(saturation.reason()).startswith("saturated: a request has waited for memory for 27 s, of at most 30 s;")
    server.waited = 21.5
    assert saturation.reason() is None


def test_with_a_limit_of_0_a_server_is_never_saturated() -> None:
    server = Server()
    server.responses, server.waited = 10, 30.0
    assert Saturation(0.0, server.load).reason() is None


def test_processes_add_their_files_take_the_longest_wait_and_share_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Server(), Server()
    here, there = Saturation(0.5, first.load, tmp_path), Saturation(0.5, second.load, tmp_path)
    other = os.getppid()  # the number of another process that lives

    def publish(responses: int, waited: float = 0.0) -> None:
        second.responses, second.waited = responses, waited
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: other)
            there.publish()

    publish(9)
    assert here.reason() is None  # 9 of 20
    first.responses = 1
    assert str(here.reason()).startswith("saturated: 10 files are being sent, of at most 20;")
    publish(7)
    assert here.reason() is not None  # 8 of 20, and again below 8
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: other)
        here.publish()  # the 1 of this process, under another name; the one that asks has 7
        assert there.reason() is not None
    publish(6)
    assert here.reason() is None
    publish(0, waited=15.0)
    assert "has waited for memory for 15 s" in str(here.reason())


def test_the_load_of_a_process_that_has_died_does_not_count(tmp_path: Path) -> None:
    server = Server()
    saturation = Saturation(0.5, server.load, tmp_path)
    dead = tmp_path / str(2**22 + 1)  # more than the largest number of a process
    server.responses = 10
    saturation.publish()
    (tmp_path / str(os.getpid())).rename(dead)
    server.responses = 1
    assert saturation.reason() is None
    assert not dead.exists()


def test_a_full_disk_does_not_end_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    saturation = Saturation(0.5, server.load, tmp_path)
    saturation.publish()

    def full(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, f"no place for {len(data)} bytes")

    monkeypatch.setattr(Path, "write_bytes", full)
    saturation.publish()
    assert (tmp_path / str(os.getpid())).stat().st_size == 32  # of before
    assert saturation.reason() is None


def test_a_process_does_not_undo_what_another_one_has_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    saturation = Saturation(0.5, server.load, tmp_path)
    monkeypatch.setattr(saturation, "_is_saturated", lambda: False)
    (tmp_path / "saturated").touch()  # by another process, since this one has looked
    assert saturation.reason() is None
    assert (tmp_path / "saturated").exists()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Settings(threads=1, max_responses=2))


@pytest.fixture(scope="module")
def http(app: FastAPI, serve: Serve) -> Iterator[httpx.Client]:
    with serve(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def test_a_saturated_server_is_not_ready_and_answers_all_else(app: FastAPI, http: httpx.Client) -> None:
    resources = app.state.service.resources
    assert http.get("/health/ready").status_code == 200
    with resources.response():
        assert http.get("/health/ready").status_code == 200
        with resources.response():
            answer = http.get("/health/ready")
            assert answer.status_code == 503
            assert answer.json()["reason"].startswith("saturated: 2 files are being sent, of at most 2")
            assert http.get("/health/live").status_code == 200
            assert http.get("/init?shape=4&scheme=normal").status_code == 200
        assert http.get("/health/ready").status_code == 200
