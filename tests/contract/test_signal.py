"""``/signal``: by every door, within its limits, and stopped when the client leaves."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import Event
from typing import Any, get_args
from unittest import mock

import httpx
import pytest
import torch
from fastapi import FastAPI

import weightwell
from weightwell import Client, literals
from weightwell_engine.parsing import EQUAL_LAYERS, read_signal
from weightwell_engine.parsing.signal import LayerFields
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.signal import measurement
from weightwell_service import signal_response
from weightwell_service.app import create_app
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]
PATIENCE = 30.0


@pytest.fixture(scope="module")
def local() -> Iterator[Client]:
    with weightwell.local(threads=2) as client:
        yield client


@pytest.fixture(scope="module")
def remote(server: str) -> Iterator[Client]:
    with Client(server) as client:
        yield client


# Doors ---------------------------------------------------------------------------------------------------------------

QUESTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "equal layers": (None, {"depth": 3, "width": 16, "activation": "swish", "seeds": (0, "18446744073709551615")}),
    "biases": (None, {"depth": 2, "width": 8, "bias": "normal", "bias_std": 0.1, "scheme": "he_normal", "a": 0.1}),
    "overflow": (None, {"depth": 8, "width": 64, "scheme": "normal", "std": 4.0, "dtype": torch.float16}),
    "a list": (
        [
            {"kind": "conv2d", "width": 4, "normalization": "instance"},
            {"width": 6, "repeat": 2, "activation": "tanh", "scheme": "glorot_uniform"},
            {"width": 6, "residual": "post-norm", "normalization": "layer"},
        ],
        {"input_width": 2, "image_size": 4, "batch": 3, "seeds": 5},
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_signal_is_the_same_by_every_door(local: Client, remote: Client, name: str) -> None:
    layers, fields = QUESTIONS[name]
    mine, theirs = (client.signal(layers, **fields) for client in (local, remote))
    assert mine.answer == theirs.answer
    assert str(mine) == str(theirs)


async def _asynchronous(address: str) -> weightwell.Signal:
    async with weightwell.AsyncClient(address) as client:
        return await client.signal(depth=2, width=8)


def test_an_asynchronous_client_has_the_same_signal(local: Client, server: str) -> None:
    expected = local.signal(depth=2, width=8)
    for address in (server, "local:"):
        assert asyncio.run(_asynchronous(address)) == expected


@pytest.mark.parametrize(
    ("layers", "fields"),
    [
        (None, {"activation": "tahn"}),
        (None, {"depht": 3}),
        (None, {"bias_std": 1.0}),
        (None, {"scheme": "eye", "kind": "conv2d", "width": 4}),
        ([{"width": 3}, {"width": 4, "residual": "pre-norm"}], {}),
    ],
)
def test_refusals_are_the_same_by_every_door(local: Client, remote: Client, layers: Any, fields: Any) -> None:
    found = []
    for client in (local, remote):
        with pytest.raises(weightwell.InvalidRequest) as caught:
            client.signal(layers, **fields)
        found.append([(each.field, each.expected) for each in caught.value.errors])
    assert found[0] == found[1]


def test_anyone_draws_the_weights_of_the_answer(remote: Client) -> None:
    signal = remote.signal(depth=2, width=16, scheme="xavier_uniform", seeds=3, batch=4)

    def draw(source: Any) -> torch.Tensor:
        parts = {"name": source["name"], "dtype": source["dtype"], **source["parameters"]}
        return remote.init(source["shape"], source["scheme"], seed=3, framework="torch", **parts)

    x = draw(signal.input["sources"][0])
    for layer in signal.layers:
        x = torch.relu(x @ draw(layer["weight"]).T + draw(layer["bias"]))
        assert layer["forward"]["rms"] == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)


def test_numbers_that_are_not_finite_are_null(http: httpx.Client) -> None:
    response = http.get("/signal?depth=10&width=64&scheme=normal&std=9&dtype=float16")
    assert response.status_code == 200
    answer = response.json()  # which refuses NaN and Infinity nowhere, but there is no such text
    assert "NaN" not in response.text
    assert "Infinity" not in response.text
    first = answer["first_not_finite"]["forward"]
    assert answer["layers"][first - 1]["forward"]["rms"] is None
    assert answer["layers"][first - 2]["forward"]["rms"] > 1


def test_a_measured_gain_explodes_as_the_slope_of_its_fixed_point_says(http: httpx.Client) -> None:
    gain = http.get("/gain?nonlinearity=gelu&source=quadrature").json()
    assert gain["stability"] == "unstable"
    scheme = "scheme=kaiming_normal&nonlinearity=gelu&gain_source=quadrature"
    answer = http.get(f"/signal?depth=60&width=128&activation=gelu&{scheme}").json()
    assert answer["theory"]["weight_variance"] == pytest.approx(gain["gain"] ** 2, rel=1e-9)
    assert answer["theory"]["at_fixed_point"] is False
    assert math.sqrt(answer["layers"][-1]["q"]) > 30


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_signal_beyond_the_budget_is_refused_with_both_numbers(http: httpx.Client) -> None:
    response = http.get("/signal?depth=4096&width=65536")
    assert response.status_code == 413
    expected = read_signal({"depth": "4096", "width": "65536"}, strings=True).operations
    assert f"about {expected} operations" in response.json()["detail"]
    assert "200000000000" in response.json()["detail"]
    assert "WEIGHTWELL_MAX_SIGNAL_OPERATIONS" in response.json()["detail"]


def test_a_signal_without_torch_is_refused_with_the_reason(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_response, "find_spec", lambda _: None)
    response = http.get("/signal?depth=2&width=16")
    assert response.status_code == 422
    assert "torch is not installed" in response.json()["detail"]


def test_a_signal_that_needs_more_memory_than_the_budget_is_refused(serve: Serve) -> None:
    with serve(create_app(Settings(threads=1, max_resident_bytes=2**20))) as url:
        response = httpx.get(f"{url}/signal?depth=20&width=512")
        assert response.status_code == 413
        assert "WEIGHTWELL_MAX_RESIDENT_BYTES" in response.json()["detail"]
        assert httpx.get(f"{url}/signal?depth=2&width=8").status_code == 200


def test_a_signal_stops_between_layers_when_the_client_leaves(serve: Serve) -> None:
    app = create_app(Settings(threads=1))
    begun, left, stopped = Event(), Event(), Event()
    steps = 0

    def slow(*_: Any) -> Iterator[None]:
        nonlocal steps
        try:
            while True:
                steps += 1
                yield
                begun.set()
                left.wait(PATIENCE)
        finally:
            stopped.set()

    with mock.patch.object(measurement, "measure", slow), serve(app) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{url}/signal?depth=2&width=8", timeout=httpx.Timeout(PATIENCE, read=0.5))
        assert begun.wait(PATIENCE)
        left.set()
        assert stopped.wait(PATIENCE)
        budget = app.state.service.resources.budget
        for _ in range(200):
            if not budget.used:
                break
            stopped.wait(0.01)
        assert budget.used == 0


def test_a_deadline_ends_a_measurement_in_this_process() -> None:
    with weightwell.Client("local:", deadline=0.0) as client, pytest.raises(weightwell.TimedOut):
        client.signal(depth=2, width=8)


# Types ---------------------------------------------------------------------------------------------------------------


def test_the_fields_of_the_client_are_those_of_the_service() -> None:
    known = {field for model in EQUAL_LAYERS.values() for field in model.model_fields}
    own = {each.name for scheme in SCHEMES.values() for each in scheme.parameters}
    assert literals.SignalFields.__annotations__.keys() - own == known - own


@pytest.mark.parametrize(
    ("literal", "field"),
    [
        (literals.LayerKind, "kind"),
        (literals.Normalization, "normalization"),
        (literals.Residual, "residual"),
        (literals.Padding, "padding"),
    ],
)
def test_a_literal_has_the_words_of_the_service(literal: Any, field: str) -> None:
    assert get_args(literal) == get_args(LayerFields.model_fields[field].annotation)
