"""Models of libraries: small ones of transformers for the tests, and which models can be recorded.

``python -m benchmarks.architectures [LIBRARY ...]`` prints the figures of docs/recording.md.
"""

import functools
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from math import prod
from multiprocessing import get_context
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import configuration_auto, modeling_auto

from weightwell import Manifest
from weightwell.models.recorded import built
from weightwell.recorder.initializers import initialize_by_library
from weightwell.recorder.numbers import MAX_VALUES
from weightwell_engine.processors import cpus

# Fields of configurations, by many names, that make a model small.
_SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("head_dim", "d_kv"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    "num_decoder_layers": 2,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 32,
    "vocab_size": 120,
    "image_size": 32,
    "patch_size": 8,
    "state_size": 8,
}
_TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def small_config(architecture: str) -> Any:
    """Return the configuration of a small model of an architecture, by its ``model_type``."""
    kind: Any = configuration_auto.CONFIG_MAPPING[architecture]
    default = kind()
    sizes: dict[str, Any] = {key: getattr(default, key, None) for key in _SMALL}
    fields = {key: min(_SMALL[key], old) for key, old in sizes.items() if _is_size(old)}
    fields |= {key: value for key, value in _TOKENS.items() if _is_size(getattr(default, key, None))}
    return kind(**fields)


def default_config(architecture: str) -> Any:
    """Return the default configuration of an architecture."""
    return configuration_auto.CONFIG_MAPPING[architecture]()


def model_type(config: Any) -> type[nn.Module]:
    """Return the type of the model without a head that belongs to a configuration."""
    kind: Any = modeling_auto.MODEL_MAPPING[type(config)]
    return kind[0] if isinstance(kind, tuple) else kind  # type: ignore[no-any-return]


def architectures() -> list[str]:
    """Return the names of all architectures of the installed transformers."""
    return sorted(modeling_auto.MODEL_MAPPING_NAMES)


@functools.cache
def quiet() -> None:
    """Silence what transformers logs about configurations."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore the warnings of other libraries."""
    quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def own(config: Any, seed: int) -> nn.Module:
    """Return a model that its own code has initialized with torch's random numbers of a seed."""
    with without_warnings():
        torch.manual_seed(seed)
        return model_type(config)(config)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# The sweep: which models can be recorded -----------------------------------------------------------------------------

Build = Callable[[], nn.Module]

_MEANINGS = {
    "recorded": "have a law for every parameter",
    "computed": "have some parameters that their code computes, which the manifest carries",
    "too many": "have some that are too many numbers for a manifest; init_module_ computes them",
    "named": "cannot be recorded",
    "unbuilt": "do not build on the meta device in their default configuration",
}

# About so many models of a library are built without a recording as well, for the ratio of the times.
_PAIRED = 50


@dataclass
class Outcome:
    """What became of one model, one of ``_MEANINGS``, and the seconds of the recording and of building alone."""

    name: str
    kind: str
    reason: str = ""
    recording: float = 0.0
    building: float | None = None


def outcome(name: str, build: Build, *, paired: bool) -> Outcome:
    """Build a model on the meta device while it is recorded."""
    try:
        building = _seconds(lambda: _plain(build)) if paired else None
        building = min(building, _seconds(lambda: _plain(build))) if building is not None else None
        started = time.perf_counter()
        recording, model = built(build)
        seconds = time.perf_counter() - started
    except Exception as error:  # whatever a library says of a configuration, or of a package that is missing
        return Outcome(name, "unbuilt", _first_line(error))
    try:
        manifest = Manifest.from_recording(recording, model)
    except ValueError as error:
        return Outcome(name, "named", _first_line(error))
    computed = manifest.computations()
    for each, computation in computed.items():
        if prod(manifest.tensors[each]["shape"]) <= MAX_VALUES:
            continue
        try:
            computation.fields(0)
        except ValueError as error:
            return Outcome(name, "too many", _first_line(error), seconds, building)
    return Outcome(name, "computed" if computed else "recorded", "", seconds, building)


def _plain(build: Build) -> None:
    with torch.device("meta"):
        model = build()
    with torch.no_grad():
        initialize_by_library(model)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}" if str(error) else type(error).__name__


def transformers_models() -> Iterator[tuple[str, Build]]:
    """Yield the model without a head of every architecture of transformers, in its default configuration."""

    def build(architecture: str) -> nn.Module:
        config = default_config(architecture)
        return model_type(config)(config)

    for each in architectures():
        yield each, functools.partial(build, each)


def timm_models() -> Iterator[tuple[str, Build]]:
    """Yield one model of every file of timm."""
    timm = import_module("timm")
    modules = import_module("timm.models._registry")._model_to_module
    first = {module: name for name, module in sorted(modules.items(), reverse=True)}
    for name in sorted(first.values()):
        yield name, functools.partial(timm.create_model, name)


def diffusers_models() -> Iterator[tuple[str, Build]]:
    """Yield every model of diffusers that has defaults for all arguments."""
    diffusers = import_module("diffusers")
    for name in sorted(dir(diffusers)):
        with suppress(RuntimeError, ImportError):
            kind = getattr(diffusers, name)
            if isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin) and kind is not diffusers.ModelMixin:
                yield name, kind


def torchtitan_models() -> Iterator[tuple[str, Build]]:
    """Yield the configurations of torchtitan's language models."""
    arguments = {
        "llama3": ("flex",),
        "qwen3": ("flex",),
        "deepseek_v3": ("flex", "standard"),
        "gpt_oss": ("standard",),
    }
    for family, given in arguments.items():
        module = import_module(f"torchtitan.models.{family}")
        (configs,) = (value for name, value in vars(module).items() if name.endswith("_configs"))
        for name, config in configs.items():

            def build(config: Any = config, given: Any = given) -> nn.Module:
                accepted = len(signature(config).parameters)
                return config(*given[:accepted]).build()  # type: ignore[no-any-return]

            yield f"{family}/{name}", build


LIBRARIES = {
    "transformers": transformers_models,
    "timm": timm_models,
    "diffusers": diffusers_models,
    "torchtitan": torchtitan_models,
}


_models: list[tuple[str, Build]] = []


def _outcome(place: int) -> Outcome:
    """Return the outcome of one of the models of this sweep."""
    torch.set_num_threads(1)
    return outcome(*_models[place], paired=place % max(len(_models) // _PAIRED, 1) == 0)


def main(libraries: Sequence[str]) -> None:
    """Print for each library which of its models can be recorded, and how long the sweep took."""
    for library in libraries or ["transformers"]:
        started = time.perf_counter()
        with without_warnings():
            _models[:] = LIBRARIES[library]()
            with get_context("fork").Pool(cpus()) as processes:  # which inherit the models: functions do not travel
                outcomes = list(processes.imap(_outcome, range(len(_models))))
        seconds = time.perf_counter() - started
        built_ones = [each for each in outcomes if each.kind != "unbuilt"]
        print(f"{library} {version(library)}: {len(outcomes)} models, {len(built_ones)} build on the meta device")
        for kind, meaning in _MEANINGS.items():
            found = [each for each in outcomes if each.kind == kind]
            print(f"\n{len(found)} {meaning}")
            for each in found if kind in {"too many", "named", "unbuilt"} else ():
                print(f"  {each.name}: {each.reason}")
        ratios = [each.recording / each.building for each in built_ones if each.building]
        print(f"\nrecording takes {statistics.median(ratios):.2f} of the time to build and initialize (median)")
        print(f"{seconds:.0f} seconds\n")


if __name__ == "__main__":
    main(sys.argv[1:])
