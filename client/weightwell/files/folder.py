"""Folders: the files of a checkpoint on the disk."""

import os
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from weightwell import sharding
from weightwell.exceptions import WeightwellError
from weightwell.files.comparison import Claim
from weightwell.safetensors import Header
from weightwell.spec import DEFAULT_GENERATOR, FileSpec


class Folder:
    """The folder at ``path``, which is created. Raises TypeError for anything but a path, and OSError."""

    def __init__(self, path: object):
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"max_shard_size= needs the path of a folder, got {path!r:.80}")
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def has(self, name: str, spec: FileSpec) -> bool:
        """Whether the folder has the complete file of a spec. Only its header is read.

        A file appears under its name when it is complete, and its metadata have the spec of every byte. Files of
        ``generator="torch"`` do not count: the bytes depend on the version of torch.
        """
        try:
            with closing(Claim(self.path / name)) as claim:
                nbytes = spec.accept(Header(claim.entries, claim.metadata))
                portable = claim.document.get("generator") == DEFAULT_GENERATOR
                return portable and claim.size == len(claim.head) + nbytes
        except (OSError, ValueError, KeyError, TypeError, AttributeError, WeightwellError):
            return False

    def finish(self, names: Collection[str], index: bytes | None, config: bytes | None) -> None:
        """Write the configuration and the index, and remove the weight files of an earlier checkpoint.

        Loaders could take those instead.
        """
        kept = {*names}
        if config is not None:
            self._write("config.json", config)
        if index is not None:
            self._write(sharding.INDEX, index)
            kept.add(sharding.INDEX)
        for each in self.path.iterdir():
            if sharding.is_weights(each.name) and each.name not in kept:
                each.unlink()

    def _write(self, name: str, content: bytes) -> None:
        """Write a file, which appears when it is complete."""
        part = self.path / f"{name}.part"
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)
