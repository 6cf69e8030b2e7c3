"""``/gain``, ``/schemes``, ``/health`` and ``/``: the answers that are JSON or text."""

import json
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightwell.streams
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.gains import measured_gain, measured_gains
from weightwell_engine.nonlinearities import NONLINEARITIES
from weightwell_engine.quadrature import ACTIVATIONS
from weightwell_engine.schemes import FIXED, SCHEMES
from weightwell_engine.spec import GENERATORS


def answer(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = json.loads(response.content)
    return body


def recommended(name: str, param: float | None = None) -> float:
    return torch.nn.init.calculate_gain("linear" if name == "identity" else name, param)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_a_gain_has_the_bits_of_torch(http: httpx.Client, name: str) -> None:
    body = answer(http.get("/gain", params={"nonlinearity": name}))
    assert body["gain"] == recommended(name)
    assert body["source"] == "torch"


@given(st.floats(-1e154, 1e154) | st.floats(-4, 4))
def test_a_gain_has_the_bits_of_torch_at_every_slope(http: httpx.Client, slope: float) -> None:
    body = answer(http.get("/gain", params={"nonlinearity": "leaky_relu", "param": repr(slope)}))
    assert body["gain"] == recommended("leaky_relu", slope)
    assert body["param"] == slope


def test_the_table_holds_the_gain_of_every_nonlinearity(http: httpx.Client) -> None:
    gains = answer(http.get("/gain"))["gains"]
    assert {name: row["gain"] for name, row in gains.items()} == {name: recommended(name) for name in NONLINEARITIES}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_computed_gain_has_all_digits(http: httpx.Client, name: str) -> None:
    body = answer(http.get("/gain", params={"nonlinearity": name, "source": "quadrature"}))
    assert body == asdict(measured_gain(name))


def test_a_measured_table_holds_every_activation(http: httpx.Client) -> None:
    gains = answer(http.get("/gain", params={"source": "quadrature"}))["gains"]
    assert gains == {name: asdict(row) for name, row in measured_gains().gains.items()}
    assert gains.keys() == ACTIVATIONS.keys()


def test_recommended_and_computed_gains_differ(http: httpx.Client) -> None:
    measured = answer(http.get("/gain", params={"nonlinearity": "tanh", "source": "quadrature"}))
    assert round(measured["gain"], 2) == 1.59
    assert answer(http.get("/gain", params={"nonlinearity": "tanh"}))["gain"] == 5 / 3


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nonlinearity=gelu", "nonlinearity"),
        ("nonlinearity=ReLU", "nonlinearity"),
        ("nonlinearity=", "nonlinearity"),
        ("nonlinearity=leaky_relu&param=nan", "param"),
        ("nonlinearity=leaky_relu&param=inf", "param"),
        ("nonlinearity=leaky_relu&param=1e200", "param"),
        ("nonlinearity=leaky_relu&param=True", "param"),
        ("nonlinearity=leaky_relu&param=", "param"),
        ("param=0.2", "param"),
        ("nonlinearity=relu&nonlinearity=tanh", "nonlinearity"),
        ("nonlinearity=relu&slope=1", "slope"),
        ("nonlinearity=relu&source=guess", "source"),
        ("nonlinearity=nothing&source=quadrature", "nonlinearity"),
        ("nonlinearity=gelu&param=nan&source=quadrature", "param"),
        ("param=0.2&source=quadrature", "param"),
        ("nonlinearity=tanh&bias_variance=0.05", "bias_variance"),
        ("bias_variance=0.05&source=quadrature", "bias_variance"),
        ("nonlinearity=tanh&bias_variance=-1&source=quadrature", "bias_variance"),
    ],
)
def test_a_question_that_makes_no_sense_names_the_field_that_does_not(
    http: httpx.Client, query: str, field: str
) -> None:
    response = http.get(f"/gain?{query}")
    assert response.status_code == 422, response.text
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_a_parameter_that_torch_ignores_is_said_to_be_ignored(http: httpx.Client) -> None:
    body = answer(http.get("/gain", params={"nonlinearity": "relu", "param": 0.2}))
    assert body["gain"] == recommended("relu", 0.2)
    assert body["ignored"] == {"param": 0.2}


def test_the_words_of_torch_are_in_the_answer(http: httpx.Client) -> None:
    assert http.get("/gain?nonlinearity=gelu").json()["detail"] == "Unsupported nonlinearity gelu"


def test_where_there_is_a_gain_that_torch_lacks_is_said(http: httpx.Client) -> None:
    problem = http.get("/gain?nonlinearity=gelu").json()
    assert "source=quadrature" in problem["errors"][0]["hint"]
    assert answer(http.get("/gain?nonlinearity=gelu&source=quadrature"))["nonlinearity"] == "gelu"


def test_the_catalogue_holds_every_scheme_dtype_and_generator(http: httpx.Client) -> None:
    catalogue = answer(http.get("/schemes"))
    assert [scheme["name"] for scheme in catalogue["schemes"]] == list(SCHEMES)
    assert {dtype["name"]: dtype["safetensors"] for dtype in catalogue["dtypes"]} == {
        name: dtype.code for name, dtype in DTYPES.items()
    }
    assert {generator["name"] for generator in catalogue["generators"]} == set(GENERATORS)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_the_catalogue_says_of_a_scheme_all_that_the_registry_says(http: httpx.Client, scheme: Any) -> None:
    row = next(row for row in answer(http.get("/schemes"))["schemes"] if row["name"] == scheme.name)
    assert row["aliases"] == list(scheme.aliases)
    assert (row["dimensions"]["min"], row["dimensions"]["max"]) == scheme.ndim
    told = {each["name"]: None if each["required"] else each["default"] for each in row["parameters"]}
    required = {each["name"] for each in row["parameters"] if each["required"]}
    assert required == {parameter.name for parameter in scheme.parameters if parameter.default is ...}
    defaults = {p.name: None if p.default is ... else p.default for p in scheme.parameters}
    assert told == json.loads(json.dumps(defaults))
    assert all(each["description"] for each in row["parameters"])


def test_the_service_is_alive_and_ready(http: httpx.Client) -> None:
    assert answer(http.get("/health/live"))["status"] == "live"
    ready = http.get("/health/ready")
    assert ready.headers["cache-control"] == "no-store"
    assert answer(ready)["status"] == "ready"
    assert answer(ready)["version"] == version("weightwell")
    assert set(answer(ready)["generators"]) == set(GENERATORS)


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_readiness_has_the_paths_that_orchestrators_try_first(http: httpx.Client, path: str) -> None:
    assert http.get(path).json() == http.get("/health/ready").json()
    assert http.head(path).status_code == 200


def test_the_root_path_lists_commands(http: httpx.Client) -> None:
    hello = http.get("/")
    assert hello.headers["content-type"].startswith("text/plain")
    commands = [line.split("'")[1] for line in hello.text.splitlines() if "curl" in line]
    assert len(commands) >= 3
    assert {http.get(url).status_code for url in commands} == {200}


def test_the_client_knows_which_schemes_draw_nothing() -> None:
    assert weightwell.streams.FIXED == FIXED
