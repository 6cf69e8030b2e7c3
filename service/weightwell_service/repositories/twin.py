"""Twins: repositories of an upstream Hub, whose weights are drawn. No byte of the upstream's weights is read.

The small files of the upstream pass through: texts, configurations, tokenizers, code and pictures. Of its weight files
in the format of safetensors, the headers are read. Other weight files do not exist in a twin, so all its numbers are
drawn.

A twin is a repository at one commit of the upstream. The digest in its commits is computed from the upstream's commit,
so they change when the upstream changes. An older commit is found again in the upstream's list of commits.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.parsing import read_fields
from weightwell_engine.spec import Spec
from weightwell_service.repositories.failures import UpstreamError
from weightwell_service.repositories.headers import Stored, nbytes_of, read_header
from weightwell_service.repositories.library import is_name
from weightwell_service.repositories.repository import CONFIG, Draft, with_dtype
from weightwell_service.repositories.revision import DIGEST, Revision, digest_in
from weightwell_service.repositories.shared_cache import SharedCache
from weightwell_service.repositories.twin_laws import VERSION, Laws
from weightwell_service.repositories.upstream import LENGTH, Upstream

WEIGHTS = ".safetensors"
INDEX = ".safetensors.index.json"

# Seconds for which ``main`` is the upstream's commit that it was.
FRESH = 60.0

# The ends of names of small files. Others may be weights in a format that is not drawn, so a twin has none of them.
SMALL = {
    *("", ".bpe", ".cfg", ".csv", ".html", ".ini", ".jinja", ".jinja2", ".json", ".jsonl", ".md", ".model", ".py"),
    *(".rst", ".spm", ".tiktoken", ".toml", ".tsv", ".txt", ".v1", ".v2", ".v3", ".v7", ".vocab", ".xml", ".yaml"),
    *(".yml", ".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp", ".pdf"),
}

# The floating-point dtypes that the dtype of a revision replaces. Others are those of quantized weights.
_REPLACED = {"float32", "float16", "bfloat16"}

# Approximate bytes in memory of a tensor of a header, and of a file in a list.
_TENSOR, _FILE = 400, 300

_LONGEST_PATH = 1024

T = TypeVar("T")


@dataclass(frozen=True)
class Twins:
    """All twins of an upstream. ``max_file`` and ``max_header`` are the largest small file and header, in bytes.

    What is read is parsed in a thread, ``parser``, and kept in ``cache``.
    """

    upstream: Upstream
    cache: SharedCache
    max_file: int
    max_header: int
    parser: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="parse-upstream"))

    async def find(self, name: str, wanted: str) -> "Twin | None":
        """Return the twin that has the revision ``wanted``: of the upstream's main, or of the commit that ours has.

        None if no repository can have the name. Raises the errors of ``Upstream``.
        """
        if not is_name(name):
            return None
        digest = digest_in(wanted)
        if digest is None:
            return await self._at(name, "main", lifetime=FRESH)
        found: Twin = await self.cache.get(("digest", name, digest), lambda: self._search(name, digest))
        return found

    async def close(self) -> None:
        """Stop reading, and close all connections."""
        await self.cache.close()
        self.parser.shutdown(wait=False, cancel_futures=True)
        await self.upstream.close()

    async def _at(self, name: str, revision: str, *, lifetime: float = float("inf")) -> "Twin":
        async def load() -> tuple[Twin, int]:
            text = await self.upstream.description(name, revision)
            twin = await self.parsed(lambda: Twin.read(self, name, text))
            nbytes = _FILE * len(twin.files) + len(twin.config)
            self.cache.put(("digest", name, twin.digest), twin, nbytes)
            return twin, nbytes

        found: Twin = await self.cache.get(("at", name, revision), load, lifetime=lifetime)
        return found

    async def _search(self, name: str, digest: str) -> tuple["Twin", int]:
        """Return the twin whose digest is that of a commit, from the upstream's commits."""
        twin = await self._at(name, "main", lifetime=FRESH)
        if twin.digest != digest:
            history: Mapping[str, str] = await self.cache.get(
                ("history", name), lambda: self._history(name), lifetime=FRESH
            )
            if digest not in history:
                raise UpstreamError(
                    f"{name} has no such commit: it is of another version of the service, or of a commit that the "
                    "upstream Hub does not list",
                    status=404,
                    code="RevisionNotFound",
                )
            twin = await self._at(name, history[digest])
        return twin, _FILE * len(twin.files)

    async def _history(self, name: str) -> tuple[Mapping[str, str], int]:
        """Return the upstream's commits by their digests."""
        found: dict[str, str] = {}
        async for text in self.upstream.commits(name):
            commits = await self.parsed(lambda: _object(text, list, f"the commits of {name}"))  # noqa: B023
            ids = [each.get("id") for each in commits if isinstance(each, dict)]
            page = {digest_of(commit): commit for commit in ids if isinstance(commit, str)}
            if page.keys() <= found.keys():  # there are no more, or the upstream does not have pages
                break
            found |= page
        return found, _FILE * len(found)

    async def parsed(self, parse: Callable[[], T]) -> T:
        """Return what a function returns that parses a text. It runs in the thread for that."""
        return await asyncio.get_running_loop().run_in_executor(self.parser, parse)


@dataclass(frozen=True)
class Twin:
    """The twin of a repository at one commit of the upstream: a repository as ``Repository`` is.

    ``files`` are the sizes in bytes of the files that it has, None if the upstream does not say. ``config`` and
    ``described`` are fields of the upstream's description.
    """

    twins: Twins
    name: str
    upstream_commit: str
    files: Mapping[str, int | None]
    left_out: Mapping[str, str]
    config: Mapping[str, Any]
    described: Mapping[str, Any]

    @classmethod
    def read(cls, twins: Twins, name: str, text: bytes) -> "Twin":
        """Read the upstream's description of a repository; raise ``UpstreamError`` if it is none."""
        described = _object(text, dict, f"the description of {name}")
        commit, siblings = described.get("sha"), described.get("siblings")
        if not isinstance(commit, str) or not 7 <= len(commit) <= 64 or not isinstance(siblings, list):
            raise UpstreamError(f"the upstream Hub's description of {name} has no sha and siblings")
        files: dict[str, int | None] = {}
        left_out: dict[str, str] = {}
        for each in siblings:
            path = each.get("rfilename") if isinstance(each, dict) else None
            if not isinstance(path, str) or not _is_path(path):
                continue
            size = each.get("size") if type(each.get("size")) is int else None
            reason = _reason(path, size, twins.max_file)
            if reason is None:
                files[path] = size
            else:
                left_out[path] = reason
        config = described.get("config")
        shown = {key: described[key] for key in ("pipeline_tag", "library_name") if isinstance(described.get(key), str)}
        return cls(twins, name, commit, files, left_out, config if isinstance(config, dict) else {}, shown)

    # Revisions -------------------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """The digest of the upstream's commit."""
        return digest_of(self.upstream_commit)

    def revision(self, name: str) -> Revision | None:
        """Return the revision of a name or a commit; None if there is none."""
        return Revision.of(name, self.digest)

    def commit(self, revision: Revision) -> str:
        """Return the commit of a revision."""
        return revision.commit(self.digest)

    # Files -----------------------------------------------------------------------------------------------------------

    def paths(self, revision: Revision) -> list[str]:
        """Return the paths of all files, in order."""
        del revision
        return sorted(self.files)

    def missing(self, path: str) -> str | None:
        """Return the reason why a file of the upstream is not in the twin; None if the upstream has no such file."""
        return self.left_out.get(path)

    async def fetch(self, paths: Iterable[str], revision: Revision) -> None:
        """Read small files and headers of weight files into the cache, several at a time, before they are needed."""
        each = [self._header(path) if path.endswith(WEIGHTS) else self.content(path, revision) for path in paths]
        for done in await asyncio.gather(*each, return_exceptions=True):
            if isinstance(done, BaseException):
                raise done

    async def content(self, path: str, revision: Revision) -> bytes | None:
        """Return the content of a small file at a revision; None if there is no such file."""
        if path not in self.files or path.endswith(WEIGHTS):
            return None
        content = await self._passed(path)
        if revision.dtype is None:
            return content
        if path.endswith(INDEX):
            return await self._kept("index", path, revision.dtype, lambda: self._index(path, content, revision))
        return _with_dtype(path, content, revision.dtype) if PurePosixPath(path).name == CONFIG else content

    async def draft(self, path: str, revision: Revision) -> Draft | None:
        """Return how a weight file is drawn; None if there is no such file."""
        if path not in self.files or not path.endswith(WEIGHTS):
            return None
        tensors, config = await asyncio.gather(self._header(path), self._config())
        return Draft(len(tensors), lambda: self._spec(path, tensors, config, revision))

    def _spec(self, path: str, tensors: Sequence[Stored], config: Mapping[str, Any], revision: Revision) -> Spec:
        laws = Laws(tensors, config)
        folder = path.rpartition("/")[0]
        entries: dict[str, Any] = {}
        for each in tensors:
            dtype = _dtype(each, revision)
            entries[each.name] = {"shape": list(each.shape), "dtype": dtype, **laws.of(each)}
            if folder:  # the models of a pipeline have tensors of the same names
                entries[each.name]["stream"] = f"{folder}/{each.name}"
        return read_fields({"seed": revision.seed, "tensors": entries})

    async def _index(self, path: str, content: bytes, revision: Revision) -> bytes:
        """Return the index of several weight files with the bytes that they have at a revision."""
        index = await self.twins.parsed(lambda: _object(content, dict, f"{self.name}/{path}"))
        metadata, places = index.get("metadata"), index.get("weight_map")
        if not isinstance(metadata, dict) or "total_size" not in metadata or not isinstance(places, dict):
            return content
        folder = path.rpartition("/")[0]
        named = {f"{folder}/{place}" if folder else str(place) for place in places.values()}
        headers = await asyncio.gather(*(self._header(each) for each in sorted(named & self.files.keys())))
        sizes = [nbytes_of(DTYPES[_dtype(each, revision)], each.shape) for header in headers for each in header]
        document = {**index, "metadata": {**metadata, "total_size": sum(sizes)}}
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    async def _config(self) -> Mapping[str, Any]:
        """Return the configuration of transformers; empty if there is none that can be read."""
        content = await self._passed(CONFIG) if CONFIG in self.files else b"{}"
        try:
            config = json.loads(content)
        except (ValueError, RecursionError):
            return {}
        return config if isinstance(config, dict) else {}

    async def _passed(self, path: str) -> bytes:
        async def load() -> bytes:
            limit = self.twins.max_file
            return await self.twins.upstream.file(self.name, self.upstream_commit, path, limit=limit)

        return await self._kept("file", path, None, load)

    async def _header(self, path: str) -> tuple[Stored, ...]:
        async def load() -> tuple[tuple[Stored, ...], int]:
            size, limit = self.files[path], self.twins.max_header
            text = await self.twins.upstream.header(self.name, self.upstream_commit, path, size=size, limit=limit)
            data = None if size is None else size - LENGTH - len(text)
            tensors = await self.twins.parsed(lambda: read_header(text, f"{self.name}/{path}", data))
            return tensors, _TENSOR * len(tensors)

        found: tuple[Stored, ...] = await self.twins.cache.get(("header", self.name, self.upstream_commit, path), load)
        return found

    async def _kept(self, kind: str, path: str, dtype: str | None, load: Callable[[], Any]) -> bytes:
        async def sized() -> tuple[bytes, int]:
            content = await load()
            return content, len(content)

        found: bytes = await self.twins.cache.get((kind, self.name, self.upstream_commit, path, dtype), sized)
        return found


def digest_of(commit: str) -> str:
    """Return the digest of the twins of a commit of the upstream, as commits of ours have it."""
    return hashlib.sha256(json.dumps([VERSION, commit]).encode()).hexdigest()[:DIGEST]


def _dtype(tensor: Stored, revision: Revision) -> str:
    return revision.dtype if revision.dtype is not None and tensor.dtype.name in _REPLACED else tensor.dtype.name


def _with_dtype(path: str, content: bytes, dtype: str) -> bytes:
    """Return a configuration that says a dtype: that of the model, or another that says one already."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(config, dict) or (path != CONFIG and not {"dtype", "torch_dtype"} & config.keys()):
        return content
    return with_dtype(content, dtype)


def _is_path(path: str) -> bool:
    """Whether a path of the upstream can be one of a file here."""
    return 0 < len(path) <= _LONGEST_PATH and not any(part in {"", ".", ".."} for part in path.split("/"))


def _reason(path: str, size: int | None, max_file: int) -> str | None:
    """Return the reason why a twin does not have a file of the upstream, or None."""
    if path.endswith(WEIGHTS):
        return None
    if PurePosixPath(path).suffix.lower() not in SMALL:
        return "it may hold weights, and a twin has no weights but drawn ones, in files of safetensors"
    if size is not None and size > max_file:
        return f"it has {size} bytes, and small files have at most {max_file} (WEIGHTWELL_UPSTREAM_MAX_FILE_BYTES)"
    return None


def _object(text: bytes, kind: type[T], what: str) -> T:
    """Return a JSON document of the upstream that is an object or a list; raise ``UpstreamError``."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise UpstreamError(f"the upstream Hub sent {what}, which is not JSON") from None
    if not isinstance(found, kind):
        raise UpstreamError(f"the upstream Hub sent {what}, which is not a JSON {kind.__name__}")
    return found
