"""What a program sees that uses huggingface_hub, of any version from 0.16 on.

The arguments are the address of a server, which is in HF_ENDPOINT as well, and a revision. Prints a JSON object.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download

GPT2, LLAMA, SHARDED = "tiny/gpt2", "tiny/llama", "acme/sharded"
WEIGHTS = "model.safetensors"


def sha(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def failure(*args: Any, **options: Any) -> str:
    """Return the name of the error that a download raises."""
    try:
        hf_hub_download(*args, **options)
    except Exception as error:
        return type(error).__name__
    return "none"


def main() -> None:
    """Use everything that such a program uses."""
    _, _, revision = sys.argv
    api = HfApi()
    files: Any = HfFileSystem()
    paths = [Path(hf_hub_download(GPT2, WEIGHTS, revision=revision)) for _ in range(2)]
    folders = [Path(snapshot_download(SHARDED, revision=revision, allow_patterns=["*.safetensors"])) for _ in range(2)]
    with files.open(f"{LLAMA}@{revision}/{WEIGHTS}", "rb", block_size=1024) as file:
        file.seek(8)
        start = file.read(16)
    found = {
        "version": huggingface_hub.__version__,
        "commit": api.model_info(GPT2, revision=revision).sha,
        "files": api.list_repo_files(SHARDED, revision=revision),
        "listed": [Path(each["name"]).name for each in files.ls(f"{SHARDED}@{revision}", detail=True)],
        "weights": [sha(path) for path in paths],
        "snapshot": {each.name: sha(each) for each in sorted(folders[1].iterdir())},
        "same": folders[0] == folders[1],
        "range": start.decode(),
        "errors": [
            failure(GPT2, "none.json", revision=revision),
            failure("tiny/none", "config.json"),
            failure(GPT2, "config.json", revision="v3"),
        ],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
