"""A client warns once if it draws the same random numbers for another tensor."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from torch import nn

import weightwell
from tests.client.conftest import Client
from weightwell import Manifest, RepeatedStreamWarning, streams
from weightwell.streams import Streams

Act = Callable[[Any], object]


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, door: str) -> Iterator[Any]:
    with Client(request.param, door) as client:
        yield client


def spec(name: str, shape: tuple[int, ...] = (3,), seed: int = 1, **fields: Any) -> dict[str, Any]:
    """What the metadata of a file of one tensor says."""
    return {"generator": "philox", "tensors": {name: {"shape": [*shape], "seed": seed, "scheme": "normal", **fields}}}


def manifest(**tensors: Any) -> Manifest:
    return Manifest({name: {"scheme": "normal", **fields} for name, fields in tensors.items()}, seed=1)


MODELS = [nn.Sequential(nn.Linear(size, 4)) for size in (3, 4)]


# What is a repetition ------------------------------------------------------------------------------------------------

REPEATED: dict[str, tuple[Act, Act]] = {
    "another shape": (lambda c: c.init((4, 4), "normal"), lambda c: c.init((5, 4), "normal")),
    "another scheme": (lambda c: c.init((4, 4), "normal"), lambda c: c.init((4, 4), "xavier_uniform")),
    "another parameter": (lambda c: c.init((4, 4), "normal"), lambda c: c.init((4, 4), "normal", std=0.02)),
    "a name that stands for none": (lambda c: c.init(3, "normal"), lambda c: c.init(4, "normal", name="weight")),
    "a manifest": (
        lambda c: c.init_state_dict(manifest(a={"shape": 3})),
        lambda c: c.init(4, "normal", name="a", seed=1),
    ),
    "a part": (
        lambda c: c.init_state_dict(manifest(a={"shape": 4, "parts": [{"slice": "0:2", "scheme": "uniform"}]})),
        lambda c: c.init(2, "normal", name="a[0:2]", seed=1),
    ),
    "a file": (
        lambda c: c.save("file", 3, "normal"),
        lambda c: c.save("file", manifest(weight={"shape": 5, "seed": 0})),
    ),
    "modules": (
        lambda c: c.init_module_(MODELS[0]),
        lambda c: c.init_module_(MODELS[1]),
    ),
    "a module and its tensors": (
        lambda c: c.init_module_(MODELS[0]),
        lambda c: c.init((4, 3), "normal", name="0.weight"),
    ),
    "generator=torch": (
        lambda c: c.init(3, "normal", generator="torch", name="a"),
        lambda c: c.init(3, "normal", generator="torch", name="b"),
    ),
}


@pytest.mark.parametrize(("first", "second"), REPEATED.values(), ids=REPEATED)
def test_a_stream_that_is_drawn_for_another_tensor_is_said_once(
    client: Any, first: Act, second: Act, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first(client)
    with pytest.warns(RepeatedStreamWarning, match=r"the same random numbers.* ignore weightwell\.Rep") as caught:
        second(client)
    assert len(caught) == 1
    first(client)
    second(client)


LAWFUL: dict[str, tuple[Act, Act]] = {
    "the same": (lambda c: c.init((4, 4), "he_normal"), lambda c: c.init((4, 4), "kaiming_normal", a=0)),
    "slices": (lambda c: c.init((4, 4), "normal"), lambda c: c.init((4, 4), "normal", slice=np.s_[1:, 2:])),
    "another dtype": (lambda c: c.init((4, 4), "normal"), lambda c: c.init((4, 4), "normal", dtype="bfloat16")),
    "another seed": (lambda c: c.init((4, 4), "normal"), lambda c: c.init(3, "normal", seed=1)),
    "another name": (lambda c: c.init((4, 4), "normal"), lambda c: c.init(3, "normal", name="other")),
    "another generator": (lambda c: c.init((4, 4), "normal"), lambda c: c.init(3, "normal", generator="torch")),
    "constants": (lambda c: c.init((4, 4), "zeros"), lambda c: c.init(3, "ones")),
    "no elements": (lambda c: c.init((4, 0), "normal"), lambda c: c.init((0, 3), "normal")),
    "shards of a manifest": (
        lambda c: c.init_state_dict(manifest(a={"shape": (4, 4)}).shard(0, 2)),
        lambda c: c.init_state_dict(manifest(a={"shape": (4, 4)}).shard(1, 2)),
    ),
    "a prefix": (
        lambda c: c.init_module_(nn.Sequential(nn.Linear(3, 4))),
        lambda c: c.init_module_(nn.Sequential(nn.Linear(4, 4)), prefix="second"),
    ),
    "replicas": (
        lambda c: c.init_module_(MODELS[0]),
        lambda c: c.init_module_(nn.Sequential(nn.Linear(3, 4))),
    ),
    "another law for the same module": (
        lambda c: c.init_module_(MODELS[0]),
        lambda c: c.init_module_(MODELS[0], {nn.Linear: "normal"}),
    ),
    "a module that is no more": (
        lambda c: c.init_module_(nn.Sequential(nn.Linear(3, 4))),
        lambda c: c.init_module_(nn.Sequential(nn.Linear(4, 4))),
    ),
    "the same in torch": (
        lambda c: c.init((4, 4), "normal", generator="torch"),
        lambda c: c.init((4, 4), "normal", generator="torch", slice="0:1"),
    ),
    "a stream that is named": (
        lambda c: c.init((4, 4), "normal"),
        lambda c: c.init((5, 4), "normal", name="copy", stream="weight"),
    ),
    "parts of a tensor that is named": (
        lambda c: c.init_state_dict(manifest(a={"shape": (4, 4), "parts": [{"slice": "0:2", "scheme": "uniform"}]})),
        lambda c: c.init_state_dict(
            manifest(
                b={"shape": (5, 4), "stream": "a", "parts": [{"slice": "0:2", "scheme": "normal"}]},
                c={"shape": 3, "parts": [{"slice": "0:2", "scheme": "normal", "stream": "a[0:2,0:4]"}]},
            )
        ),
    ),
    "a part of constants": (
        lambda c: c.init_state_dict(manifest(a={"shape": 4, "parts": [{"slice": "0:2", "scheme": "ones"}]})),
        lambda c: c.init(3, "normal", name="a[0:2]", seed=1),
    ),
    "an alias": (
        lambda c: c.init_state_dict(Manifest({"a": {"shape": 3, "scheme": "normal"}, "b": {"alias": "a"}})),
        lambda c: c.init(4, "normal", name="b"),
    ),
}


@pytest.mark.parametrize(("first", "second"), LAWFUL.values(), ids=LAWFUL)
def test_what_is_no_repetition_is_not_said(
    client: Any, first: Act, second: Act, recwarn: pytest.WarningsRecorder
) -> None:
    first(client)
    second(client)
    assert not recwarn.list


def test_a_vocabulary_that_grows_is_said(client: Any) -> None:
    small = client.init((4, 3), "normal", name="wte.weight")
    with pytest.warns(
        RepeatedStreamWarning, match=r"normal\(.*\) of shape \[4, 3\], and now as normal\(.*\) of shape \[6, 3\]"
    ):
        large = client.init((6, 3), "normal", name="wte.weight")
    assert (large[:4] == small).all()


@pytest.mark.filterwarnings("ignore::weightwell.RepeatedStreamWarning")
def test_a_filter_silences_it(client: Any) -> None:
    small, large = (client.init((rows, 3), "normal") for rows in (4, 6))
    assert (large[:4] == small).all()


# Layers one by one ---------------------------------------------------------------------------------------------------


def test_layers_that_are_filled_one_by_one_are_alike_and_that_is_said(client: Any) -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    client.init_module_(model[0], seed=42)
    with pytest.warns(
        RepeatedStreamWarning, match="another layer has been filled with the same numbers: those of seed 42"
    ):
        client.init_module_(model[1], seed=42)
    assert (model[0].weight == model[1].weight).all()


def test_layers_with_prefixes_differ(client: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for name, layer in model.named_children():
        client.init_module_(layer, seed=42, prefix=name)
    whole = client.init_module_(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), seed=42)
    assert all((a == b).all() for a, b in zip(model.parameters(), whole.parameters(), strict=True))


def test_a_layer_may_be_filled_again(client: Any, recwarn: pytest.WarningsRecorder) -> None:
    layer = nn.Linear(4, 4)
    for _ in range(2):
        client.init_module_(layer, seed=42)
    del layer
    client.init_module_(nn.Linear(4, 4), seed=42)  # the first one is no more
    assert not recwarn.list


# Memory --------------------------------------------------------------------------------------------------------------


def test_what_was_drawn_long_ago_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(streams, "REMEMBERED", 3)
    drawn = Streams()
    for name in "abcda":
        drawn.note(spec(name))
    assert len(drawn._drawn) == 3
    drawn.note(spec("b", (4,)))
    assert not recwarn.list
    with pytest.warns(RepeatedStreamWarning):
        drawn.note(spec("d", (4,)))
    assert not drawn._drawn


def test_seeds_above_2_to_53_are_distinguished(recwarn: pytest.WarningsRecorder) -> None:
    drawn = Streams()
    for seed in ("18446744073709551615", "18446744073709551614"):
        drawn.note(spec("a", (int(seed[-1]),), seed=seed))  # type: ignore[arg-type]
    assert not recwarn.list


def test_two_clients_know_nothing_of_each_other(door: str, recwarn: pytest.WarningsRecorder) -> None:
    for size in (3, 4):
        with weightwell.Client(door) as client:
            client.init(size, "normal")
    assert not recwarn.list
