"""The service on a real socket, for every test that speaks HTTP."""

import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
import httpx
import hypothesis
import pytest

# What serves is imported where it serves: tests of a GPU are run where the generators' packages are, but perhaps not
# the service's (docs/cuda.md).
if TYPE_CHECKING:
    from fastapi import FastAPI

# Seconds after which a test fails if an expected event has not happened. No passing test takes this long.
PATIENCE = 30.0

# Files, and folders, whose tests take most of the suite's time, those that take the longest first.
SLOW = (
    "engine/generators/philox/cuda/test_machine_code.py",
    "page/test_browser.py",
    "engine/generators/philox/cpu/test_machine_code.py",
    "engine/generators/philox/cuda/",
    "contract/test_torch.py",
    "contract/test_torchrun.py",
    "contract/test_notebooks.py",
    "client/test_pools.py",
    "contract/test_openapi.py",
    "service/test_pytest_plugin.py",
    "contract/test_recorded_models.py",
    "client/test_interruptions.py",
    "contract/test_hub.py",
    "service/test_workers.py",
    "engine/generators/philox/cpu/test_simd.py",
    "engine/test_quadrature.py",
    "service/test_main.py",
    "client/torch/",
    "contract/test_javascript.py",
    "contract/test_models.py",
    "contract/test_shards_example.py",
    "contract/test_problems.py",
    "engine/generators/philox/cpu/test_orthogonal_stack.py",
    "second_implementation/",
    "contract/test_virtual_file.py",
    "service/test_server.py",
    "contract/test_manifests.py",
    "page/",
    "client/test_docs.py",
    "client/test_cautions.py",
    "client/recorder/test_sharded.py",
    "client/propagation/",
    "contract/test_presets.py",
    "contract/test_s3.py",
    "contract/test_sharding.py",
    "contract/test_streaming.py",
    "service/test_packaging.py",
    "client/test_tracebacks.py",
    "contract/test_readme.py",
    "client/models/test_names.py",
    "contract/test_http_page.py",
    "client/test_bad_servers.py",
    "contract/test_presets_page.py",
)

# Compiles every "parts"-th kernel from number "part" on, or finds its machine code on disk.
COMPILE = """
import sys
from numba import typeof
from weightwell_engine.generators.philox.cpu.precompile import versions

part, parts = map(int, sys.argv[1:])
kernels = {(kernel, tuple(map(typeof, arguments))): None for kernel, arguments in versions()}
for kernel, types in list(kernels)[part::parts]:
    kernel.compile(types)
"""

# Folders that are tested only if pytest is told to: `make test-cuda`, `make test-clients`.
APART = [Path(__file__).parent / name for name in ("cuda", "clients")]

Serve = Callable[["FastAPI"], AbstractContextManager[str]]

# The time of a request is no property of it, on a machine that others use as well.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=40)
hypothesis.settings.register_profile("exhaustive", deadline=None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the folders that are tested apart, unless pytest was called with them, and in test-fast the slow files."""
    if config.option.markexpr == "not slow" and _place(collection_path) < len(SLOW):
        return True
    told = [Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args]
    apart = next((folder for folder in APART if folder in (collection_path, *collection_path.parents)), None)
    return None if apart is None or any(apart in (path, *path.parents) for path in told) else True


def _place(path: Path) -> int:
    """Return the place of a file among the slow ones; their number if it is not one of them."""
    file = path.relative_to(Path(__file__).parent).as_posix()
    return next((place for place, slow in enumerate(SLOW) if file.startswith(slow)), len(SLOW))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of ``make test-all`` and ``make test-page``."""
    parser.addoption("--exhaustive", action="store_true", help="run every case, not only a part of those of one kind")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples of a property are tried. They are others in each run."""
    hypothesis.settings.load_profile("exhaustive" if config.getoption("--exhaustive") else "suite")


@pytest.fixture(scope="session")
def exhaustive(pytestconfig: pytest.Config) -> bool:
    """Whether a test goes through all cases, and not only a part of those that take the same way through the code."""
    return bool(pytestconfig.getoption("--exhaustive"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the exhaustive cases, mark the slow tests, and run them first."""
    if not config.getoption("--exhaustive"):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    places = {path: _place(path) for path in {item.path for item in items}}
    for item in items:
        if places[item.path] < len(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: places[item.path])


def pytest_collection() -> None:
    """Collect no garbage while ten thousand tests are made and kept."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)  # xdist starts its workers later in this hook
def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the kernels that are not on disk, each once, before the workers of xdist start.

    All workers need the same ones at the same time, so each would compile all of them: half a minute of CPU time.
    """
    if hasattr(session.config, "workerinput") or not getattr(session.config.option, "numprocesses", 0):
        return
    parts = min(os.cpu_count() or 1, 4)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    commands = [[sys.executable, "-c", COMPILE, str(part), str(parts)] for part in range(parts)]
    # What fails to compile fails in the tests as well.
    for process in [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for command in commands]:
        process.wait()


def pytest_collection_finish() -> None:
    """Let the garbage collector ignore what is there before the first test.

    To look through it takes 0.4 s, and every service that starts does so.
    """
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one certificate authority, here and in the processes that tests start.

    A client of httpx reads all authorities when it is made, even for http://. This takes 0.2 s, longer than most tests.
    """
    end = "-----END CERTIFICATE-----\n"
    certificate, *_ = Path(certifi.where()).read_text().partition(end)
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    path.write_text(certificate + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        patch.setattr(certifi, "where", lambda: str(path))  # what is read with trust_env=False
        yield


@contextmanager
def _serve(app: "FastAPI") -> Iterator[str]:
    """Serve an application from a thread for as long as the context lasts; yield its base URL.

    The socket listens before the server runs, so a request that comes too early waits in the kernel's queue. It would
    wait too long for kernels to be compiled, as they are once on every machine; so that is done before.
    """
    from weightwell_engine.generators.philox.cpu.checked import warm_up
    from weightwell_service.server import make_server

    warm_up()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        settings = app.state.service.settings
        server = make_server(app, settings, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn")
        thread.start()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            thread.join()
            gc.freeze()  # as before: the service has undone it


@pytest.fixture(scope="session")
def serve() -> Serve:
    """How to serve an application other than the usual one: ``with serve(create_app(Settings(...))) as url:``."""
    return _serve


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The base URL of a service with two threads, and otherwise with the settings that a deployment starts from."""
    from weightwell_service.app import create_app
    from weightwell_service.settings import Settings

    with _serve(create_app(Settings(threads=2))) as url:
        yield url


@pytest.fixture(scope="session", params=["http", "local"])
def door(request: pytest.FixtureRequest) -> str:
    """The address of each door in turn: of a server, and of the engine in this process."""
    url: str = request.getfixturevalue("server") if request.param == "http" else "local:cpu?threads=2"
    return url


@pytest.fixture(scope="session")
def http(server: str) -> Iterator[httpx.Client]:
    """A client of the service that knows nothing of weightwell."""
    with httpx.Client(base_url=server, timeout=PATIENCE, trust_env=False) as client:
        yield client
