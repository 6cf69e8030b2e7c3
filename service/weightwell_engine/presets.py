"""Presets: the initialization of models in well-known code, as named lists of rules.

A preset is a function from parameters to rules. A rule has the JSON form of a manifest: a ``match`` (a glob) or a
``regex`` for the names of tensors, a scheme, and its parameters. The first rule that matches applies. Values that do
not follow from names, such as the number of layers, are parameters without a default.

Rules match the ends of names, because wrappers of a model add prefixes. They match only tensors of the described code.
A tensor without a rule is an error, and never a guess.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Literal

from annotated_types import Interval

from weightwell_engine.schemes import Doc, SchemeParameter

Rule = dict[str, object]
Rules = Iterator[Rule]

# Some presets have a rule for each layer, so this also limits the number of rules.
MAX_LAYERS = 1000


@dataclass(frozen=True, slots=True)
class Preset:
    """One row of the table: name, description, sources, parameters and function."""

    name: str
    summary: str
    references: tuple[str, ...]
    parameters: tuple[SchemeParameter, ...]
    function: Callable[..., Rules]

    def rules(self, /, **parameters: object) -> tuple[Rule, ...]:
        """Return the rules, in the order of priority. The parameters must match their annotations."""
        return tuple(self.function(**parameters))


PRESETS: dict[str, Preset] = {}


def preset(name: str, *references: str) -> Callable[[Callable[..., Rules]], Callable[..., Rules]]:
    """Register the decorated function as a preset; its keyword arguments are the parameters."""

    def register(function: Callable[..., Rules]) -> Callable[..., Rules]:
        arguments = inspect.signature(function).parameters.values()
        parameters = tuple(map(SchemeParameter.of, arguments))
        PRESETS[name] = Preset(name, inspect.getdoc(function) or "", references, parameters, function)
        return function

    return register


_SIZE = Interval(ge=1, le=2**31 - 1)

Layers = Annotated[int, Interval(ge=1, le=MAX_LAYERS), Doc("number of the model's layers")]
Width = Annotated[int, _SIZE, Doc("size of the residual stream")]
BaseWidth = Annotated[int, _SIZE, Doc("width at which the hyperparameters were found")]
Std = Annotated[float, Interval(gt=0), Doc("standard deviation of the matrices that no other rule scales")]


# Names of modules in code bases --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a transformer's modules, each a regex.

    ``reading`` are the matrices that read from the residual stream, ``writing`` the matrices that write to it.
    """

    embedding: str
    reading: str
    writing: str
    head: str
    norm: str


NAMES = {
    "gpt2": Names("wte|wpe", "c_attn|q_attn|c_fc", "c_proj", "lm_head", r"ln_\w+"),
    "llama": Names("embed_tokens", "[qkv]_proj|gate_proj|up_proj", "o_proj|down_proj", "lm_head", r"\w*norm"),
    "megatron": Names(
        r"(word|position|tokentype)_embeddings",
        r"linear_(q|kv|qkv|fc1)|linear_(q|kv)_(down_|up_)?proj|router",
        "linear_proj|linear_fc2",
        "output_layer",
        r"\w+_layernorm",
    ),
    "torchtitan": Names("tok_embeddings", "wq|wk|wv|wqkv|w1|w3", "wo|w2", "lm_head|output", r"\w*norm"),
    "gpt-neox": Names(
        "embed_in|word_embeddings",
        "query_key_value|dense_h_to_4h",
        "dense|dense_4h_to_h",
        "embed_out|lm_head|final_linear",
        r"\w*layernorm|\w*layer_norm|norm",
    ),
}


def _rule(modules: str, scheme: str, leaf: str = "weight", **parameters: float) -> Rule:
    """Return the rule for a leaf of all modules whose names match a regex."""
    return {"regex": rf"(.*\.)?({modules})\.{leaf}", "scheme": scheme, **parameters}


def _norms_and_biases(names: Names) -> Rules:
    """Yield the common rules of all transformers: the weights of norms are one, and biases are zero."""
    yield _rule(names.norm, "ones")
    yield _rule(f"{names.reading}|{names.writing}|{names.head}|{names.norm}", "zeros", "bias")


# Presets -------------------------------------------------------------------------------------------------------------


@preset("torch", "pytorch/pytorch v2.13.0, torch/nn/modules: reset_parameters of each module")
def torch() -> Rules:
    """Initialize every tensor as the module of torch.nn that owns it does; each tensor must say its `module`."""
    yield {"match": "*", "scheme": "reset_parameters"}


@preset(
    "gpt2",
    "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3",
    "karpathy/nanoGPT, model.py: GPT.__init__ and GPT._init_weights",
    "huggingface/transformers v5.23.0, models/gpt2/modeling_gpt2.py: GPT2PreTrainedModel._init_weights",
)
def gpt2(*, layers: Layers, std: Std = 0.02) -> Rules:
    """Initialize a GPT-2 as nanoGPT and transformers do, with what writes into the residual stream scaled by depth."""
    names = NAMES["gpt2"]
    yield _rule(names.writing, "normal", std=std / sqrt(2 * layers))
    yield _rule(f"{names.embedding}|{names.reading}|{names.head}", "normal", std=std)
    yield from _norms_and_biases(names)


@preset(
    "llama",
    "huggingface/transformers v5.23.0, models/llama/modeling_llama.py, by PreTrainedModel._init_weights",
)
def llama(*, std: Std = 0.02) -> Rules:
    """Initialize a Llama as transformers does: every matrix N(0, std^2), whatever its depth."""
    names = NAMES["llama"]
    yield _rule(f"{names.embedding}|{names.reading}|{names.writing}|{names.head}", "normal", std=std)
    yield from _norms_and_biases(names)


@preset(
    "megatron",
    "NVIDIA/Megatron-LM core_v0.16.1, megatron/core/utils.py: init_method_normal and scaled_init_method_normal",
    "NVIDIA/Megatron-LM core_v0.16.1, megatron/core/transformer/transformer_config.py: TransformerConfig.__post_init__",
    "Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053, section 4.2",
)
def megatron(
    *,
    layers: Layers,
    std: Std = 0.02,
    embedding_std: Annotated[
        float | None, Interval(gt=0), Doc("standard deviation of the embeddings; that of the matrices without it")
    ] = None,
) -> Rules:
    """Initialize a Megatron-Core GPT, dense or with experts, with its output layers scaled by depth."""
    names = NAMES["megatron"]
    yield _rule(names.embedding, "normal", std=std if embedding_std is None else embedding_std)
    yield _rule(names.writing, "normal", r"weight\d*", std=std / sqrt(2.0 * layers))
    yield _rule(f"{names.reading}|{names.head}", "normal", r"weight\d*", std=std)
    yield _rule("router", "normal", "bias", std=std)
    yield _rule(r"linear_\w+", "ones", "layer_norm_weight")
    yield _rule(r"linear_\w+", "zeros", r"(layer_norm_bias|bias\d+)")
    yield from _norms_and_biases(names)


@preset(
    "torchtitan-llama3",
    "pytorch/torchtitan v0.3.0, torchtitan/models/llama3/__init__.py and torchtitan/models/common/param_init.py",
)
def torchtitan_llama3(
    *,
    layers: Layers,
    width: Width,
    tied: Annotated[bool, Doc("whether the embedding is the output layer as well, and drawn as that")] = False,
) -> Rules:
    """Initialize torchtitan's Llama 3, in which what writes into the residual stream is scaled by its layer's depth.

    The bounds of its truncated normals are torch's, -2 and 2 whatever the standard deviation, but for the output layer.
    """
    names = NAMES["torchtitan"]
    head_std = 1.0 / sqrt(width)
    for layer in range(layers):
        # The pattern limits the prefix: RE2 takes seconds for hundreds of patterns that can begin anywhere.
        # w3 only reads from the residual stream, but torchtitan scales it too.
        regex = rf"([A-Za-z_]\w*\.)*layers\.{layer}\.(attention|feed_forward)\.({names.writing}|w3)\.weight"
        yield {"regex": regex, "scheme": "trunc_normal", "std": 0.02 / sqrt(2 * (layer + 1))}
    yield _rule(names.reading, "trunc_normal", std=0.02)
    if not tied:
        yield _rule(names.embedding, "normal", std=1.0)
    heads = f"{names.head}|{names.embedding}" if tied else names.head
    yield _rule(heads, "trunc_normal", std=head_std, a=-3 * head_std, b=3 * head_std)
    yield from _norms_and_biases(names)


@preset(
    "gpt-neox",
    "Black et al. 2022, GPT-NeoX-20B, arXiv:2204.06745, section 2.1",
    "EleutherAI/gpt-neox@05c4de3, megatron/model/init_functions.py: small_init_init_method and wang_init_method",
    "Nguyen & Salazar 2019, Transformers without Tears, arXiv:1910.05895 (small init)",
    "Wang & Komatsuzaki 2021, GPT-J-6B, mesh-transformer-jax (what writes into the residual stream)",
)
def gpt_neox(*, layers: Layers, width: Width) -> Rules:
    """Initialize GPT-NeoX and Pythia as they were trained, and not as transformers does, which has the same names."""
    names = NAMES["gpt-neox"]
    yield _rule(names.writing, "normal", std=2 / layers / sqrt(width))
    yield _rule(f"{names.embedding}|{names.reading}|{names.head}", "normal", std=sqrt(2 / (5 * width)))
    yield from _norms_and_biases(names)


_TIMM = "huggingface/pytorch-image-models v1.0.31, timm/models/vision_transformer.py"
_VIT_MATRICES = r"attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2"
_VIT_NORMS = r"norm|norm1|norm2|norm_pre|fc_norm|q_norm|k_norm"


def _vit_tokens() -> Rules:
    """Yield the rules for parameters of a vision transformer that are not in a submodule."""
    yield {"regex": r"(.*\.)?pos_embed", "scheme": "trunc_normal", "std": 0.02}
    yield {"regex": r"(.*\.)?(cls|reg)_token", "scheme": "normal", "std": 1e-6}


@preset("vit", f"{_TIMM}: VisionTransformer.init_weights and init_weights_vit_timm")
def vit() -> Rules:
    """Initialize timm's VisionTransformer as it does by default; the patch embedding must say that it is a Conv2d."""
    yield from _vit_tokens()
    yield {"regex": r"(.*\.)?patch_embed\.proj\.(weight|bias)", "scheme": "reset_parameters"}
    yield _rule(f"{_VIT_MATRICES}|head", "trunc_normal", std=0.02)
    yield _rule(_VIT_NORMS, "ones")
    yield _rule(f"{_VIT_MATRICES}|head|{_VIT_NORMS}", "zeros", "bias")


@preset(
    "vit-jax",
    f"{_TIMM}: VisionTransformer.init_weights and init_weights_vit_jax (weight_init='jax' and 'jax_nlhb')",
    "Dosovitskiy et al. 2020, An Image is Worth 16x16 Words, arXiv:2010.11929, and google-research/vision_transformer",
)
def vit_jax(
    *, head_bias: Annotated[float, Doc("bias of the head; -log(number of classes) in jax_nlhb")] = 0.0
) -> Rules:
    """Initialize timm's VisionTransformer as the original in JAX, with a head of zeros."""
    yield from _vit_tokens()
    yield _rule("head", "zeros")
    yield _rule("head", "constant", "bias", val=head_bias)
    yield _rule(r"patch_embed\.proj", "lecun_normal")
    yield _rule(_VIT_MATRICES, "xavier_uniform")
    yield _rule(r"mlp\.fc[12]", "normal", "bias", std=1e-6)
    yield _rule(_VIT_NORMS, "ones")
    yield _rule(rf"attn\.qkv|attn\.proj|patch_embed\.proj|{_VIT_NORMS}", "zeros", "bias")


@preset(
    "lora",
    "Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1",
    "huggingface/peft v0.21.2, peft/tuners/lora/layer.py: LoraLayer.reset_lora_parameters",
    "microsoft/LoRA@a0a92e0, loralib/layers.py: Linear.reset_parameters",
)
def lora() -> Rules:
    """Initialize low-rank adapters as peft does, so that they begin as no change: A drawn, B zero."""
    # In a running model the name of a matrix ends with that of its adapter; in a file of adapters it does not.
    yield {"regex": r"(.*\.)?lora_A(\.[^.]+)?(\.weight)?", "scheme": "kaiming_uniform", "a": sqrt(5)}
    yield {"regex": r"(.*\.)?lora_B(\.[^.]+)?(\.weight|\.bias)?", "scheme": "zeros"}
    yield {"regex": r"(.*\.)?lora_embedding_A(\.[^.]+)?", "scheme": "zeros"}
    yield {"regex": r"(.*\.)?lora_embedding_B(\.[^.]+)?", "scheme": "normal", "std": 1.0}


@preset(
    "mup",
    "Yang et al. 2022, Tensor Programs V, arXiv:2203.03466: tables 3 (readout plain) and 8 (readout multiplied)",
    "microsoft/mup v1.0.0, mup/init.py: normal_, and mup/layer.py: MuReadout",
)
def mup(
    *,
    names: Annotated[Literal[tuple(NAMES)], Doc("whose names the tensors have")],  # type: ignore[valid-type]
    width: Width,
    base_width: BaseWidth,
    readout: Annotated[
        Literal["plain", "multiplied"],
        Doc("whether the forward pass multiplies what goes into the output layer by base_width / width, as MuReadout"),
    ],
    std: Std = 0.02,
) -> Rules:
    """Initialize a transformer in the maximal update parametrization, in which it learns alike at every width.

    That also needs learning rates and an attention by the width, which no initialization gives.
    """
    own, factor = NAMES[names], width / base_width
    yield _rule(own.head, "normal", std=std if readout == "multiplied" else std / factor)
    yield _rule(own.embedding, "normal", std=std)
    yield _rule(f"{own.reading}|{own.writing}", "normal", std=std / sqrt(factor))
    yield from _norms_and_biases(own)
