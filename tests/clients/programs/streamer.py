"""What a loader sees that uses Run:ai's Model Streamer, as vLLM and SGLang do for s3://.

The arguments are the address of a server, and a revision. Prints a JSON object.
"""

import hashlib
import json
import sys
from importlib.metadata import version

import torch
from runai_model_streamer import SafetensorsStreamer, list_safetensors


def main() -> None:
    """Stream all weight files of a repository."""
    _, _, revision = sys.argv
    paths = list_safetensors(f"s3://acme/sharded@{revision}")
    tensors = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        for name, tensor in streamer.get_tensors():
            tensors[name] = hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    print(json.dumps({"version": version("runai-model-streamer"), "paths": sorted(paths), "tensors": tensors}))


if __name__ == "__main__":
    main()
