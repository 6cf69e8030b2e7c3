"""The repositories of a deployment: those of a folder, and tiny ones that come with the service."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from weightwell_engine.exceptions import WeightwellError
from weightwell_service.repositories.repository import CONFIG, MANIFEST, Repository

BUILT_IN = Path(__file__).parent / "built_in"

# Names as the Hub allows them: https://huggingface.co/docs/huggingface_hub/package_reference/utilities
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}", re.ASCII)

# The largest small file in bytes, and all of one repository: they are kept in memory.
_MOST_FILE, _MOST_FILES = 2**26, 2**28

# The first parts of paths that are not owners' names.
_RESERVED = {"api", "s3"}


class InvalidRepository(WeightwellError, ValueError):
    """A file of a repository cannot be used; the message has its path."""


def library(folder: Path | None, max_shard: int) -> dict[str, Repository]:
    """Return all repositories by name: those that come with the service, and those of a folder.

    Raises ``InvalidRepository`` with the path of the first file that cannot be used.
    """
    found = {each.name: each for each in _repositories(BUILT_IN, max_shard)}
    if folder is not None:
        if not folder.is_dir():
            raise InvalidRepository(f"WEIGHTWELL_REPOSITORIES must be a folder of owner/name folders, got {folder}")
        found |= {each.name: each for each in _repositories(folder, max_shard)}
    return found


def is_name(name: str) -> bool:
    """Whether a name, ``owner/name``, can be one of a repository."""
    owner, slash, rest = name.partition("/")
    return bool(slash) and owner not in _RESERVED and all(_PART.fullmatch(part) for part in (owner, rest))


def _repositories(folder: Path, max_shard: int) -> Iterator[Repository]:
    for owner in _folders(folder):
        if owner.name in _RESERVED:
            raise InvalidRepository(f"{owner}: {owner.name!r} is a path of the server, so no owner has it: rename it")
        for place in _folders(owner):
            yield _read(place, f"{owner.name}/{place.name}", max_shard)


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder whose names are not hidden."""
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith("."):
            if not _PART.fullmatch(each.name):
                raise InvalidRepository(
                    f"{each}: the names of owners and repositories have letters, digits, '-', '_' and '.', at most 96"
                )
            yield each


def _read(place: Path, name: str, max_shard: int) -> Repository:
    files: dict[str, bytes] = {}
    for path in sorted(place.rglob("*")):
        relative = path.relative_to(place)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            if path.suffix in {".safetensors", ".bin", ".pt"}:
                raise InvalidRepository(f"{path}: weights are drawn, so a repository has no weight files: remove it")
            if (size := path.stat().st_size) > _MOST_FILE:
                raise InvalidRepository(f"{path}: a small file has at most {_MOST_FILE} bytes, got {size}")
            files[relative.as_posix()] = path.read_bytes()
    if (size := sum(map(len, files.values()))) > _MOST_FILES:
        raise InvalidRepository(
            f"{place}: the small files of a repository have at most {_MOST_FILES} bytes, got {size}"
        )
    try:
        return Repository(name, files, _manifest(place, files), max_shard)
    except (ValueError, TypeError, KeyError, WeightwellError) as error:
        text = str(error)
        raise InvalidRepository(text if isinstance(error, InvalidRepository) else f"{place}: {text}") from error


def _manifest(place: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the manifest of a repository; raise ``InvalidRepository`` or ValueError."""
    if MANIFEST not in files:
        raise InvalidRepository(f"{place / MANIFEST}: there is none; `weightwell export` writes one")
    found = {name: json.loads(files[name]) for name in (MANIFEST, CONFIG) if name in files}
    for name, document in found.items():
        if not isinstance(document, dict):
            raise InvalidRepository(f"{place / name}: expected a JSON object, got a {type(document).__name__}")
    manifest: dict[str, Any] = found[MANIFEST]
    if not isinstance(manifest.get("tensors"), dict) or not manifest["tensors"]:
        raise InvalidRepository(f"{place / MANIFEST}: expected tensors by name")
    return manifest
