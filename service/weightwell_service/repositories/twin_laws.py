"""The laws of twins: how each tensor of a checkpoint is drawn, by its name, its dtype and its model's configuration.

The first that applies:

1. a tensor of integers, or of packed numbers: by its dtype
2. a scale of quantized weights: constant
3. a rule of the preset that fits ``model_type``
4. a bias: zeros; a norm: ones; anything else: normal with a standard deviation of 0.02

A change here changes the bytes of twins: count ``VERSION`` up, so that their commits change too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from weightwell_engine.parsing.rules import Condition, Matcher
from weightwell_engine.presets import MAX_LAYERS, PRESETS, Rule
from weightwell_service.repositories.headers import Stored

VERSION = 1

STD = 0.02

Fields = dict[str, Any]

_ZEROS: Fields = {"scheme": "zeros"}
_ONES: Fields = {"scheme": "ones"}
_NORMAL: Fields = {"scheme": "normal", "std": STD}

# Leaves of names that are biases: bias, in_proj_bias, dt_bias, running_mean, beta.
_BIAS = re.compile(r"(.*[._])?(bias|b|beta|running_mean)")

# Vectors and scalars that multiply: the weight of a norm, gamma, running_var, a vector that is the weight of a module.
_SCALE = re.compile(
    r"(.*\.)?([^.]*norm[^.]*|ln_?[^.]*|bn\d*)\.[^.]+|(.*[._])?(weight|gamma|running_var|scale|norm)", re.I
)

# The magnitude of torch's weight norm, which may have several dimensions.
_MAGNITUDE = re.compile(r".*(\.weight_g|\.parametrizations\.weight\.original0)")

# Scales of quantized weights, which belong to the tensor beside them.
_QUANTIZATION_SCALE = re.compile(r"(.*[._])?scales?(_inv|_2)?")


# The preset of each model type, with its parameters as they are named in a configuration. -----------------------------


def _llama(config: Mapping[str, Any]) -> Fields:
    return {"name": "llama", "std": _std(config)}


def _gpt2(config: Mapping[str, Any]) -> Fields:
    return {"name": "gpt2", "layers": _count(config, "n_layer", MAX_LAYERS), "std": _std(config)}


def _gpt_neox(config: Mapping[str, Any]) -> Fields:
    layers = _count(config, "num_hidden_layers", MAX_LAYERS)
    return {"name": "gpt-neox", "layers": layers, "width": _count(config, "hidden_size", 2**31 - 1)}


_PRESETS = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), _llama),
}


def _std(config: Mapping[str, Any]) -> float:
    value = config.get("initializer_range", STD)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError
    return float(value)


def _count(config: Mapping[str, Any], key: str, most: int) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError
    return value


def preset_of(config: Mapping[str, Any]) -> Fields | None:
    """Return the preset that fits a configuration of transformers, with its parameters; None if there is none."""
    kind = config.get("model_type")
    make = _PRESETS.get(kind) if isinstance(kind, str) else None
    try:
        return None if make is None else make(config)
    except ValueError:  # a number is missing, or none that the preset allows
        return None


# Laws ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Laws:
    """The laws of a model's tensors; ``preset`` is its preset with its parameters, or None."""

    preset: Mapping[str, Any] | None

    def of(self, tensor: Stored) -> Fields:
        """Return the scheme of a tensor and its parameters."""
        if tensor.dtype.is_integer:
            return _ZEROS
        if _QUANTIZATION_SCALE.fullmatch(tensor.name) or _MAGNITUDE.fullmatch(tensor.name):
            return _ONES
        if (rule := self._by_preset(tensor.name)) is not None:
            return rule
        if _BIAS.fullmatch(tensor.name):
            return _ZEROS
        return _ONES if len(tensor.shape) <= 1 and _SCALE.fullmatch(tensor.name) else _NORMAL

    def _by_preset(self, name: str) -> Fields | None:
        if not self._rules:
            return None
        place = self._matcher.first(name, None)
        return None if place is None else {k: v for k, v in self._rules[place].items() if k != "regex"}

    @cached_property
    def _rules(self) -> tuple[Rule, ...]:
        if self.preset is None:
            return ()
        parameters = {key: value for key, value in self.preset.items() if key != "name"}
        return PRESETS[self.preset["name"]].rules(**parameters)

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher([Condition.of(None, str(rule["regex"]), None) for rule in self._rules])
