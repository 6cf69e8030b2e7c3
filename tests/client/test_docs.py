"""docs/client.md is true: its Python and its commands run against a real server, and print what it says."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
ADDRESS = "http://127.0.0.1:8000"  # the one that the page speaks of


@pytest.fixture(autouse=True)
def reader(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the page is in an empty directory, and has a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTWELL_URL", server)


def test_the_python_of_the_page_does_what_it_says(server: str) -> None:
    text = PAGE.read_text().replace(ADDRESS, server)
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    result = doctest.DocTestRunner().run(examples, out=report.append)
    examples.globs.clear()
    assert result.attempted > 10
    assert not result.failed, "".join(report)


def commands() -> list[tuple[str, str]]:
    """Every command of the page, with what it prints."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [pair for block in blocks for pair in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)]


@pytest.mark.parametrize(("command", "printed"), commands())
def test_a_command_of_the_page_prints_what_it_says(command: str, printed: str) -> None:
    line = re.sub(r"\bweightwell (?=init|gain|schemes)", f"'{sys.executable}' -m weightwell ", command)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.stdout + done.stderr == printed
    assert done.returncode == (2 if "HTTP 422" in printed else 0)


def test_the_page_has_commands() -> None:
    assert len(commands()) >= 4
