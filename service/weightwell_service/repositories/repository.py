"""One repository: small files, and weights that a manifest describes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

from weightwell_engine.dtypes import DTYPES, FLOATS
from weightwell_engine.parsing import read_fields
from weightwell_engine.spec import Spec, TensorSpec
from weightwell_service.repositories import sharding
from weightwell_service.repositories.revision import DIGEST, Revision

MANIFEST = "manifest.json"
CONFIG = "config.json"

# Checkpoints of one repository whose division into files is kept.
_KEPT = 64


@dataclass(frozen=True)
class Weights:
    """A weight file: the name of the file, and its tensors."""

    name: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Draft:
    """The spec of a weight file, not parsed yet. ``read`` parses it; the time grows with the number of ``tensors``."""

    tensors: int
    read: Callable[[], Spec]


@dataclass(frozen=True)
class Checkpoint:
    """The files of a repository at a revision: ``small`` ones by name, and the files of the weights, by name."""

    small: Mapping[str, bytes]
    weights: Mapping[str, Weights]


@dataclass(frozen=True, eq=False)
class Repository:
    """A model. ``name`` is ``owner/name``; ``files`` are its small files, and ``manifest`` describes its tensors.

    ``max_shard`` is the largest weight file in bytes, beyond which there are several. Raises ``InvalidSpec`` and the
    other errors of the engine for a manifest that cannot be read.
    """

    name: str
    files: Mapping[str, bytes]
    manifest: Mapping[str, Any]
    max_shard: int
    _checkpoints: dict[Revision, Checkpoint] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.checkpoint(Revision())

    @cached_property
    def digest(self) -> str:
        """The digest of all files and of the limit of weight files."""
        sha = hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode())
        for name, content in sorted(self.files.items()):
            sha.update(json.dumps([name, len(content)]).encode() + content)
        sha.update(str(self.max_shard).encode())
        return sha.hexdigest()[:DIGEST]

    def revision(self, name: str) -> Revision | None:
        """Return the revision of a name or a commit; None if there is none."""
        return Revision.of(name, self.digest)

    def commit(self, revision: Revision) -> str:
        """Return the commit of a revision."""
        return revision.commit(self.digest)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration of transformers; empty if there is none."""
        config: Mapping[str, Any] = json.loads(self.files.get(CONFIG, b"{}"))
        return config

    @property
    def described(self) -> Mapping[str, Any]:
        """Fields of the Hub's description of a model that its files do not say."""
        return {}

    def paths(self, revision: Revision) -> list[str]:
        """Return the paths of all files, in order."""
        checkpoint = self.checkpoint(revision)
        return sorted([*checkpoint.small, *checkpoint.weights])

    def missing(self, path: str) -> str | None:
        """Return None: a repository of a folder has all of its files."""
        del path
        return None

    async def fetch(self, paths: Iterable[str], revision: Revision) -> None:
        """Read what files are made of: it is in memory."""

    async def content(self, path: str, revision: Revision) -> bytes | None:
        """Return the content of a small file at a revision; None if there is no such file."""
        return self.checkpoint(revision).small.get(path)

    async def draft(self, path: str, revision: Revision) -> Draft | None:
        """Return how a weight file is drawn; None if there is no such file."""
        weights = self.checkpoint(revision).weights.get(path)
        if weights is None:
            return None
        return Draft(len(self.manifest["tensors"]), lambda: self.spec(weights, revision))

    def checkpoint(self, revision: Revision) -> Checkpoint:
        """Return the files at a revision."""
        found = self._checkpoints.get(revision)
        if found is None:
            found = self._made(revision)
            while len(self._checkpoints) >= _KEPT:
                self._checkpoints.pop(next(iter(self._checkpoints)), None)
            self._checkpoints[revision] = found
        return found

    def spec(self, weights: Weights, revision: Revision) -> Spec:
        """Return the spec of a weight file at a revision.

        The whole manifest is read, because the law of a tensor may depend on others: that of a bias on the shape of its
        weight, which may be in another file.
        """
        spec = read_fields(self.document(revision))
        if weights.name == sharding.SINGLE:
            return spec
        kept = set(weights.tensors)
        # Tied names are metadata of a single file, and left out of several.
        return replace(spec, tensors=tuple(each for each in spec.tensors if each.name in kept), aliases=())

    def document(self, revision: Revision) -> dict[str, Any]:
        """Return the manifest at a revision."""
        document: dict[str, Any] = {**self.manifest, "seed": revision.seed}
        if revision.dtype is None:
            return document
        document["dtype"] = revision.dtype
        document["tensors"] = {name: _of_default_dtype(fields) for name, fields in document["tensors"].items()}
        if "rules" in document:
            document["rules"] = [_of_default_dtype(rule) for rule in document["rules"]]
        return document

    def _made(self, revision: Revision) -> Checkpoint:
        sizes = [(tensor.name, _nbytes(tensor)) for tensor in read_fields(self.document(revision)).tensors]
        divided = sharding.divided(sizes, self.max_shard)
        named = list(zip(sharding.file_names(len(divided)), divided, strict=True))
        small = dict(self.files)
        if CONFIG in small:
            small[CONFIG] = with_dtype(small[CONFIG], revision.dtype or str(self.manifest.get("dtype", "float32")))
        if len(named) > 1:
            small[sharding.INDEX] = sharding.index(named, sum(nbytes for _, nbytes in sizes))
        return Checkpoint(small, {name: Weights(name, tuple(tensors)) for name, tensors in named})


@lru_cache(256)
def with_dtype(content: bytes, dtype: str) -> bytes:
    """Return a configuration of transformers that says the dtype of the weights."""
    config = json.loads(content)
    config["dtype"] = dtype
    if "torch_dtype" in config:  # of transformers before version 5
        config["torch_dtype"] = dtype
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _of_default_dtype(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a tensor or a rule without a floating-point dtype of its own."""
    return {key: value for key, value in fields.items() if key != "dtype" or value not in FLOATS}


def _nbytes(tensor: TensorSpec) -> int:
    sizes = tensor.shape if tensor.slice is None else [stop - start for start, stop in tensor.slice]
    dtype = DTYPES[tensor.dtype]
    return prod(sizes) * dtype.itemsize // dtype.packed
