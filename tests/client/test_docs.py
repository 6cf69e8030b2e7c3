"""The examples on the pages of the client run with a real server and print the output shown."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "client.md"
ADDRESS = "http://127.0.0.1:8000"  # the one that the page speaks of


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader works through the page."""
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(autouse=True)
def reader(server: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the page is in a directory of his own, and has a server."""
    monkeypatch.chdir(directory)
    monkeypatch.setenv("WEIGHTWELL_URL", server)


# The reader of models.md loads a checkpoint in a single process, and torch says so.
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("client.md", 10),
        ("local.md", 10),
        ("models.md", 10),
        ("torch.md", 5),
        ("recording.md", 10),
        ("signal.md", 10),
        ("signals.md", 10),
    ],
)
def test_the_python_of_a_page_prints_the_output_shown(server: str, page: str, least: int) -> None:
    text = (DOCS / page).read_text().replace(ADDRESS, server)
    examples = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=report.append)
    examples.globs.clear()
    assert result.attempted >= least
    assert not result.failed, "".join(report)


def commands() -> list[tuple[str, str]]:
    """Every command of the page, with its output."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [pair for block in blocks for pair in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)]


@pytest.mark.parametrize(("command", "printed"), commands())
def test_a_command_of_the_page_prints_the_output_shown(command: str, printed: str) -> None:
    line = re.sub(
        r"\bweightwell (?=init|gain|schemes|presets|save|plan|verify)", f"'{sys.executable}' -m weightwell ", command
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.stdout + done.stderr == printed
    assert done.returncode == (2 if "HTTP 422" in printed else 0)


def test_the_page_has_commands() -> None:
    assert len(commands()) >= 4
