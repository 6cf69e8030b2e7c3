"""Whole models through the client, compared with curl and with torch in process.

    python -m benchmarks.models

First, this checks that every way to draw a model gives the same bytes: one piece through curl and through the client,
several connections, and the shards of several ranks. The models are well-known ones. Then it times a model of 4 GiB in
bfloat16.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import weightwell
from benchmarks.http import free_port, running
from benchmarks.measure import interleave, seconds, table
from weightwell import Manifest

RANKS = 4
TOKENS: Any = {"bos_token_id": 0, "eos_token_id": 0}

# Sizes of a Llama with 10^9 parameters
LLAMA_1B: Any = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}


def llama(layers: int) -> nn.Module:
    """Return a Llama with this number of layers: 16 is the 1B model, and 31 is 4 GiB in bfloat16."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=layers, **LLAMA_1B, **TOKENS))


def gpt2() -> nn.Module:
    """Return GPT-2 small."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**TOKENS))


def resnet() -> nn.Module:
    """Return a ResNet-50, including the running statistics and counters of its normalization layers."""
    return transformers.ResNetForImageClassification(transformers.ResNetConfig())


def manifest_of(build: Callable[[], nn.Module], preset: Any, dtype: str | None = None) -> Manifest:
    """Return the manifest of a model. The model is built on the meta device, so it needs no memory."""
    with torch.device("meta"):
        return Manifest.from_module(build(), preset=preset, dtype=dtype)


# Every way gives the same bytes --------------------------------------------------------------------------------------


def compare(name: str, manifest: Manifest, url: str, root: Path) -> tuple[str, ...]:
    """Draw a model in every way and return its row of the table; raise ``RuntimeError`` if any bytes differ."""
    with connected(url, 1) as one, connected(url, 8) as several, weightwell.local(progress=False) as local:
        plan = one.plan(manifest)
        digests = {"curl": _curl_digest(plan.url)}
        for way, client in (("one connection", one), ("several", several), ("in process", local)):
            client.save(root / "model.safetensors", manifest)
            digests[way] = _digest(root / "model.safetensors")
        digests[f"{RANKS} shards"] = digests["curl"] if _shards_are_the_whole(one, manifest) else "other numbers"
    if len(set(digests.values())) > 1:
        raise RuntimeError(f"{name} is not the same in every way: {digests}")
    return name, str(len(manifest.tensors)), f"{plan.nbytes / 2**20:.0f}", digests["curl"][:16], ", ".join(digests)


@contextmanager
def connected(url: str, connections: int) -> Iterator[weightwell.Client]:
    """Yield a client that uses at most ``connections`` connections at once."""
    with weightwell.Client(url, connections=connections, progress=False) as client:
        yield client


def _curl_digest(url: str | None) -> str:
    with subprocess.Popen(["curl", "-sf", str(url)], stdout=subprocess.PIPE) as curl:
        digest = hashlib.file_digest(curl.stdout, "sha256")  # type: ignore[arg-type]
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shards_are_the_whole(client: weightwell.Client, manifest: Manifest) -> bool:
    whole = client.init_state_dict(manifest)
    shards = [client.init_state_dict(manifest.shard(rank, RANKS)) for rank in range(RANKS)]
    return all(_equal(tensor, [shard[name] for shard in shards]) for name, tensor in whole.items())


def _equal(whole: Tensor, parts: list[Tensor]) -> bool:
    """Whether the parts make up the tensor. A tensor without dimensions is not split: each part is the whole tensor."""
    return all(torch.equal(part, whole) for part in parts) if whole.ndim == 0 else torch.equal(torch.cat(parts), whole)


# Four GiB ------------------------------------------------------------------------------------------------------------


def measure(layers: int, url: str, root: Path, rounds: int) -> None:
    """Time every way to get a Llama in bfloat16, and print the table."""
    manifest = manifest_of(lambda: llama(layers), "llama", "bfloat16")
    with connected(url, 8) as client, weightwell.local(progress=False) as local:
        plan = client.plan(manifest)
        contenders: dict[str, Callable[[], float]] = {
            "in process, into a model on meta": lambda: seconds(lambda: _filled(local, layers)),
            "in process, into a file": lambda: seconds(lambda: local.save(root / "model.safetensors", manifest)),
            "the client, into a state dict": lambda: seconds(lambda: client.init_state_dict(manifest)),
            "the client, into a model on meta": lambda: seconds(lambda: _filled(client, layers)),
            "one curl, thrown away": lambda: seconds(
                lambda: subprocess.run(["curl", "-sf", "-o", "/dev/null", str(plan.url)], check=True)
            ),
            "the client, into a file": lambda: seconds(lambda: client.save(root / "model.safetensors", manifest)),
            "torch, draws alone": lambda: seconds(lambda: _drawn(manifest)),
            "torch, building the model": lambda: seconds(lambda: _built(layers)),
        }
        medians = interleave(contenders, rounds)
    alone, built = medians["torch, draws alone"], medians["torch, building the model"]
    rows = [
        (name, f"{value:.2f}", f"{plan.nbytes / value / 1e9:.2f}", f"{alone / value:.2f}", f"{built / value:.2f}")
        for name, value in medians.items()
    ]
    columns = "way", "seconds", "GB/s", "times torch's draws", "times torch's building"
    table(f"A Llama of {plan.nbytes / 2**30:.2f} GiB in bfloat16", columns, rows)


def _filled(client: weightwell.Client, layers: int) -> nn.Module:
    with torch.device("meta"):
        model = llama(layers).to(torch.bfloat16)
    reset_buffers: Any = model._init_weights  # of transformers; it sets buffers such as rotary frequencies
    return client.init_module_(model, "llama", device="cpu", reset_buffers=reset_buffers)


def _built(layers: int) -> nn.Module:
    torch.set_default_dtype(torch.bfloat16)
    try:
        return llama(layers)
    finally:
        torch.set_default_dtype(torch.float32)


def _drawn(manifest: Manifest) -> list[Tensor]:
    """Draw every tensor with torch, without building the model."""
    shapes = [fields["shape"] for fields in manifest.tensors.values() if "shape" in fields]
    tensors = [torch.empty(shape, dtype=torch.bfloat16) for shape in shapes]
    for tensor in tensors:
        torch.nn.init.normal_(tensor, 0.0, 0.02) if tensor.ndim > 1 else torch.nn.init.ones_(tensor)
    return tensors


def _service(port: int) -> list[str]:
    return [sys.executable, "-m", "weightwell_service", "--port", str(port)]


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds; medians are printed")
    parser.add_argument("--layers", type=int, default=31, help="layers of the timed model; 31 layers are 4 GiB")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, {arguments.rounds} rounds")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, running(_service(port), port):
        url, root = f"http://127.0.0.1:{port}", Path(folder)
        rows = [
            compare("GPT-2 small, float32", manifest_of(gpt2, {"name": "gpt2", "layers": 12}), url, root),
            compare("ResNet-50, float32", manifest_of(resnet, "torch"), url, root),
            compare("Llama 1B, bfloat16", manifest_of(lambda: llama(16), "llama", "bfloat16"), url, root),
        ]
        table("The same bytes", ("model", "tensors", "MiB", "SHA-256", "ways"), rows)
        measure(arguments.layers, url, root, arguments.rounds)


if __name__ == "__main__":
    main()
