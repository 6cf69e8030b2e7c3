"""Redirection: the Hub's clients load from another address, and keep what they load in another folder.

They read the environment when they are imported. So huggingface_hub is imported first, and changed in its modules, as
is transformers if it has been imported. The names are those of huggingface_hub 0.16 to 2.4 and of transformers 4 and 5.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest

# Variables of the environment that would send requests elsewhere, forbid them, or put files elsewhere.
UNSET = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HUGGINGFACE_CO_STAGING",
    "HUGGINGFACE_HUB_CACHE",
    "HUGGINGFACE_ASSETS_CACHE",
    "HF_ASSETS_CACHE",
    "HF_TOKEN_PATH",
    "HF_MODULES_CACHE",
    "HF_XET_CACHE",
    "TRANSFORMERS_CACHE",
    "PYTORCH_TRANSFORMERS_CACHE",
    "PYTORCH_PRETRAINED_BERT_CACHE",
)

_HUB = "huggingface_hub"
_FILES = "/{repo_id}/resolve/{revision}/{filename}"


@contextmanager
def redirected(url: str, home: Path) -> Iterator[None]:
    """Let the Hub's clients load from a URL and use a folder as their home; restore everything at the end."""
    if find_spec(_HUB):
        importlib.import_module(f"{_HUB}.hf_api")
    before = _imported()
    try:
        with pytest.MonkeyPatch.context() as patch:
            _change_environment(patch, url, home)
            _change_modules(patch, url, home)
            _forget_sessions()
            yield
    finally:
        _forget_sessions()
        _restore([module for module in _imported() if module not in before], _constants(url, home))


def _change_environment(patch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    for name in UNSET:
        patch.delenv(name, raising=False)
    patch.setenv("HF_ENDPOINT", url)
    patch.setenv("HF_HOME", str(home))
    patch.setenv("HF_HUB_CACHE", str(home / "hub"))
    patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("no_proxy", "NO_PROXY"):
        patch.setenv(name, _host(url), prepend=",")


def _change_modules(patch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """Change the constants of imported modules, and the endpoint of the API object that the Hub's functions use."""
    constants = _constants(url, home)
    for module in _imported():
        held = vars(module)
        for name in constants.keys() & held.keys():
            patch.setattr(module, name, constants[name])
        if "HF_URL_HOSTS" in held:
            patch.setattr(module, "HF_URL_HOSTS", held["HF_URL_HOSTS"] | {_host(url)})
    api = getattr(sys.modules.get(f"{_HUB}.hf_api"), "api", None)
    if api is not None:
        patch.setattr(api, "endpoint", url)


def _restore(modules: list[ModuleType], constants: Mapping[str, Any]) -> None:
    """Take the constants from modules that have been imported in the meantime."""
    own = vars(sys.modules[f"{_HUB}.constants"]) if modules else {}
    for module in modules:
        originals = _constants(own["ENDPOINT"], Path(own["HF_HOME"])) | own
        originals["_is_offline_mode"] = own.get("HF_HUB_OFFLINE", False)
        for name in constants.keys() & vars(module).keys():
            if vars(module)[name] == constants[name]:
                setattr(module, name, originals[name])


def _constants(url: str, home: Path) -> dict[str, Any]:
    """Return the constants of the Hub's clients, by name."""
    cache = str(home / "hub")
    caches = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "default_cache_path")
    old = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE")
    return {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + _FILES,
        "HUGGINGFACE_CO_RESOLVE_ENDPOINT": url,
        "HUGGINGFACE_CO_PREFIX": url + _FILES.replace("repo_id", "model_id"),
        "HF_HOME": str(home),
        **dict.fromkeys((*caches, *old), cache),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HUGGINGFACE_ASSETS_CACHE": str(home / "assets"),
        "HF_MODULES_CACHE": str(home / "modules"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_HUB_OFFLINE": False,
        "_is_offline_mode": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }


def _imported() -> list[ModuleType]:
    """Return the imported modules that may hold the constants."""
    named = list(sys.modules.items())
    return [module for name, module in named if name.split(".")[0] == _HUB or name == "transformers.utils.hub"]


def _forget_sessions() -> None:
    """Close connections, which keep the proxies of the environment, and file systems, which keep the endpoint."""
    http = sys.modules.get(f"{_HUB}.utils._http")
    for name in ("close_session", "reset_sessions"):  # of version 1, and before
        if hasattr(http, name):
            getattr(http, name)()
    if files := sys.modules.get(f"{_HUB}.hf_file_system"):
        files.HfFileSystem.clear_instance_cache()


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
