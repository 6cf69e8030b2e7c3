"""The client accepts the real answers of the service, and its tables agree with the service's."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx
import numpy as np
import pytest
import torch

import weightwell
from weightwell import calls, schemes, spec
from weightwell.propagation.stacks import ACTIVATIONS as ACTIVATION_ALIASES
from weightwell_engine.parsing import GainQuery, fields, models
from weightwell_engine.presets import PRESETS
from weightwell_engine.quadrature import ACTIVATIONS
from weightwell_engine.schemes import ALIASES, SCHEMES
from weightwell_engine.spec import GENERATORS

# Every test draws from the same seed and name.
pytestmark = pytest.mark.filterwarnings("ignore::weightwell.RepeatedStreamWarning")


@pytest.fixture(scope="module")
def client(door: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(door) as client:
        yield client


@pytest.fixture(scope="module")
def remote(server: str) -> Iterator[weightwell.Client]:
    """A client of a server, whose files have addresses."""
    with weightwell.Client(server) as client:
        yield client


# Tables --------------------------------------------------------------------------------------------------------------


def test_the_names_of_schemes_are_those_of_the_service() -> None:
    assert schemes.SCHEMES == ALIASES


def test_the_defaults_of_schemes_are_those_of_the_service() -> None:
    for name, scheme in SCHEMES.items():
        defaults = {
            each.name: None if each.omitted else each.default for each in scheme.parameters if each.default is not ...
        }
        assert schemes.DEFAULTS[name] == defaults


def test_the_other_defaults_are_those_of_the_service() -> None:
    own = (spec.DEFAULT_NAME, spec.DEFAULT_SEED, spec.DEFAULT_DTYPE, spec.DEFAULT_GENERATOR)
    assert own == (fields.DEFAULT_NAME, fields.DEFAULT_SEED, fields.DEFAULT_DTYPE, GENERATORS[0])
    assert GainQuery.model_fields["source"].default == calls.DEFAULT_SOURCE
    assert spec.RESET_PARAMETERS == models.RESET_PARAMETERS


def test_the_other_names_of_activations_are_those_of_the_service() -> None:
    assert {alias: row.name for row in ACTIVATIONS.values() for alias in row.aliases} == ACTIVATION_ALIASES


def test_no_rule_of_a_preset_has_a_seed() -> None:
    """The client takes the seed of the manifest for that of every tensor whose rule says none."""
    given = {"names": "gpt2", "readout": "plain"}
    for preset in PRESETS.values():
        needed = {each.name: given.get(each.name, 2) for each in preset.parameters if each.default is ...}
        assert not [rule for rule in preset.rules(**needed) if "seed" in rule]


# Answers -------------------------------------------------------------------------------------------------------------

GIVEN: dict[str, Any] = {
    "gain": 0.5,
    "groups": 2,
    "a": -0.25,
    "b": 3,
    "mean": np.float32(0.1),
    "std": 0.3,
    "low": np.int64(0),
    "high": 2,
    "lower": -1,
    "upper": torch.tensor(1.5),
    "mode": "FAN_OUT",
    "nonlinearity": "leaky_relu",
    "gain_source": "quadrature",
    "fan_in": 7,
    "fan_out": np.int64(9),
    "transposed": True,
    "scale": 2,
    "distribution": "uniform",
    "sparsity": 0.5,
    "val": 2**60,
    "values": np.array([1.5, 2.0]),
    "dims": [np.int64(2)],
    "layout": "torch",
    "in_axis": np.int64(1),
    "out_axis": -3,
    "batch_axis": [],
}
DIMENSIONS = {"eye": (6, 4), "sparse": (6, 4), "dirac": (6, 4, 3), "delta_orthogonal": (6, 4, 3)}


@pytest.mark.parametrize("scheme", ALIASES)
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_every_scheme_with_all_its_parameters_is_accepted(
    client: weightwell.Client, scheme: str, framework: Any
) -> None:
    own = SCHEMES[ALIASES[scheme]].parameters
    parameters = {each.name: GIVEN[each.name] for each in own if each.name not in {"in_axis", "out_axis"}}
    shape = DIMENSIONS.get(scheme, (6, 4, 2))
    parameters |= {"dtype": "uint8"} if scheme == "randint" else {}
    client.init(shape, scheme, framework=framework, **parameters)
    needed = {each.name: GIVEN[each.name] for each in SCHEMES[ALIASES[scheme]].parameters if each.default is ...}
    needed |= {"dims": (2,)} if scheme == "values" else {"dtype": "int8"} if scheme == "randint" else {}
    client.init(shape, scheme, framework=framework, slice="1:3", seed=2**64 - 1, name="x" * 1000, **needed)


@pytest.mark.parametrize("scheme", ["he_normal", "orthogonal"])
@pytest.mark.parametrize(
    "axes",
    [
        {"in_axis": np.int64(1), "out_axis": -3},
        {"in_axis": [1], "out_axis": [2, 0], "batch_axis": []},
        {"layout": "jax", "batch_axis": 0},
        {"layout": "torch"},
    ],
)
def test_every_way_to_say_axes_is_accepted(client: weightwell.Client, scheme: str, axes: dict[str, Any]) -> None:
    client.init((6, 4, 2), scheme, **axes)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("index", ["0:6,0:4", "0:3", "2:2", ":, 1:-1", np.s_[-2:, ...]])
def test_every_slice_is_accepted(client: weightwell.Client, generator: str, index: Any) -> None:
    client.init((6, 4), "normal", slice=index, generator=generator, dtype="bfloat16", seed=7)


@pytest.mark.parametrize("shape", [(), 0, (0, 3), (3, 0)])
def test_every_shape_is_accepted(client: weightwell.Client, shape: Any) -> None:
    client.init(shape, "normal")


@pytest.mark.parametrize("aliases", [1, 1000])  # in a URL, and in a body
def test_a_manifest_of_every_kind_of_tensor_is_accepted(client: weightwell.Client, aliases: int) -> None:
    tensors: dict[str, Any] = {
        "own": {"shape": [6, 4], "scheme": "glorot_normal", "gain": 2, "seed": 2**63, "slice": "1:3"},
        "by.rule": {"shape": [6, 4], "module": "Linear"},
        "by.other.bias": {"shape": [6], "slice": ":"},
        "by.preset": {"shape": [6, 4], "module": "Linear", "dtype": "float64"},
        "bn.num_batches_tracked": {"shape": [], "module": "BatchNorm1d", "scheme": "reset_parameters"},
        **{f"tied.{sha256(b'%d' % n).hexdigest()}": {"alias": "own"} for n in range(aliases)},
    }
    rules: list[Any] = [
        {"match": "*.rule", "module": "Linear", "scheme": "he_uniform", "mode": "fan_out", "seed": 5},
        {"regex": r".*\.bias", "scheme": "constant", "val": 1, "dtype": "float16"},
        {"match": "*.preset", "scheme": "normal"},
    ]
    manifest = weightwell.Manifest(tensors, rules=rules, seed=3)
    assert [*client.init_state_dict(manifest)] == [*tensors]
    assert {*client.plan(manifest).tensors} == {*tensors}


@pytest.mark.parametrize(
    ("nonlinearity", "param", "source"),
    [
        ("identity", None, None),
        ("relu", 0.5, "torch"),  # which torch passes over
        ("leaky_relu", 0.2, None),
        ("leaky_relu", 1, "torch"),
        ("identity", None, "quadrature"),
        ("swish", None, "quadrature"),
        ("elu", 0.5, "quadrature"),
        ("leaky_relu", None, "quadrature"),
    ],
)
def test_every_gain_is_accepted(client: weightwell.Client, nonlinearity: str, param: Any, source: Any) -> None:
    assert client.gain(nonlinearity, param, source=source) > 0
    assert client.gains(source=source)


# Streams and parts ---------------------------------------------------------------------------------------------------

COMPOSED = weightwell.Manifest(
    {
        "w": {
            "shape": (6, 4),
            "scheme": "normal",
            "parts": [{"slice": "0:1", "scheme": "zeros"}, {"slice": np.s_[2:, 1:], "scheme": "orthogonal"}],
        },
        "copy": {"shape": (6, 4), "scheme": "normal", "stream": "w", "dtype": "float64"},
        "own": {"shape": (6, 4), "stream": "own", "parts": [{"slice": "0:2", "scheme": "uniform"}]},
    },
    rules=[{"match": "own", "scheme": "normal"}],
    seed=3,
)


def test_parts_and_streams_are_drawn_planned_and_verified(client: weightwell.Client, tmp_path: Any) -> None:
    state = client.init_state_dict(COMPOSED, framework="numpy")
    part = client.init((4, 3), "orthogonal", seed=3, name="w[2:6,1:4]", framework="numpy")
    assert not state["w"][0].any()
    np.testing.assert_array_equal(state["w"][2:, 1:], part)
    copy = client.init((6, 4), "normal", seed=3, name="x", stream="w", dtype="float64", framework="numpy")
    np.testing.assert_array_equal(state["copy"], copy)
    plan = client.plan(COMPOSED)
    assert plan.tensors["w"]["parts"][1]["law"]["kind"] == "orthogonal"
    assert client.plan((6, 4), "normal", stream="w", name="x").tensors["x"]["stream"] == "w"
    path = tmp_path / "composed.safetensors"
    client.save(path, COMPOSED)
    assert client.verify(path).same


def test_a_manifest_of_one_tensor_with_parts_has_a_url(remote: weightwell.Client, tmp_path: Any) -> None:
    parts = [{"slice": "0:1", "scheme": "zeros"}]
    manifest = weightwell.Manifest({"w": {"shape": (6, 4), "scheme": "normal", "parts": parts}})
    url = remote.plan(manifest).url
    remote.save(tmp_path / "w", manifest)
    assert url
    assert httpx.get(url).content == (tmp_path / "w").read_bytes()


def test_a_shard_of_a_tensor_with_parts_is_that_of_the_whole(client: weightwell.Client) -> None:
    whole = client.init_state_dict(COMPOSED, framework="numpy")
    for rank in range(4):
        shard = client.init_state_dict(COMPOSED.shard(rank, 4), framework="numpy")
        for name, tensor in shard.items():
            np.testing.assert_array_equal(tensor, whole[name][2 * rank : 2 * rank + 2])
