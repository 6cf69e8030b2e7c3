"""Packaging: the pins, the wheel, the image, the Makefile, and the pages about them."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distribution
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import pytest
import trustme
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.clients.environments import Client, all_clients
from weightwell_service.settings import Settings

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
BAKE = (ROOT / "docker-bake.hcl").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


# Pins


def declared() -> list[Requirement]:
    """Every requirement in pyproject.toml, but for the project's own extras."""
    project = PYPROJECT["project"]
    lists = [
        PYPROJECT["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *PYPROJECT["dependency-groups"].values(),
    ]
    found = [Requirement(entry) for entries in lists for entry in entries if isinstance(entry, str)]
    return [each for each in found if each.name != project["name"]]


def brought(requirement: Requirement) -> list[Requirement]:
    """What a requirement brings along on this machine."""
    needs = [Requirement(text) for text in distribution(requirement.name).requires or ()]
    extras = requirement.extras or {""}
    return [need for need in needs if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras)]


def closure(requirements: list[Requirement]) -> set[str]:
    """The names of requirements and of all that they bring along, directly or not."""
    seen: set[str] = set()
    todo = list(requirements)
    while todo:
        if (requirement := todo.pop()) and str(requirement) not in seen:
            seen.add(str(requirement))
            todo += brought(requirement)
    return {canonicalize_name(Requirement(text).name) for text in seen}


def pinned() -> list[str]:
    return [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


PINS = {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in pinned()}


@pytest.mark.parametrize("line", pinned())
def test_a_pin_is_one_exact_version_and_leaves_the_build_of_torch_to_the_index(line: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)


def test_nothing_is_pinned_twice() -> None:
    assert len(pinned()) == len(PINS)


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_every_declared_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_what_the_dependencies_bring_along_is_pinned_too() -> None:
    assert closure(declared()) - PINS.keys() == set()


# The wheel


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    ZipFile(wheel).extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_the_packages_and_nothing_else(unpacked: Path) -> None:
    roots = [ROOT / "client", ROOT / "service"]
    # JSON: the repositories that come with the service. The others: its page.
    kinds = {".py", ".typed", ".json", ".html", ".css", ".js", ".svg", ".txt"}
    source = {path.relative_to(root) for root in roots for path in root.rglob("*") if path.suffix in kinds}
    source |= {Path("weightwell_service/guide") / path.name for path in (ROOT / "docs").iterdir()}
    shipped = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    assert {path for path in shipped if not path.parts[0].endswith(".dist-info")} == source


ENTRIES = [*PYPROJECT["project"]["scripts"].values(), *PYPROJECT["project"]["entry-points"]["pytest11"].values()]


@pytest.mark.parametrize("module", [path.partition(":")[0] for path in ENTRIES])
def test_the_entry_points_of_the_wheel_import_without_the_source(unpacked: Path, module: str) -> None:
    imported = subprocess.run(
        [sys.executable, "-P", "-c", f"import {module} as module; print(module.__file__)"],
        cwd=unpacked.parent,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(imported.stdout.strip()).is_relative_to(unpacked)


def test_the_wheel_and_the_image_have_the_page_and_the_guide(unpacked: Path) -> None:
    program = """
from weightwell_service import guide, page
assert guide._folder().name == "guide" and page._files()["index.html"] and guide._pages()["http"]
print(guide._folder())
"""
    command, environment = [sys.executable, "-P", "-c", program], os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(command, cwd=unpacked.parent, env=environment, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()).is_relative_to(unpacked)
    assert {"!service", "!docs"} <= set((ROOT / ".dockerignore").read_text().splitlines())


# The image


def health_check() -> list[str]:
    """The command of the HEALTHCHECK, for this Python."""
    match = re.search(r"^HEALTHCHECK .*? CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert match
    program, *arguments = json.loads(match[1])
    assert program == "python"
    return [sys.executable, *arguments]


def checked(port: int, **settings: str) -> int:
    """Run the health check against a port; a proxy that is not there must not matter."""
    image = {"WEIGHTWELL_HOST": "0.0.0.0", "WEIGHTWELL_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}  # noqa: S104
    environment = os.environ | image | settings
    return subprocess.run(health_check(), env=environment, check=False, capture_output=True).returncode


@contextmanager
def answering(status: int, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve /health/ready with a status, over TLS if there is a context; yields the port."""

    class Readiness(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Readiness) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (401, 0), (503, 1)])
def test_the_health_check_passes_if_and_only_if_the_service_is_ready(status: int, code: int) -> None:
    with answering(status) as port:
        assert checked(port) == code


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_speaks_tls_if_the_service_does(status: int, code: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("weights.example").configure_cert(context)
    with answering(status, context) as port:
        assert checked(port, WEIGHTWELL_TLS_CERTIFICATE="/tls/chain.pem") == code


def test_the_health_check_asks_the_address_that_the_service_listens_on() -> None:
    with answering(200) as port:
        assert checked(port, WEIGHTWELL_HOST="127.0.0.1") == 0
        assert checked(port, WEIGHTWELL_HOST="127.0.0.2") == 1


def test_the_health_check_fails_when_nobody_listens() -> None:
    with answering(200) as port:
        pass
    assert checked(port) == 1


def test_the_image_has_a_python_that_the_project_supports() -> None:
    versions = set(re.findall(r"^FROM python:([0-9.]+)-slim", DOCKERFILE, re.MULTILINE))
    (version,) = versions
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(version)
    assert DOCKERFILE.count("\nFROM ") == 2


def test_the_image_runs_as_a_numbered_user_who_is_not_root() -> None:
    *_, user = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_image_has_a_description() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', DOCKERFILE))
    assert labels["description"] == PYPROJECT["project"]["description"]
    assert labels["licenses"] == PYPROJECT["project"]["license"]
    assert labels["version"] == "$VERSION"
    assert f"\nARG VERSION={PYPROJECT['project']['version']}\n" in DOCKERFILE
    assert f'variable "VERSION" {{ default = "{PYPROJECT["project"]["version"]}" }}' in BAKE


def test_the_images_for_several_platforms_set_arguments_that_exist() -> None:
    named = {name for group in re.findall(r"args = \{(.*?)\}", BAKE) for name in re.findall(r"(\w+) =", group)}
    assert named == {"VERSION", "REVISION", "EXTRAS", "TORCH_INDEX"}
    assert named <= set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE))
    (extras,) = re.findall(r'EXTRAS = "(.*?)"', BAKE)
    assert set(extras.split(",")) <= PYPROJECT["project"]["optional-dependencies"].keys()


# The documents


def test_the_table_of_settings_is_the_settings() -> None:
    table = re.findall(r"^\| `WEIGHTWELL_.*$", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE)
    defaults = {
        name: "the number of CPUs" if field.default_factory else f"`{field.default}`"
        for name, field in Settings.model_fields.items()
    }
    assert table == [
        f"| `WEIGHTWELL_{name.upper()}` | {defaults[name]} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


@pytest.mark.parametrize(
    "path", [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *PAGES], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_variable_that_is_named_exists(path: Path) -> None:
    variable = re.compile(r"\bWEIGHTWELL_[A-Z_]*[A-Z]\b")
    client = {name for source in (ROOT / "client").rglob("*.py") for name in variable.findall(source.read_text())}
    service = {f"WEIGHTWELL_{name.upper()}" for name in Settings.model_fields}
    assert set(variable.findall(path.read_text())) <= client | service


@pytest.mark.parametrize("client", all_clients(), ids=lambda client: client.name)
def test_the_pages_name_every_client_that_is_tested_with_its_version(client: Client) -> None:
    rows = [row for page in PAGES for row in page.read_text().splitlines() if "`make test-clients`" in row]
    version = client.version.partition("+")[0]
    assert any(client.package in row and version in row for row in rows)
    assert client.program.is_file()


def test_nginx_takes_the_block_of_the_deployment_page(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    (block,) = re.findall(r"^```nginx\n(.*?)^```", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE | re.DOTALL)
    paths = "".join(f"{kind}_temp_path {tmp_path};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in block  # clients send this header as they like
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {paths} {block} }}"
    )
    command = [nginx, "-t", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_haproxy_takes_the_block_of_the_scaling_page(tmp_path: Path) -> None:
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    (block,) = re.findall(
        r"^```text\n(global\n.*?)^```", (ROOT / "docs/scaling.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "haproxy.cfg").write_text(block)
    done = subprocess.run([haproxy, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr.upper()


def test_make_help_names_every_target() -> None:
    (targets,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    told = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert [line.split()[1] for line in told.splitlines()] == targets.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_command_that_a_page_names_exists(page: Path) -> None:
    (targets,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(re.findall(r"(?:`|^ {4}|^\$ )make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= set(targets.split())
