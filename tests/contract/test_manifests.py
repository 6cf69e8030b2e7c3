"""Manifests: a whole model is one file, with a URL, and /plan describes it without drawing."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any
from unittest import mock

import httpx
import pytest
import safetensors
import safetensors.torch
import torch
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from weightwell_engine.exceptions import Busy
from weightwell_engine.presets import PRESETS
from weightwell_engine.spec import GENERATORS
from weightwell_service.app import create_app
from weightwell_service.links import MAX_URL, pack
from weightwell_service.settings import Settings

Serve = Callable[[FastAPI], AbstractContextManager[str]]
Fields = dict[str, Any]

each_generator = pytest.mark.parametrize("generator", GENERATORS)

MODEL: Fields = {
    "seed": 42,
    "dtype": "float16",
    "rules": [
        {"match": "*.bias", "scheme": "zeros"},
        {"regex": r"blocks\.\d+\.out\.weight", "scheme": "normal", "std": 0.01},
        {"match": "never", "scheme": "ones"},
    ],
    "preset": "torch",
    "tensors": {
        "embed.weight": {"shape": [97, 16], "module": "Embedding", "dtype": "bfloat16"},
        **{
            f"blocks.{i}.{leaf}": {"shape": shape, "module": module}
            for i in range(3)
            for leaf, shape, module in (
                ("norm.weight", [16], "BatchNorm1d"),
                ("norm.bias", [16], "BatchNorm1d"),
                ("norm.num_batches_tracked", [], "BatchNorm1d"),
                ("out.weight", [16, 16], "Linear"),
            )
        },
        "shard.weight": {"shape": [40, 50], "module": "Linear", "slice": "3:17,5:50", "dtype": "float32"},
        "head.weight": {"alias": "embed.weight"},
    },
}


def linked(fields: Fields) -> dict[str, str]:
    """Return the query that holds a manifest."""
    return {"manifest": pack(json.dumps(fields))}


def planned(http: httpx.Client, fields: Fields) -> Fields:
    response = http.post("/plan", json=fields)
    assert response.status_code == 200, response.text
    found: Fields = response.json()
    return found


# The URL of a manifest -----------------------------------------------------------------------------------------------


@each_generator
def test_a_manifest_in_a_url_is_the_file_that_is_posted(http: httpx.Client, generator: str) -> None:
    model = {**MODEL, "generator": generator}
    posted, got = http.post("/init", json=model), http.get("/init", params=linked(model))
    assert posted.status_code == got.status_code == 200
    assert got.content == posted.content
    assert {**got.headers, **OF_EACH} == {**posted.headers, **OF_EACH}


@each_generator
def test_the_url_of_a_plan_leads_to_the_file(http: httpx.Client, generator: str) -> None:
    plan = planned(http, {**MODEL, "generator": generator})
    got = http.get(plan["url"])
    assert got.headers["etag"] == plan["etag"]
    assert len(got.content) == plan["nbytes"]
    assert got.content == http.post("/init", json={**MODEL, "generator": generator}).content


def test_the_head_of_a_manifest_is_that_of_its_file(http: httpx.Client) -> None:
    head, got = http.head("/init", params=linked(MODEL)), http.get("/init", params=linked(MODEL))
    assert head.content == b""
    assert {**head.headers, **OF_EACH} == {**got.headers, **OF_EACH}


@each_generator
@settings(max_examples=20)
@given(data=st.data())
def test_ranges_that_cover_the_file_of_a_manifest_are_the_file(
    http: httpx.Client, generator: str, data: st.DataObject
) -> None:
    query = linked({**MODEL, "generator": generator})
    body = http.get("/init", params=query).content
    cuts = data.draw(st.lists(st.integers(1, len(body) - 1), max_size=5, unique=True))
    ranges = [f"bytes={start}-{stop - 1}" for start, stop in pairwise([0, *sorted(cuts), len(body)])]
    parts = [http.get("/init", params=query, headers={"range": wanted}) for wanted in ranges]
    assert {part.status_code for part in parts} == {206}
    assert b"".join(part.content for part in parts) == body


def test_a_manifest_is_cached_and_resumed_like_any_file(http: httpx.Client) -> None:
    query = linked(MODEL)
    whole = http.get("/init", params=query)
    etag = whole.headers["etag"]
    assert http.get("/init", params=query, headers={"if-none-match": etag}).status_code == 304
    rest = http.get("/init", params=query, headers={"range": "bytes=999-", "if-range": etag})
    assert rest.status_code == 206
    assert rest.content == whole.content[999:]
    other = http.get("/init", params=query, headers={"range": "bytes=999-", "if-range": '"another"'})
    assert other.content == whole.content


def test_a_url_as_long_as_all_on_its_way_must_take_is_taken(http: httpx.Client) -> None:
    names = [sha256(bytes([i])).hexdigest() for i in range(200)]  # which no compression makes short
    models = [{"tensors": {name: {"shape": [1], "scheme": "ones"} for name in names[:count]}} for count in range(200)]
    plans = [plan for plan in (planned(http, model) for model in models[100::10]) if plan["url"]]
    assert len(plans[-1]["url"]) > MAX_URL - 600
    assert http.head(plans[-1]["url"]).headers["etag"] == plans[-1]["etag"]


# Plans ---------------------------------------------------------------------------------------------------------------


@each_generator
def test_a_plan_agrees_with_the_file(http: httpx.Client, tmp_path: Path, generator: str) -> None:
    model = {**MODEL, "generator": generator}
    plan = planned(http, model)
    data = http.post("/init", json=model).content
    (tmp_path / "file").write_bytes(data)
    stored = {name: each for name, each in plan["tensors"].items() if "alias" not in each}
    with safetensors.safe_open(tmp_path / "file", "pt") as file:
        assert set(file.keys()) == set(stored)
        for name, each in stored.items():
            tensor = file.get_tensor(name)
            assert str(tensor.dtype) == f"torch.{each['dtype']}"
            start, stop = (plan["header_nbytes"] + offset for offset in each["data_offsets"])
            assert data[start:stop] == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert each["nbytes"] == tensor.nbytes


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": [512, 784], "scheme": "kaiming_uniform"},
        {"shape": [512, 784], "scheme": "trunc_normal", "std": 0.02, "a": -0.03},
        {"shape": [512, 784], "scheme": "lecun_normal"},
        {"shape": [512, 784], "scheme": "sparse", "sparsity": 0.25},
        {"shape": [512, 784], "scheme": "eye"},
        {"shape": [200, 300], "scheme": "orthogonal", "gain": 3},
        {"shape": [90, 40, 3, 3], "scheme": "delta_orthogonal"},
    ],
    ids=lambda fields: fields["scheme"],
)
def test_a_plan_tells_the_moments_that_the_numbers_turn_out_to_have(http: httpx.Client, fields: Fields) -> None:
    told = planned(http, fields)["tensors"]["weight"]
    drawn = safetensors.torch.load(http.post("/init", json=fields).content)["weight"].double()
    error = told["std"] / drawn.numel() ** 0.5
    assert abs(drawn.mean().item() - told["mean"]) < 5 * error
    assert abs(drawn.std().item() - told["std"]) < 5 * error


def test_plans_are_got_as_they_are_posted(http: httpx.Client) -> None:
    tensor = {"shape": [3, 5], "scheme": "he_normal", "seed": 7}
    query = {"shape": "3,5", "scheme": "he_normal", "seed": "7"}
    assert http.get("/plan", params=query).json() == planned(http, tensor)
    assert http.get("/plan", params=linked(MODEL)).json() == planned(http, MODEL)
    assert http.head("/plan", params=query).status_code == 200


def test_a_plan_tells_the_rules_that_were_taken(http: httpx.Client) -> None:
    plan = planned(http, MODEL)
    assert plan["unused"] == [2]
    assert plan["unused_note"].startswith("no tensor uses rules.2: ")
    assert plan["tensors"]["blocks.0.norm.bias"]["rule"] == "rules.0"
    assert plan["tensors"]["blocks.0.out.weight"]["rule"] == "rules.1"
    assert plan["tensors"]["shard.weight"]["rule"] == "preset.0"
    assert plan["tensors"]["head.weight"] == {"alias": "embed.weight"}


# Fields of the head that are not the same in two answers.
OF_EACH = {"date": "", "x-request-id": ""}


@pytest.fixture(scope="module")
def small(serve: Serve) -> Iterator[httpx.Client]:
    """A client of a service with low limits."""
    limits = Settings(threads=1, max_bytes=2**16, max_resident_bytes=2**16, max_request_bytes=2**12)
    with (
        serve(create_app(limits)) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "fields",
    [{"shape": [2**20, 2**20], "scheme": "normal"}, {"shape": [100, 100], "scheme": "orthogonal", "dtype": "float32"}],
)
def test_what_is_too_large_to_be_served_is_planned_all_the_same(small: httpx.Client, fields: Fields) -> None:
    plan, refused = planned(small, fields), small.post("/init", json=fields)
    assert refused.status_code == 413
    assert plan["refusal"] == refused.json()["detail"]
    assert plan["nbytes"] > plan["header_nbytes"]


def test_what_cannot_be_is_refused_by_a_plan_as_well(small: httpx.Client) -> None:
    for fields in ({"shape": [3], "scheme": "xavier_normal"}, {"tensors": {"a": {"shape": [3]}}}, {"preset": "gpt"}):
        plan, init = small.post("/plan", json=fields), small.post("/init", json=fields)
        assert plan.status_code == 422
        assert {**plan.json(), "request_id": ""} == {**init.json(), "request_id": ""}


def test_a_manifest_that_unpacks_to_more_than_a_body_may_have_is_too_large(small: httpx.Client) -> None:
    bomb = pack(" " * 2**20)
    assert len(bomb) < MAX_URL
    for path in ("/init", "/plan"):
        refused = small.get(path, params={"manifest": bomb})
        assert refused.status_code == 413
        assert "more than the 4096 bytes" in refused.json()["detail"]


def test_a_manifest_that_many_clients_ask_for_at_once_is_planned_once(serve: Serve) -> None:
    app = create_app(Settings(threads=1))
    engine = app.state.service.engine
    with (
        mock.patch.object(engine, "plan", wraps=engine.plan) as planning,
        serve(app) as url,
        ThreadPoolExecutor(8) as clients,
    ):
        etags = {
            each.headers["etag"]
            for each in clients.map(
                lambda _: httpx.head(f"{url}/init", params=linked(MODEL), trust_env=False), range(8)
            )
        }
    assert len(etags) == 1
    planning.assert_called_once()


def test_readiness_is_answered_while_many_manifests_are_parsed(serve: Serve) -> None:
    app = create_app(Settings(threads=1))
    begun, released = Event(), Event()

    def describe(*_: object) -> None:
        begun.set()
        released.wait(60)
        raise Busy("try again")

    with (
        mock.patch.object(app.state.service, "describe", describe),
        serve(app) as url,
        ThreadPoolExecutor(50) as clients,
    ):
        plans = [
            clients.submit(httpx.get, f"{url}/plan", params=linked(MODEL), trust_env=False, timeout=60)
            for _ in range(50)
        ]
        assert begun.wait(60)
        try:
            assert httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
        finally:
            released.set()
        assert {each.result().status_code for each in plans} == {503}


# Models --------------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding that is the output layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 11)
        self.head.weight = self.embed.weight


def manifest_of(model: nn.Module) -> Fields:
    """Return the manifest of a model, written without the client."""
    modules = {name: type(module).__name__ for name, module in model.named_modules()}
    tensors: Fields = {}
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = seen.setdefault(id(tensor), name)
        own = {"shape": list(tensor.shape), "module": modules[name.rpartition(".")[0]]}
        tensors[name] = own if first == name else {"alias": first}
    return {"preset": "torch", "tensors": tensors}


@each_generator
def test_a_model_with_tied_weights_loads_with_the_safetensors_library(
    http: httpx.Client, tmp_path: Path, generator: str
) -> None:
    model = Tied()
    made = http.post("/init", json={**manifest_of(model), "generator": generator})
    (tmp_path / "model.safetensors").write_bytes(made.content)
    missing, unexpected = safetensors.torch.load_model(model, tmp_path / "model.safetensors")
    assert not missing
    assert not unexpected
    assert model.head.weight is model.embed.weight
    stored = safetensors.torch.load(made.content)
    assert "head.weight" not in stored
    assert torch.equal(model.head.weight, stored["embed.weight"])
    assert model.norm.num_batches_tracked == torch.tensor(0)  # of the same dtype


def test_the_metadata_names_aliases_as_the_safetensors_library_does(http: httpx.Client, tmp_path: Path) -> None:
    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "theirs"))
    (tmp_path / "ours").write_bytes(http.post("/init", json=manifest_of(model)).content)
    metadata = []
    for path in ("theirs", "ours"):
        with safetensors.safe_open(tmp_path / path, "pt") as file:
            metadata.append(file.metadata())
    theirs, ours = metadata
    assert theirs.items() <= ours.items()


# Presets -------------------------------------------------------------------------------------------------------------


def test_the_catalogue_of_presets_has_parameters_and_examples(http: httpx.Client) -> None:
    presets = {preset["name"]: preset for preset in http.get("/presets").json()["presets"]}
    assert list(presets) == list(PRESETS)
    for name, preset in presets.items():
        assert preset["summary"]
        assert preset["references"]
        assert {each["name"] for each in preset["parameters"]} == {each.name for each in PRESETS[name].parameters}
        assert all(each["description"] for each in preset["parameters"])
        assert preset["example"]["rules"]
        asked = {"tensors": {}, "preset": preset["example"]["preset"]}
        assert http.post("/init", json=asked).status_code == 200
        assert http.post("/init", json={"tensors": {}, "rules": preset["example"]["rules"]}).status_code == 200


# Rules that nothing takes --------------------------------------------------------------------------------------------


def asked(http: httpx.Client, fields: Fields) -> Iterator[httpx.Response]:
    """Ask for a file in every way that there is."""
    etag = http.head("/init", params=linked(fields)).headers["etag"]
    yield http.post("/init", json=fields)
    yield http.get("/init", params=linked(fields))
    yield http.head("/init", params=linked(fields))
    yield http.get("/init", params=linked(fields), headers={"range": "bytes=9-99"})
    yield http.get("/init", params=linked(fields), headers={"if-none-match": etag})


def test_every_answer_names_the_rules_that_no_tensor_takes(http: httpx.Client) -> None:
    answers = list(asked(http, MODEL))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 206, 304]
    assert {answer.headers["weightwell-unused-rules"] for answer in answers} == {"rules.2"}


def test_where_every_rule_is_taken_nothing_is_named(http: httpx.Client) -> None:
    fields = {**MODEL, "rules": MODEL["rules"][:2]}
    assert not any("weightwell-unused-rules" in answer.headers for answer in asked(http, fields))
    assert "weightwell-unused-rules" not in http.get("/init?shape=3&scheme=ones").headers
    assert http.post("/plan", json=fields).json()["unused_note"] is None


def test_a_header_names_no_more_rules_than_proxies_take(http: httpx.Client) -> None:
    rules = [{"match": f"never{place}", "scheme": "ones"} for place in range(2000)]
    fields = {"rules": [*rules[1:], {"match": "*", "scheme": "ones"}], "tensors": {"w": {"shape": [2]}}}
    listed = http.post("/init", json=fields).headers["weightwell-unused-rules"]
    assert listed.split(", ") == [f"rules.{place}" for place in range(100)]


def test_rules_that_nothing_takes_change_neither_bytes_nor_etag(http: httpx.Client) -> None:
    files = [http.post("/init", json={**MODEL, "rules": MODEL["rules"][:most]}) for most in (2, 3)]
    assert files[0].content == files[1].content
    assert files[0].headers["etag"] == files[1].headers["etag"]
