"""Environments: the pinned clients of pins.toml, each installed in a folder of its own, once.

The folders are in .venv/clients, which `make clean` removes. A folder is made again when its pins change.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv" / "clients"

# Seconds after which an installation, or a program of a client, is given up.
_PATIENCE = 300

# Variables of this machine that would change what a client does begin so.
_OWN = ("AWS_", "HF_", "RCLONE_", "npm_")

# Written when an environment is complete.
_COMPLETE = "complete"


class NotInstalled(Exception):
    """An environment cannot be made; the message says why."""


@dataclass(frozen=True)
class Client:
    """A pinned client. ``pins`` is its table in pins.toml."""

    name: str
    pins: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """How it is installed: ``pip``, ``npm`` or ``apt``."""
        return next(kind for kind in ("pip", "npm", "apt") if kind in self.pins)

    @property
    def package(self) -> str:
        """The name of its package."""
        return self._first[0]

    @property
    def version(self) -> str:
        """Its version."""
        return self._first[1]

    @property
    def program(self) -> Path:
        """The program that uses it."""
        return ROOT / str(self.pins["program"])

    @property
    def folder(self) -> Path:
        """The folder of its environment."""
        made_of = json.dumps([dict(self.pins), sys.version, sysconfig.get_path("purelib")])
        return ENVIRONMENTS / f"{self.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.folder / "bin" / "python"

    @property
    def _first(self) -> tuple[str, str]:
        sign = {"pip": "==", "npm": "@", "apt": "="}[self.kind]
        name, _, version = str(self.pins[self.kind][0]).rpartition(sign)
        return name, version

    def install(self) -> None:
        """Make the environment, if it is not there. Raises ``NotInstalled``."""
        folder = self.folder
        if (folder / _COMPLETE).exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        {"pip": self._pip, "npm": self._npm, "apt": self._apt}[self.kind]()
        (folder / _COMPLETE).touch()

    def run(self, *arguments: str, settings: Mapping[str, str]) -> Any:
        """Run the program with these settings of the environment; return the JSON of its last line."""
        others = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        environment = {**others, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", **settings}
        if self.kind == "npm":
            # Its imports are looked for from the working directory.
            command = ["node", "--input-type=module", "--eval", self.program.read_text(), *arguments]
        else:
            command = [str(self.python if self.kind == "pip" else sys.executable), str(self.program), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
        assert done.returncode == 0, f"{self.name}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    def _pip(self) -> None:
        venv.create(self.folder, with_pip=False)
        if self.pins.get("inherits"):
            [packages] = self.folder.glob("lib/*/site-packages")
            line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
            (packages / "inherited.pth").write_text(line)
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-deps"]
        _run([*pip, *self.pins["pip"]], self.folder)

    def _npm(self) -> None:
        _needed("npm")
        (self.folder / "package.json").write_text('{"private": true}')
        install = ["npm", "install", "--prefer-offline", "--ignore-scripts", "--omit=optional", "--no-audit"]
        _run([*install, "--no-fund", *self.pins["npm"]], self.folder)

    def _apt(self) -> None:
        _needed("apt-get")
        _run(["apt-get", "download", "--quiet", *self.pins["apt"]], self.folder)
        for package in self.folder.glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(package), str(self.folder)], self.folder)
            package.unlink()
        (self.folder / "bin").symlink_to(self.folder / "usr" / "bin")


def clients(program: str) -> list[Client]:
    """Return the clients of pins.toml that a program uses."""
    return [each for each in all_clients() if each.program.name == program]


def all_clients() -> list[Client]:
    """Return all clients of pins.toml."""
    return [Client(name, pins) for name, pins in tomllib.loads((HERE / "pins.toml").read_text()).items()]


def _needed(command: str) -> None:
    if shutil.which(command) is None:
        raise NotInstalled(f"there is no {command} on this machine")


def _run(command: list[str], folder: Path) -> None:
    """Run a command of an installation; raise ``NotInstalled`` with the end of its output."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{' '.join(command[:4])} ... took longer than {_PATIENCE} s") from None
    if done.returncode != 0:
        raise NotInstalled(f"{' '.join(command[:4])} ...: {' '.join((done.stdout + done.stderr).split())[-500:]}")
