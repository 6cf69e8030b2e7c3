"""A plugin of pytest: tiny random models for tests of programs that load from the Hugging Face Hub, without a network.

serving         the hub, in a thread of the test process
redirection     the environment and the modules of the Hub's clients

pytest imports this module in every test suite of an environment, so it imports nothing but pytest. It is a package of
its own because the package of the service needs the ``service`` extra, and that of the client takes longer to import.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER, SCOPE = "weightwell_repositories", "weightwell_scope"
SCOPES = ("function", "class", "module", "package", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the configuration file."""
    parser.addini(FOLDER, "folder of owner/name repositories that weightwell_hub serves, relative to this file")
    parser.addini(SCOPE, f"scope of the fixture hf_endpoint: {', '.join(SCOPES)}", default="function")


def pytest_configure(config: pytest.Config) -> None:
    """Check the options; raise UsageError."""
    if (scope := config.getini(SCOPE)) not in SCOPES:
        raise pytest.UsageError(f"{SCOPE} must be one of {', '.join(SCOPES)}; got {scope!r}")


def _scope(fixture_name: str, config: pytest.Config) -> Any:  # noqa: ARG001 - pytest's interface
    return config.getini(SCOPE)


@pytest.fixture(scope="session")
def weightwell_hub(pytestconfig: pytest.Config) -> Iterator[str]:
    """Serve repositories from a thread of this process; return the URL.

    The repositories are those that come with the service, such as ``tiny/gpt2``, and those of the folder that the
    option ``weightwell_repositories`` names. A revision is a seed: ``main``, ``seed-42``, ``seed-42-bfloat16``.
    """
    from pytest_weightwell.serving import serving

    with serving(_folder(pytestconfig)) as url:
        yield url


@pytest.fixture(scope="session")
def _weightwell_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("huggingface")


@pytest.fixture(scope=_scope)
def hf_endpoint(weightwell_hub: str, _weightwell_home: Path) -> Iterator[str]:
    """Let the Hub's clients load from ``weightwell_hub``, with an empty cache; return the URL.

    ``HF_ENDPOINT``, ``HF_HOME`` and the caches are set in the environment, and in ``huggingface_hub`` and
    ``transformers`` if they have been imported. Tokens and offline modes are off. All of it is restored at the end. The
    cache belongs to the session, so each file is loaded once.
    """
    from pytest_weightwell.redirection import redirected

    with redirected(weightwell_hub, _weightwell_home):
        yield weightwell_hub


def _folder(config: pytest.Config) -> Path | None:
    """Return the folder of the option, if there is one."""
    if not (said := config.getini(FOLDER)):
        return None
    base = config.rootpath if config.inipath is None else config.inipath.parent
    folder: Path = base / said
    if not folder.is_dir():
        raise pytest.UsageError(f"{FOLDER} must be a folder of owner/name folders, got {folder}")
    return folder
