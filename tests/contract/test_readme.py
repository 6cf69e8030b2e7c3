"""README.md: its commands and its Python code, run in order, print the output shown."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

PAGE = (Path(__file__).parents[2] / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"

CONSOLE = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader works through the page."""
    return tmp_path_factory.mktemp("reader")


def run(console: str, directory: Path, server: str) -> str:
    """Run the commands of a block, as a user would type them; return their output."""
    lines, here = [], ""
    for line in console.splitlines():  # output of a command is not a command
        if line.startswith("$ "):
            lines.append(line.removeprefix("$ "))
            here = "END" if "<<'END'" in line else ""
        elif here:
            lines.append(line)
            here = "" if line == here else here
    commands = "\n".join(lines).replace(ADDRESS, server)
    commands = re.sub(r"^weightwell ", f"'{sys.executable}' -m weightwell ", commands, flags=re.MULTILINE)
    environment = {**os.environ, "WEIGHTWELL_URL": server, "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def printed(console: str) -> str:
    """Return the output that a block shows for its commands."""
    without_input = re.sub(r"^\$ [^\n]*<<'END'\n.*?^END\n", "", console, flags=re.MULTILINE | re.DOTALL)
    return "".join(line for line in without_input.splitlines(keepends=True) if not line.startswith("$ "))


@pytest.mark.parametrize("number", range(len(CONSOLE)))
def test_the_commands_print_the_output_shown(number: int, directory: Path, server: str) -> None:
    wanted, got = printed(CONSOLE[number]), run(CONSOLE[number], directory, server)
    assert doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), got


def test_the_python_of_the_page_prints_the_output_shown(
    directory: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    examples = doctest.DocTestParser().get_doctest(PAGE.replace(ADDRESS, server), {}, "README.md", "README.md", 0)
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=report.append, clear_globs=False)
    for client in ("client", "remote"):
        examples.globs[client].close()
    assert result.attempted > 8
    assert not result.failed, "".join(report)


def test_a_manifest_s_file_has_its_tensors_and_their_ties(directory: Path, server: str) -> None:
    run(CONSOLE[-1], directory, server)
    with safe_open(directory / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["fc.bias", "fc.weight", "wte.weight"]
        assert file.metadata()["lm_head.weight"] == "wte.weight"
