"""What a program sees that knows nothing of Weightwell: transformers and huggingface_hub with HF_ENDPOINT set.

Prints a JSON object with what it found. Run by tests/contract/test_hub.py, with the address of a server in HF_ENDPOINT
and an empty folder in HF_HOME.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoTokenizer,
    logging,
)

MODELS: dict[str, Any] = {
    "tiny/gpt2": AutoModelForCausalLM,
    "tiny/llama": AutoModelForCausalLM,
    "tiny/qwen3-moe": AutoModelForCausalLM,
    "tiny/bert": AutoModelForMaskedLM,
    "tiny/vit": AutoModelForImageClassification,
    "acme/sharded": AutoModelForCausalLM,
}


def digest(model: Any) -> str:
    """Return a digest of all parameters."""
    sha = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        sha.update(name.encode() + parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def failure(function: Any, *args: Any, **options: Any) -> str:
    """Return the name of the error that a call raises."""
    try:
        function(*args, **options)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        return type(error).__name__
    return "none"


def main() -> None:
    """Use everything that such a program uses."""
    quiet: Any = logging
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()
    found: dict[str, Any] = {"models": {}, "ties": {}}
    for name, kind in MODELS.items():
        for revision in ("seed-42", "seed-42-bfloat16"):
            model, info = kind.from_pretrained(name, revision=revision, output_loading_info=True)
            found["models"][f"{name} {revision}"] = [str(model.dtype), digest(model)]
            if any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
                raise ValueError(f"{name}: {info}")
            if (head := model.get_output_embeddings()) is not None:
                found["ties"][name] = head.weight is model.get_input_embeddings().weight
    tokenizer = AutoTokenizer.from_pretrained("tiny/gpt2", revision="seed-42")
    writer: Any = AutoModelForCausalLM.from_pretrained("tiny/gpt2", revision="seed-42")
    ids = tokenizer("hello", return_tensors="pt")
    found["generated"] = list(writer.generate(**ids, max_new_tokens=4, do_sample=False).shape)
    found["text"] = tokenizer.decode(ids["input_ids"][0])

    api = HfApi()
    found["files"] = api.list_repo_files("tiny/gpt2", revision="seed-7")
    found["exists"] = [api.file_exists("tiny/gpt2", "config.json"), api.file_exists("tiny/gpt2", "none.json")]
    found["revisions"] = [api.revision_exists("tiny/gpt2", name) for name in ("seed-3", "v3")]
    found["paths"] = [each.path for each in api.get_paths_info("tiny/gpt2", ["config.json", "none"])]
    found["parameters"] = api.get_safetensors_metadata("tiny/gpt2").parameter_count
    found["listed"] = [each.id for each in api.list_models(author="acme")]
    found["errors"] = [
        failure(hf_hub_download, "tiny/gpt2", "none.json"),
        failure(hf_hub_download, "tiny/none", "config.json"),
        failure(hf_hub_download, "tiny/gpt2", "config.json", revision="v3"),
    ]
    weights = next(name for name in found["files"] if name.endswith(".safetensors"))
    path = hf_hub_download("tiny/gpt2", weights, revision="seed-7")
    found["sha"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    before = Path(path).stat().st_mtime_ns
    again = hf_hub_download("tiny/gpt2", weights, revision="seed-7")
    found["cached"] = again == path and Path(again).stat().st_mtime_ns == before
    folder = Path(snapshot_download("acme/sharded", revision="seed-7", allow_patterns=["*.safetensors*", "*.json"]))
    found["snapshot"] = sorted(each.name for each in folder.iterdir())
    with HfFileSystem().open(f"tiny/gpt2/{weights}", "rb") as file:
        file.seek(8)
        found["head"] = file.read(17).decode()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
