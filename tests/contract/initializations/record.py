"""What frameworks do to the tensors of their models, recorded: every preset is compared with these recordings.

Each case builds a small model with the framework's own code in ``weightwell.recording()``, and writes down one law for
each tensor, next to this file. Run ``record.py CASE ...`` to record again, and ``record.py
--check CASE ...`` to see whether the framework that is installed still does what was recorded.

The cases need transformers, timm, peft, megatron-core, torchtitan or mup, each only its own. timm wants a torchvision
that fits torch, and torchtitan much else; what they build here uses none of that, and was recorded with stand-ins.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import weightwell
from weightwell.recorder.parameters import Recorded, recorded

HERE = Path(__file__).parent


def law_of(recorded: Recorded) -> list[Any]:
    """Return the law of a tensor: its name and its numbers, or ``mixed`` for a tensor with parts."""
    match recorded.fields:
        case {"parts": _}:
            return ["mixed"]
        case {"scheme": "zeros" | "ones" as value}:
            return ["constant", float(value == "ones")]
        case {"scheme": "constant", "val": value}:
            return ["constant", value]
        case {"scheme": "normal", "mean": mean, "std": std}:
            return ["normal", mean, std]
        case {"scheme": "uniform", "a": low, "b": high}:
            return ["uniform", low, high]
        case {"scheme": "trunc_normal", "mean": mean, "std": std, "a": low, "b": high}:
            return ["trunc_normal", mean, std, low, high]
    raise ValueError(f"{recorded.name}: no law for {recorded.fields}, {recorded.problem}")


# Models --------------------------------------------------------------------------------------------------------------

WIDTH, BASE_WIDTH, LAYERS, VOCABULARY = 32, 8, 3, 40


def _gpt2() -> nn.Module:
    transformers = import_module("transformers")
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": 8}
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(**sizes, **tokens, add_cross_attention=True, tie_word_embeddings=False)
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def _llama() -> nn.Module:
    transformers = import_module("transformers")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, attention_bias=True, mlp_bias=True)
    model: nn.Module = transformers.LlamaForCausalLM(config)
    return model


def _gpt_neox() -> nn.Module:
    transformers = import_module("transformers")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    model: nn.Module = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes, num_attention_heads=4))
    return model


def _vit(weight_init: str) -> nn.Module:
    timm = import_module("timm.models.vision_transformer")
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": 2, "num_classes": 5}
    model: nn.Module = timm.VisionTransformer(
        **sizes, reg_tokens=2, qk_norm=True, pre_norm=True, weight_init=weight_init
    )
    return model


def _megatron() -> nn.Module:
    core = "megatron.core"
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    import_module(f"{core}.parallel_state").initialize_model_parallel()
    config = import_module(f"{core}.transformer.transformer_config").TransformerConfig(
        num_layers=LAYERS, hidden_size=WIDTH, num_attention_heads=2, use_cpu_initialization=True
    )
    layer = import_module(f"{core}.models.gpt.gpt_layer_specs").get_gpt_layer_local_spec(qk_layernorm=True)
    model: nn.Module = import_module(f"{core}.models.gpt").GPTModel(
        config,
        layer,
        vocab_size=VOCABULARY,
        max_sequence_length=8,
        share_embeddings_and_output_weights=False,
    )
    torch.distributed.destroy_process_group()
    return model


def _torchtitan() -> nn.Module:
    llama3 = import_module("torchtitan.models.llama3")
    layers = llama3._build_llama3_layers
    with mock.patch.object(llama3, "_build_llama3_layers", lambda **sizes: layers(**{**sizes, "fuse_qkv": False})):
        model: nn.Module = llama3._debugmodel("flex").build()
    model.init_states(buffer_device=torch.device("cpu"))  # type: ignore[operator]
    return model


def _lora() -> nn.Module:
    peft = import_module("peft")
    model: nn.Module = peft.get_peft_model(
        _llama(), peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj", "embed_tokens"])
    )
    return model


class _Wide(nn.Module):
    """The parts of a GPT-2 that muP tells apart, under their names."""

    def __init__(self, width: int):
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, width)
        self.ln_1 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.lm_head = import_module("mup").MuReadout(width, VOCABULARY)


def _mup() -> nn.Module:
    mup = import_module("mup")
    model = _Wide(WIDTH)
    mup.set_base_shapes(model, _Wide(BASE_WIDTH), delta=_Wide(2 * BASE_WIDTH))
    for module in (model.wte, model.c_fc, model.c_proj, model.lm_head):
        mup.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model


@dataclass(frozen=True, slots=True)
class Case:
    """A model of a framework: which distribution it is of, and which preset should describe it."""

    distribution: str
    preset: Mapping[str, Any]
    build: Callable[[], nn.Module]
    wanted: str = ""


CASES = {
    "transformers-gpt2": Case("transformers", {"name": "gpt2", "layers": LAYERS}, _gpt2),
    "transformers-llama": Case("transformers", {"name": "llama"}, _llama),
    "transformers-gpt-neox": Case("transformers", {"name": "gpt-neox", "layers": LAYERS, "width": WIDTH}, _gpt_neox),
    "timm-vit": Case("timm", {"name": "vit"}, lambda: _vit("")),
    "timm-vit-jax": Case("timm", {"name": "vit-jax"}, lambda: _vit("jax")),
    "timm-vit-jax-nlhb": Case("timm", {"name": "vit-jax", "head_bias": -1.6094379124341003}, lambda: _vit("jax_nlhb")),
    "megatron-gpt": Case("megatron-core", {"name": "megatron", "layers": LAYERS}, _megatron),
    "torchtitan-llama3": Case("torchtitan", {"name": "torchtitan-llama3", "layers": 6, "width": 256}, _torchtitan),
    "peft-lora": Case("peft", {"name": "lora"}, _lora, wanted="lora_"),
    "mup-gpt2": Case(
        "mup",
        {"name": "mup", "names": "gpt2", "width": WIDTH, "base_width": BASE_WIDTH, "readout": "multiplied"},
        _mup,
    ),
}


# Recordings ----------------------------------------------------------------------------------------------------------


def listen(case: Case) -> dict[str, Any]:
    """Build the model of a case and return the law of each of its tensors."""
    with weightwell.recording() as recording:
        model = case.build()
    tensors = {name: tensor for name, tensor in model.named_parameters() if case.wanted in name}
    found, _ = recorded(recording.recorder, tensors)
    return {
        "source": f"{case.distribution} {version(case.distribution)}",
        "preset": dict(case.preset),
        "tensors": {
            name: {"module": _owner(model, name), "shape": list(each.shape), "law": law_of(each)}
            for name, each in found.items()
        },
    }


def _owner(model: nn.Module, name: str) -> str:
    """Return the name of the class of torch.nn that a tensor's module is, or else of its own."""
    classes = type(model.get_submodule(name.rpartition(".")[0])).mro()
    own = (each for each in classes if each.__module__.startswith("torch.nn.modules") and each is not nn.Module)
    return next(own, classes[0]).__name__


def write(recording: dict[str, Any]) -> str:
    """Return the text of a recording, with a line for each tensor."""
    tensors = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in recording["tensors"].items())
    source, preset = json.dumps(recording["source"]), json.dumps(recording["preset"])
    return f'{{\n  "source": {source},\n  "preset": {preset},\n  "tensors": {{\n{tensors}\n  }}\n}}\n'


def main(arguments: list[str]) -> int:
    """Record the cases that are named, or check them; return how many are not as they were recorded."""
    changed = 0
    for name in arguments:
        if name == "--check":
            continue
        path, text = HERE / f"{name}.json", write(listen(CASES[name]))
        if "--check" not in arguments:
            path.write_text(text)
        elif json.loads(text)["tensors"] != json.loads(path.read_text())["tensors"]:
            sys.stderr.write(f"{name} is not as it was recorded:\n{text}")
            changed += 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
