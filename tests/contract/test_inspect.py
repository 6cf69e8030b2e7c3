"""``/inspect`` over HTTP and in this process."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import Message

import weightwell
from weightwell_service import inspections
from weightwell_service.app import create_app
from weightwell_service.service import Service
from weightwell_service.settings import Settings


@pytest.fixture(scope="module")
def client(door: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(door) as client:
        yield client


def test_an_inspection_says_what_was_drawn_and_what_the_law_expects(client: weightwell.Client) -> None:
    found = client.inspect((64, 48), "kaiming_normal", seed=7, dtype="bfloat16", name="w", slice="0:32,:")
    assert (found["count"], found["tensor"]["slice"], found["tensor"]["dtype"]) == (1536, "0:32,0:48", "bfloat16")
    assert (
        found["etag"]
        == client.plan((64, 48), "kaiming_normal", seed=7, dtype="bfloat16", name="w", slice="0:32,:").etag
    )
    std = found["moments"]["std"]
    assert std["theory"] == pytest.approx((2 / 48) ** 0.5)
    assert abs(std["measured"] - std["theory"]) < 5 * std["standard_error"]
    assert len(found["singular_values"]["measured"]) == 32


def test_a_server_and_this_process_give_the_same_answer(server: str) -> None:
    with weightwell.Client(server) as remote, weightwell.local() as local:
        asked: dict[str, Any] = {"shape": [40, 40], "scheme": "orthogonal", "seed": 3}
        assert remote.inspect(asked) == local.inspect(asked)


def test_a_tensor_whose_query_is_too_long_is_posted(client: weightwell.Client) -> None:
    values = [float(each) / 7 for each in range(600)]
    found = client.inspect((600,), "values", values=values)
    assert (found["smallest"], found["zeros"]) == (0.0, 1)


def test_two_tensors_are_refused(client: weightwell.Client) -> None:
    two = {name: {"shape": [2], "scheme": "ones"} for name in "ab"}
    with pytest.raises(weightwell.InvalidRequest, match="tensors must be one tensor, to be inspected, got 2"):
        client.inspect({"tensors": two})


def test_too_large_a_tensor_is_a_413_with_the_number(http: httpx.Client) -> None:
    answer = http.get("/inspect", params={"shape": "100000,20000", "scheme": "normal"})
    assert answer.status_code == 413
    assert "inspect a slice of fewer than 125000000 elements" in answer.json()["detail"]


def test_an_inspection_stops_when_its_reader_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(threads=1))
    service: Service = app.state.service
    blocks = 0
    inspect = service.engine.inspect

    def counted(*arguments: Any) -> Any:
        nonlocal blocks
        for _ in inspect(*arguments):
            blocks += 1
            yield

    monkeypatch.setattr(service.engine, "inspect", counted)
    monkeypatch.setattr(inspections, "MOST", 10**15)

    async def asked() -> None:
        left = asyncio.Event()
        requests: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            if requests:
                return requests.pop()
            while not blocks:
                await asyncio.sleep(0)
            left.set()
            return {"type": "http.disconnect"}

        async def send(_: Message) -> None:
            pass

        query = b"shape=30000,30000&scheme=normal&dtype=bfloat16"
        scope = {"type": "http", "method": "GET", "path": "/inspect", "query_string": query, "headers": []}
        await app({**scope, "client": ("192.0.2.1", 1), "http_version": "1.1"}, receive, send)
        assert left.is_set()

    asyncio.run(asked())
    assert 0 < blocks < 1000  # of 27,466
    assert service.resources.budget.used == 0
    service.shutdown()
