"""Recorded models against their own code: what is drawn for a manifest is distributed as what the code draws itself."""

from contextlib import closing
from typing import Any

import pytest
import safetensors.torch
import torch
from scipy import stats

from benchmarks.architectures import model_type, own, small_config, without_warnings
from weightwell import Manifest
from weightwell_engine.engine import Engine
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing.manifest import read_manifest

# fmt: off
ARCHITECTURES = [
    "albert", "apertus", "bailing_hybrid", "bamba", "bert", "bloom", "convbert", "deberta-v2", "dinov2",
    "falcon_mamba", "fnet", "gemma3_text", "gpt2", "gpt_neox", "gpt_oss", "jamba", "lfm2", "llama", "mamba", "marian",
    "mixtral", "modernbert", "nanochat", "patchtst", "qwen3_next", "recurrent_gemma", "rwkv", "sew",
    "siglip_vision_model", "t5", "vit", "wav2vec2-bert", "whisper", "xlm", "xlstm",
]
# Architectures whose initializers are of a kind that others above have, or whose models are slow to make.
OTHERS = [
    "aria_text", "bart", "beit", "bigbird_pegasus", "camembert", "canine", "clip_vision_model", "codegen",
    "cohere2_moe", "convnext", "ctrl", "decision_transformer", "diffllama", "distilbert", "electra", "falcon_h1",
    "glm4_moe", "granitemoehybrid", "jetmoe", "layoutlmv3", "mobilebert", "olmoe", "phi3", "segformer", "timesformer",
    "vit_mae",
]
# fmt: on
EXHAUSTIVE = [pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS]

# A random number less probable than this is a fault.
_IMPROBABLE = 1e-7
# Elements of a tensor that are compared.
_SAMPLE = 20_000


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *EXHAUSTIVE])
def test_recorded_laws_are_those_of_the_models_own_code(architecture: str) -> None:
    config = small_config(architecture)
    with without_warnings():
        manifest = Manifest.of(model_type(config), config, seed=5)
        drawn = tensors_of(manifest)
    expected = {name: each.detach() for name, each in own(config, 6).named_parameters() if ".parametriz" not in name}
    assert expected.keys() <= drawn.keys()
    problems = [text for name, each in expected.items() if (text := difference(each, drawn[name]))]
    assert problems == []
    assert twins(drawn, expected) == twins(expected, expected)


def tensors_of(manifest: Manifest) -> dict[str, torch.Tensor]:
    """Return the tensors of a manifest."""
    engine = Engine(Cpu(), threads=1)
    document = manifest.document(computed=False)
    numbers = {name: each() for name, each in manifest.numbers().items()}
    with closing(engine.open(engine.plan(read_manifest(document)))) as file:
        tensors = safetensors.torch.load(bytes(file.read(0, file.nbytes)))
    tensors |= numbers
    return tensors | {name: tensors[each["alias"]] for name, each in manifest.tensors.items() if "alias" in each}


def difference(expected: torch.Tensor, got: torch.Tensor) -> str | None:
    """Return how the distributions of two tensors differ, or None."""
    ours, theirs = (each.float().flatten() for each in (got, expected))
    if ours.shape != theirs.shape:
        return f"shape {tuple(got.shape)} for {tuple(expected.shape)}"
    if torch.allclose(ours, theirs):
        return None
    if (ours == 0).sum() != (theirs == 0).sum():
        return f"{int((ours == 0).sum())} zeros for {int((theirs == 0).sum())}"
    if ours.std() == 0 or theirs.std() == 0:
        return f"std {ours.std()} for {theirs.std()}"
    step = -(-ours.numel() // _SAMPLE)
    test: Any = stats.ks_2samp(ours[::step].numpy(), theirs[::step].numpy(), method="asymp")
    return f"p = {test.pvalue}" if test.pvalue < _IMPROBABLE else None


def twins(tensors: dict[str, torch.Tensor], among: dict[str, torch.Tensor]) -> set[tuple[str, str]]:
    """Return the pairs of tensors that are random, and equal."""
    seen: dict[bytes, str] = {}
    pairs = set()
    for name in among:
        each = tensors[name].detach().float().contiguous()
        if each.numel() > 8 and torch.unique(each).numel() > each.numel() // 2:
            key = each.numpy().tobytes()
            if key in seen:
                pairs.add((seen[key], name))
            seen.setdefault(key, name)
    return pairs
