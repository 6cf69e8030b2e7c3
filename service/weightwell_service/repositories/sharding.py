"""Sharding: the tensors of each weight file of a repository, as ``save_pretrained`` of transformers divides them.

A file takes tensors, in order, until the next one would make it larger than the limit. A tensor that is larger than the
limit has a file of its own, and later tensors continue to fill the previous file.
"""

import json
from collections.abc import Iterable, Sequence

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def divided(sizes: Iterable[tuple[str, int]], limit: int) -> list[list[str]]:
    """Return the names of the tensors of each file; ``sizes`` are names and bytes, in order."""
    files: list[list[str]] = []
    current: list[str] = []
    filled = 0
    for name, nbytes in sizes:
        if nbytes > limit:
            files.append([name])
            continue
        if filled + nbytes > limit:
            files.append(current)
            current, filled = [], 0
        current.append(name)
        filled += nbytes
    return [*files, current] if current else files


def file_names(count: int) -> list[str]:
    """Return the names of the weight files of a checkpoint."""
    if count == 1:
        return [SINGLE]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def index(files: Sequence[tuple[str, Sequence[str]]], total: int) -> bytes:
    """Return the index of several files: the file of each tensor, and the bytes of all tensors."""
    places = {name: file for file, names in files for name in names}
    document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
