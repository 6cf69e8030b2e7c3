"""The laws of twins: how each tensor of a checkpoint is drawn, by its name, its dtype and its model's configuration.

The first that applies:

1. integers and packed numbers: uniform; indices and zero points: constant
2. a scale of quantized weights: constant, so that the weights that it scales have a standard deviation of about 0.02
3. a rule of the preset that fits ``model_type``
4. a bias: zeros; a norm: ones; anything else: normal with a standard deviation of 0.02

A change here changes the bytes of twins: count ``VERSION`` up, so that their commits change too.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log2, sqrt
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

# Scales of quantized weights; the second finds those that are not the scale of the weight beside them.
_QUANTIZED_SCALE = re.compile(r"(.*[._])?scales?(_inv|_2)?")
_OTHER_SCALE = re.compile(r".*((input|output|global|act|logit|[kqv])_scale|_scale_2)")

# Integers that are an index, a count or a shape: any others could be out of range.
_INDEX = re.compile(r"(.*[._])?(ids|idx|index|indices|perm|shape|num_\w+)")

_ZERO_POINT = re.compile(r"(.*[._])?(q?zeros|zero_points?)")

# The shape of a weight before it was packed, in checkpoints of compressed-tensors.
_SHAPE, _PACKED = "weight_shape", "weight_packed"

# The standard deviation of the eight magnitudes of E2M1, each as likely as the others (OCP Microscaling Formats 1.0).
_E2M1_STD = sqrt(sum(value**2 for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6)) / 8)

# The scale of weights that are stored as E2M1 numbers and drawn as normal ones.
_FLOAT4_SCALE = 2.0**-6

# The bias of the exponent of E8M0.
_E8M0_BIAS = 127

# The dtypes of quantized weights that a scale beside them multiplies. Weights in float8 have a scale of one.
_QUANTIZED = {"int32", "int16", "int8", "uint8", "float4_e2m1fn_x2"}


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


def bits_of(config: Mapping[str, Any]) -> int | None:
    """Return the bits of a quantized integer weight, from the settings of GPTQ, AWQ or compressed-tensors, or None."""
    fields = config.get("quantization_config")
    if not isinstance(fields, dict):
        return None
    groups = fields.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = group.get("weights") if isinstance(group, dict) else None
    if isinstance(weights, dict):
        bits = weights.get("num_bits") if weights.get("type") == "int" else None
    else:
        bits = fields.get("bits", fields.get("w_bit"))
    return bits if type(bits) is int and bits in {2, 3, 4, 8} else None


# Laws ----------------------------------------------------------------------------------------------------------------


def _constant(value: float) -> Fields:
    return _ONES if value == 1 else {"scheme": "constant", "val": value}


def _std_of_integers(bits: int) -> float:
    """Return the standard deviation of uniform integers."""
    return sqrt((4.0**bits - 1) / 12)


@dataclass(frozen=True)
class Laws:
    """The laws of the tensors of a file, given the configuration of the model."""

    tensors: Sequence[Stored]
    config: Mapping[str, Any]

    def of(self, tensor: Stored) -> Fields:
        """Return the scheme of a tensor and its parameters."""
        is_scale = _QUANTIZED_SCALE.fullmatch(tensor.name) is not None
        if tensor.dtype.name == "float8_e8m0fnu" or (is_scale and tensor.dtype.name == "uint8"):
            return self._exponent(tensor)
        if tensor.dtype.is_integer:
            return self._integers(tensor)
        if is_scale:
            return _constant(self._scale(tensor))
        if tensor.dtype.packed > 1:
            return {"scheme": "normal", "std": STD / _FLOAT4_SCALE}
        if _MAGNITUDE.fullmatch(tensor.name):
            return _ONES
        if _ZERO_POINT.fullmatch(tensor.name):
            return _ZEROS
        if (rule := self._by_preset(tensor.name)) is not None:
            return rule
        if _BIAS.fullmatch(tensor.name):
            return _ZEROS
        return _ONES if len(tensor.shape) <= 1 and _SCALE.fullmatch(tensor.name) else _NORMAL

    def _integers(self, tensor: Stored) -> Fields:
        prefix, _, leaf = tensor.name.rpartition(".")
        packed = self._modules[prefix].get(_PACKED)
        if leaf == _SHAPE and packed is not None and packed.shape and tensor.shape == (len(packed.shape),):
            *outer, last = packed.shape
            return {"scheme": "values", "values": [*outer, last * packed.dtype.bits // (self._bits or 4)]}
        if tensor.dtype.name in {"int64", "bool"} or _INDEX.fullmatch(tensor.name):
            return _ZEROS
        if _ZERO_POINT.fullmatch(tensor.name):
            return self._zero_point(tensor)
        low, high = int(tensor.dtype.min), int(tensor.dtype.max)
        return {"scheme": "randint", "low": low + (tensor.dtype.name == "int8"), "high": high + 1}

    def _zero_point(self, tensor: Stored) -> Fields:
        """Return the law of zero points: the middle of the integers, several in one if they are packed."""
        if tensor.dtype.name != "int32":
            return _constant(0.0 if tensor.dtype.min < 0 else 2.0 ** ((self._bits or tensor.dtype.bits) - 1))
        bits = self._bits or 4
        word = sum(1 << (start + bits - 1) for start in range(0, 32 - bits + 1, bits))
        return _constant(float(word - (1 << 32) if word >> 31 else word))

    def _exponent(self, tensor: Stored) -> Fields:
        """Return the law of scales that are powers of two, as a number or as its exponent."""
        power = round(log2(self._scale(tensor, alone="uint8" if tensor.dtype.is_integer else None)))
        return _constant(float(power + _E8M0_BIAS) if tensor.dtype.is_integer else 2.0**power)

    def _scale(self, tensor: Stored, alone: str | None = None) -> float:
        """Return a scale; ``alone`` is the dtype of the weights if they are not in this file."""
        if _OTHER_SCALE.fullmatch(tensor.name):
            return 1.0
        siblings = self._modules[tensor.name.rpartition(".")[0]].values()
        stored = next((each.dtype.name for each in siblings if self._is_weight(each)), alone)
        bits = self._bits
        match stored or ("int32" if bits else None):
            case "int32" | "int16":
                return STD / _std_of_integers(bits or 4)
            case "int8":
                return STD / _std_of_integers(8)
            case "uint8":
                return STD / _E2M1_STD
            case "float4_e2m1fn_x2":
                return _FLOAT4_SCALE
        return 1.0

    def _is_weight(self, tensor: Stored) -> bool:
        """Whether a tensor holds quantized weights."""
        others = (_QUANTIZED_SCALE, _ZERO_POINT, _INDEX)
        quantized = tensor.dtype.name in _QUANTIZED and len(tensor.shape) > 1
        return quantized and not any(each.fullmatch(tensor.name) for each in others)

    @cached_property
    def _modules(self) -> Mapping[str, Mapping[str, Stored]]:
        """The tensors of each module, by their last names."""
        found: dict[str, dict[str, Stored]] = defaultdict(dict)
        for each in self.tensors:
            prefix, _, leaf = each.name.rpartition(".")
            found[prefix][leaf] = each
        return found

    @cached_property
    def _bits(self) -> int | None:
        """The bits of quantized weights of integers, as the configuration says them; None if it does not."""
        return bits_of(self.config)

    def _by_preset(self, name: str) -> Fields | None:
        if not self._rules:
            return None
        place = self._matcher.first(name, None)
        return None if place is None else {k: v for k, v in self._rules[place].items() if k != "regex"}

    @cached_property
    def _rules(self) -> tuple[Rule, ...]:
        preset = preset_of(self.config)
        if preset is None:
            return ()
        parameters = {key: value for key, value in preset.items() if key != "name"}
        return PRESETS[preset["name"]].rules(**parameters)

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher([Condition.of(None, str(rule["regex"]), None) for rule in self._rules])
