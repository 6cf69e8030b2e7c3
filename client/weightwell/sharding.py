"""Sharding: the weight files of a checkpoint, as ``save_pretrained`` of transformers writes them.

A file takes tensors, in order, until the next one would make it larger than the limit. A tensor that is larger than the
limit has a file of its own, and the tensors after it go on filling the file before.

The service has the same rule for its repositories (``weightwell_service.repositories.sharding``), which a client cannot
import. tests/contract/test_sharding.py compares both with huggingface_hub.
"""

import json
import operator
import re
from collections.abc import Iterable, Sequence

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_WEIGHTS = re.compile(r"model(-\d{5,}-of-\d{5,})?\.safetensors", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGTP]?)B", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


def bytes_of(size: int | str) -> int:
    """Return a size in bytes: an integer, or text such as ``"5GB"``. Raises TypeError or ValueError.

    As in huggingface_hub, 1 GB is 10^9 bytes.
    """
    count = None
    if not isinstance(size, str | bool):
        count = operator.index(size)
    elif isinstance(size, str) and (found := _SIZE.fullmatch(size.strip())):
        count = int(float(found[1]) * _UNITS[found[2].upper()])
    if count is None or count < 1:
        raise ValueError(f"a size is a positive number of bytes, or text such as '5GB' and '500MB'; got {size!r}")
    return count


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


def index(files: Iterable[tuple[str, Sequence[str]]], total: int) -> bytes:
    """Return the index of several files: the file of each tensor, and the bytes of all tensors."""
    places = {name: file for file, names in files for name in names}
    document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def is_weights(name: str) -> bool:
    """Whether a name is that of a weight file or of an index."""
    return name == INDEX or _WEIGHTS.fullmatch(name) is not None
