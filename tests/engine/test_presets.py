import re
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.presets import MAX_LAYERS, NAMES, PRESETS, Rule
from weightwell_engine.schemes import SCHEMES

# Values for the required parameters of each preset.
GIVEN: dict[str, dict[str, Any]] = {
    "torch": {},
    "gpt2": {"layers": 12},
    "llama": {},
    "megatron": {"layers": 12},
    "torchtitan-llama3": {"layers": 4, "width": 64},
    "gpt-neox": {"layers": 4, "width": 64},
    "vit": {},
    "vit-jax": {},
    "lora": {},
    "mup": {"names": "llama", "width": 64, "base_width": 16, "readout": "plain"},
}


def rule_of(preset: str, tensor: str, **parameters: Any) -> Rule:
    """Return the first rule that matches a tensor, without its condition."""
    rules = PRESETS[preset].rules(**{**GIVEN[preset], **parameters})
    rule = next(rule for rule in rules if re.fullmatch(str(rule["regex"]), tensor))
    return {key: value for key, value in rule.items() if key != "regex"}


def std_of(preset: str, tensor: str, **parameters: Any) -> float:
    std = rule_of(preset, tensor, **parameters)["std"]
    assert isinstance(std, float)
    return std


# The table -----------------------------------------------------------------------------------------------------------


def test_every_preset_is_tested_here() -> None:
    assert set(GIVEN) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_description_and_sources(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    assert preset.summary.startswith("Initialize ")
    assert preset.references
    assert all(parameter.doc for parameter in preset.parameters)


@pytest.mark.parametrize("name", PRESETS)
def test_a_rule_is_a_condition_a_scheme_and_parameters_that_the_scheme_has(name: str) -> None:
    for rule in PRESETS[name].rules(**GIVEN[name]):
        assert len({"match", "regex"} & set(rule)) == 1
        fields = set(rule) - {"match", "regex", "scheme"}
        if rule["scheme"] == "reset_parameters":
            assert not fields
        else:
            assert fields <= {parameter.name for parameter in SCHEMES[str(rule["scheme"])].parameters}


def test_what_is_optional_can_be_left_out() -> None:
    for name, preset in PRESETS.items():
        defaults = {each.name: each.default for each in preset.parameters if each.default is not ...}
        assert preset.rules(**GIVEN[name]) == preset.rules(**{**defaults, **GIVEN[name]})


# Numbers, derived by hand from what is cited -------------------------------------------------------------------------


@given(st.integers(1, MAX_LAYERS), st.floats(1e-6, 10))
def test_what_writes_into_the_residual_stream_adds_the_variance_of_one_matrix_over_all_layers(
    layers: int, std: float
) -> None:
    for preset, tensor in (("gpt2", "h.0.mlp.c_proj.weight"), ("megatron", "decoder.layers.0.mlp.linear_fc2.weight")):
        scaled = std_of(preset, tensor, layers=layers, std=std)
        assert 2 * layers * scaled**2 == pytest.approx(std**2)


def test_the_depth_of_torchtitan_is_that_of_the_layer_itself() -> None:
    for layer in range(4):
        for matrix in ("attention.wo", "feed_forward.w2", "feed_forward.w3"):
            rule = rule_of("torchtitan-llama3", f"layers.{layer}.{matrix}.weight")
            assert rule == {"scheme": "trunc_normal", "std": 0.02 / sqrt(2 * (layer + 1))}


def test_a_layer_is_known_by_its_whole_number() -> None:
    rules = PRESETS["torchtitan-llama3"].rules(layers=MAX_LAYERS, width=64)
    matching = [rule for rule in rules if re.fullmatch(str(rule["regex"]), "model.layers.110.attention.wo.weight")]
    assert [rule["std"] for rule in matching] == [0.02 / sqrt(2 * 111)]


def test_a_layer_beyond_those_of_the_model_is_known_by_no_rule() -> None:
    with pytest.raises(StopIteration):
        rule_of("torchtitan-llama3", "layers.4.attention.wo.weight")


def test_the_output_layer_of_torchtitan_is_cut_at_three_standard_deviations() -> None:
    expected = {"scheme": "trunc_normal", "std": 1 / 8, "a": -3 / 8, "b": 3 / 8}
    assert rule_of("torchtitan-llama3", "lm_head.weight") == expected
    assert rule_of("torchtitan-llama3", "tok_embeddings.weight", tied=True) == expected
    assert rule_of("torchtitan-llama3", "tok_embeddings.weight") == {"scheme": "normal", "std": 1.0}


def test_gpt_neox_has_the_numbers_of_its_20b_model() -> None:
    # arXiv:2204.06745: 44 layers of width 6144; section 2.1: sqrt(2 / (d + 4d)), and 2 / (L sqrt(d)).
    sizes = {"layers": 44, "width": 6144}
    for tensor in ("gpt_neox.layers.3.attention.query_key_value.weight", "sequential.0.word_embeddings.weight"):
        assert std_of("gpt-neox", tensor, **sizes) == pytest.approx(0.0080687, rel=1e-4)
    for tensor in ("gpt_neox.layers.3.attention.dense.weight", "sequential.5.mlp.dense_4h_to_h.weight"):
        assert std_of("gpt-neox", tensor, **sizes) == pytest.approx(0.00057990, rel=1e-4)


def test_megatron_can_draw_its_embeddings_wider() -> None:
    embedding = "embedding.word_embeddings.weight"
    assert std_of("megatron", embedding, std=0.01) == 0.01
    assert std_of("megatron", embedding, std=0.01, embedding_std=1.0) == 1.0


@pytest.mark.parametrize(
    ("tensor", "rule"),
    [
        ("self_attention.linear_qkv.layer_norm_weight", {"scheme": "ones"}),  # fused by Transformer Engine
        ("mlp.linear_fc1.layer_norm_bias", {"scheme": "zeros"}),
        ("mlp.experts.linear_fc1.weight7", {"scheme": "normal", "std": 0.02}),
        ("mlp.experts.linear_fc2.weight12", {"scheme": "normal", "std": 0.02 / sqrt(24)}),
        ("mlp.experts.linear_fc2.bias12", {"scheme": "zeros"}),
        ("mlp.shared_experts.linear_fc2.weight", {"scheme": "normal", "std": 0.02 / sqrt(24)}),
        ("mlp.router.weight", {"scheme": "normal", "std": 0.02}),
        ("mlp.router.bias", {"scheme": "normal", "std": 0.02}),  # moe/router.py: init_method for both
        ("self_attention.linear_kv_up_proj.weight", {"scheme": "normal", "std": 0.02}),
    ],
)
def test_megatron_knows_fused_norms_experts_and_latent_attention(tensor: str, rule: Rule) -> None:
    assert rule_of("megatron", f"decoder.layers.0.{tensor}") == rule


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize(("readout", "of_output"), [("plain", 4.0), ("multiplied", 1.0)])
def test_mup_scales_each_part_by_its_own_power_of_the_width(names: str, readout: str, of_output: float) -> None:
    # arXiv:2203.03466, tables 3 and 8: variances relative to the base are 1, 1/m and 1/m^2 or 1, here with m = 4.
    def std(modules: str) -> float:
        module = next(each for each in CALLED[names] if re.fullmatch(modules, each))
        return std_of("mup", f"model.{module}.weight", names=names, readout=readout, std=0.1)

    own = NAMES[names]
    assert std(own.embedding) == 0.1
    assert std(own.reading) == std(own.writing) == 0.1 / 2
    assert std(own.head) == 0.1 / of_output


# Modules of each code base, one of each part.
CALLED = {
    "gpt2": ("wte", "c_attn", "c_proj", "lm_head", "ln_f"),
    "llama": ("embed_tokens", "q_proj", "down_proj", "lm_head", "input_layernorm"),
    "megatron": ("word_embeddings", "linear_qkv", "linear_proj", "output_layer", "final_layernorm"),
    "torchtitan": ("tok_embeddings", "w1", "w2", "output", "ffn_norm"),
    "gpt-neox": ("embed_in", "query_key_value", "dense", "embed_out", "final_layer_norm"),
}


@pytest.mark.parametrize("names", NAMES)
def test_a_module_plays_one_part(names: str) -> None:
    own = NAMES[names]
    parts = (own.embedding, own.reading, own.writing, own.head, own.norm)
    for module, part in zip(CALLED[names], parts, strict=True):
        assert [each for each in parts if re.fullmatch(each, module)] == [part]


def test_the_model_at_base_width_is_the_model_that_was_tuned() -> None:
    for tensor in ("wte.weight", "c_fc.weight", "c_proj.weight", "lm_head.weight"):
        for readout in ("plain", "multiplied"):
            assert std_of("mup", tensor, names="gpt2", width=16, base_width=16, readout=readout) == 0.02


@pytest.mark.parametrize("prefix", ["", "base_model.model.model.layers.0.self_attn.q_proj."])
@pytest.mark.parametrize("end", ["", ".weight", ".default", ".default.weight"])
def test_an_adapter_begins_as_no_change(prefix: str, end: str) -> None:
    assert rule_of("lora", f"{prefix}lora_A{end}") == {"scheme": "kaiming_uniform", "a": sqrt(5)}
    assert rule_of("lora", f"{prefix}lora_B{end}") == {"scheme": "zeros"}


@pytest.mark.parametrize(
    ("preset", "tensor"),
    [
        ("gpt2", "transformer.h.0.attn.bias"),  # the causal mask that older code keeps there: zeros would hide all
        ("llama", "model.rotary_emb.inv_freq"),
        ("lora", "base_model.model.q_proj.lora_magnitude_vector.default.weight"),  # DoRA's depends on the base weight
        ("vit", "blocks.0.ls1.gamma"),
    ],
)
def test_a_tensor_that_a_preset_does_not_know_is_left_to_its_owner(preset: str, tensor: str) -> None:
    with pytest.raises(StopIteration):
        rule_of(preset, tensor)
