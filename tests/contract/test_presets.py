"""Presets, compared with recordings of the frameworks in ``initializations/`` (made by ``record.py``)."""

import json
import re
from dataclasses import astuple
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from httpx import Client

from tests.contract.initializations import record
from weightwell_engine.laws import Constant, Law, Normal, TruncatedNormal, Uniform
from weightwell_engine.modules import own_fields
from weightwell_engine.presets import PRESETS, Rule
from weightwell_engine.schemes import SCHEMES, TRUNCATED_AT_2_STD

RECORDINGS = Path(__file__).parent / "initializations"
RECORDED: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(RECORDINGS.glob("*.json"))}

# The same names, and another initialization: transformers does not initialize a GPT-NeoX as it was trained.
NAMES_ONLY = {"transformers-gpt-neox"}
# Compared with torch itself, tensor by tensor, in tests/service/test_modules.py.
WITHOUT_NAMES = {"torch"}

# Models that are drawn in no time: all but one of torchtitan's, which cannot be built smaller.
SMALL = sorted(set(RECORDED) - {"torchtitan-llama3"})

KINDS = {Constant: "constant", Uniform: "uniform", Normal: "normal", TruncatedNormal: "trunc_normal"}


def rules_of(recording: dict[str, Any]) -> tuple[Rule, ...]:
    parameters = {key: value for key, value in recording["preset"].items() if key != "name"}
    return PRESETS[recording["preset"]["name"]].rules(**parameters)


def matching(rules: tuple[Rule, ...], name: str) -> list[int]:
    return [index for index, rule in enumerate(rules) if re.fullmatch(str(rule["regex"]), name)]


def resolved(rule: Rule, name: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the scheme and the parameters that a rule gives a tensor."""
    if rule["scheme"] == "reset_parameters":
        prefix, _, leaf = name.rpartition(".")
        beside = [own for own in tensors if own.rpartition(".")[0] == prefix]
        shapes = {own.rpartition(".")[2]: tuple(tensors[own]["shape"]) for own in beside}
        return own_fields(tensors[name]["module"], leaf, shapes)
    return {key: value for key, value in rule.items() if key != "regex"}


def law(shape: list[int], scheme: str, **parameters: Any) -> Law:
    return SCHEMES[scheme].law(tuple(shape), parameters, portable=False)


@pytest.mark.parametrize("name", RECORDED)
def test_a_preset_has_the_law_of_the_framework_for_every_tensor_of_its_model(name: str) -> None:
    tensors = RECORDED[name]["tensors"]
    rules = rules_of(RECORDED[name])
    for tensor, row in tensors.items():
        first, *_ = matching(rules, tensor)
        ours = law(row["shape"], **resolved(rules[first], tensor, tensors))
        kind, *numbers = row["law"]
        assert KINDS[type(ours)] == kind, tensor
        if name not in NAMES_ONLY or kind == "constant":
            # A constant is read from a float32, a law from what the framework said.
            assert astuple(ours) == pytest.approx(numbers, rel=1e-7 if kind == "constant" else 1e-14), tensor


# Tensors that the recorded models do not have: fused norms and experts, and biases that are off by default.
BEYOND = {
    "megatron": ("mlp.linear_fc1.layer_norm_weight", "mlp.experts.linear_fc1.bias0", "mlp.router.bias"),
    "torchtitan-llama3": ("layers.0.attention.wo.bias",),
}


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - WITHOUT_NAMES))
def test_every_rule_of_a_preset_is_the_first_to_match_some_tensor(preset: str) -> None:
    recordings = [recording for recording in RECORDED.values() if recording["preset"]["name"] == preset]
    rules = rules_of(recordings[0])
    tensors = {tensor for recording in recordings for tensor in recording["tensors"]} | set(BEYOND.get(preset, ()))
    assert {matching(rules, tensor)[0] for tensor in tensors} == set(range(len(rules)))


@pytest.mark.parametrize("name", RECORDED)
def test_wrappers_do_not_change_the_rules_of_tensors(name: str) -> None:
    rules = rules_of(RECORDED[name])
    for tensor in RECORDED[name]["tensors"]:
        assert matching(rules, f"_orig_mod.module.{tensor}") == matching(rules, tensor)


@pytest.mark.parametrize("framework", sorted({recording["source"].split()[0] for recording in RECORDED.values()}))
@pytest.mark.filterwarnings("ignore")  # those of the frameworks
def test_an_installed_framework_agrees_with_its_recording(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec(framework.removesuffix("-core")) is None:
        pytest.skip(f"{framework} is not installed")
    cases = [name for name, recording in RECORDED.items() if recording["source"].startswith(f"{framework} ")]
    assert record.main(["--check", *cases]) == 0, capsys.readouterr().err


def ask(http: Client, **manifest: Any) -> bytes:
    response = http.post("/init", json=manifest)
    assert response.status_code == 200, response.text
    return response.content


@pytest.mark.parametrize("name", SMALL)
def test_a_preset_is_requested_by_name(http: Client, name: str) -> None:
    recording = RECORDED[name]
    tensors = {tensor: {"shape": row["shape"], "module": row["module"]} for tensor, row in recording["tensors"].items()}
    by_name = ask(http, preset=recording["preset"], tensors=tensors)
    assert by_name == ask(http, rules=rules_of(recording), tensors=tensors)


@pytest.mark.parametrize("name", SMALL)
def test_a_model_drawn_by_its_preset_has_the_moments_that_the_framework_gives_it(http: Client, name: str) -> None:
    # Not how the laws are compared, but what comes of them: means and standard deviations of what is drawn.
    recorded = RECORDED[name]["tensors"]
    tensors = {tensor: {"shape": row["shape"], "module": row["module"]} for tensor, row in recorded.items()}
    drawn = safetensors.numpy.load(ask(http, preset=RECORDED[name]["preset"], tensors=tensors))
    for tensor, values in drawn.items():
        mean, std = moments(*recorded[tensor]["law"])
        if name in NAMES_ONLY and std:
            continue
        error = std / prod(values.shape) ** 0.5
        assert abs(values.mean() - mean) <= 6 * error + 1e-7 * abs(mean), tensor
        assert abs(values.std() - std) <= 6 * error, tensor


def moments(kind: str, *numbers: float) -> tuple[float, float]:
    """Return the mean and the standard deviation of a law; those here are cut far out, or at two of them."""
    match kind, numbers:
        case "constant", (value,):
            return value, 0.0
        case "uniform", (low, high):
            return (low + high) / 2, (high - low) / 12**0.5
        case "normal", (mean, std):
            return mean, std
        case "trunc_normal", (mean, std, _, high):
            return mean, std * (TRUNCATED_AT_2_STD if high < 2.5 * std else 1.0)
    raise AssertionError(kind)
