"""The commands on the pages print the output shown, and the tables of docs/http.md agree with the code."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from weightwell_engine import parsing as wire
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.spec import GENERATORS
from weightwell_service.file_response import IMMUTABLE, REVALIDATE
from weightwell_service.problems import PROBLEMS, REFUSALS

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / "docs" / name).read_text()
    for name in ("http.md", "gains.md", "signal.md", "torch.md", "generator.md", "orthogonal.md")
}
PAGE = PAGES["http.md"]
ADDRESS = "http://127.0.0.1:8000"

SECTIONS = {text.partition("\n")[0]: text for text in PAGE.split("\n## ")[1:]}

# A section is a session in one shell. Its working directory starts with the examples only.
SESSIONS = {
    f"{name}: {text.splitlines()[0].removeprefix('# ')}": text
    for name, page in PAGES.items()
    for text in page.split("\n## ")
    if "```sh\n" in text
}
TOOLS = ("curl", "jq", "npm", "node", "python3")

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


class Step(NamedTuple):
    """Commands, and their output."""

    commands: str
    output: str


def steps(section: str) -> Iterator[Step]:
    """Yield the commands of a section, each with the output that stands beneath them, if any."""
    blocks = [*_BLOCK.findall(section), ("", "")]
    for (language, commands), (following, text) in pairwise(blocks):
        if language == "sh":
            yield Step(commands, text if following == "text" else "")


def execute(commands: list[str], directory: Path) -> list[str]:
    """Run commands in one shell, as a user would paste them; return the output of each."""
    script = "printf '\\0'\n".join(["set -e\n", *commands])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.replace("\r\n", "\n").split("\0")[1:]


@pytest.mark.parametrize("name", SESSIONS)
def test_the_commands_print_the_output_shown(name: str, server: str, tmp_path: Path) -> None:
    wanted = list(steps(SESSIONS[name].replace(ADDRESS, server)))
    for tool in TOOLS:
        if any(re.search(rf"\b{tool}\b", step.commands) for step in wanted) and not shutil.which(tool):
            pytest.skip(f"{tool} is not installed, and the page uses it")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("node_modules"))
    printed = execute([step.commands for step in wanted], tmp_path)
    for step, output in zip(wanted, printed, strict=True):
        matches = OutputChecker().check_output(step.output, output, ELLIPSIS | NORMALIZE_WHITESPACE)
        assert matches, f"{step.commands}\nprinted\n{output}\nand the page says\n{step.output}"


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_on_the_server_that_make_run_starts(name: str) -> None:
    assert set(re.findall(r"https?://[\d.:]+", PAGES[name])) == {ADDRESS}


def test_the_page_shows_the_example_itself() -> None:
    shown = [text for language, text in _BLOCK.findall(PAGE) if language == "js"]
    assert shown == [(ROOT / "examples" / "javascript" / "weights.js").read_text()]


def rows(section: str) -> list[list[str]]:
    """Return the cells of a section's table, without its two head rows."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def fields_of_the_page() -> dict[tuple[str, str], str]:
    """Return the default of every (scheme, field) in the page's table."""
    found = {}
    for field, schemes, default, _ in rows("Every field"):
        patterns = ["*"] if schemes == "all" else _CODE.findall(schemes)
        for scheme in (name for name in SCHEMES if any(fnmatchcase(name, pattern) for pattern in patterns)):
            assert (scheme, field) not in found, f"{field} of {scheme} has two rows"
            found[scheme, field.strip("`")] = default.strip("`")
    return found


def fields_of_the_service() -> dict[tuple[str, str], object]:
    """Return the default of every (scheme, field) that the wire's models accept."""
    said_elsewhere = {"dtype": wire.DEFAULT_DTYPE, "seed": wire.DEFAULT_SEED, "generator": GENERATORS[0]}
    return {
        (scheme, name): "required" if field.is_required() else said_elsewhere.get(name, field.default)
        for scheme, model in wire.SINGLES.items()
        for name, field in model.model_fields.items()
    }


def is_default(said: str, default: object) -> bool:
    """Whether a cell of the table says what a default is: a word, or a number or truth value as JSON writes them."""
    if default is None or isinstance(default, str):
        return said == (default or "none")
    return bool(json.loads(said) == json.loads(json.dumps(default)))


def test_the_table_has_every_field_of_every_scheme_and_its_default() -> None:
    said, fields = fields_of_the_page(), fields_of_the_service()
    assert set(said) == set(fields)
    assert [key for key, default in fields.items() if not is_default(said[key], default)] == []


@pytest.mark.parametrize("row", rows("Layouts"), ids=lambda row: row[0])
def test_the_fans_of_a_layout_are_those_on_the_page(row: list[str], http: httpx.Client) -> None:
    _, shape, names, fans = row
    query = f"shape={shape.strip('`')}&scheme=he_normal&{names.strip('`')}".rstrip("&")
    found = http.get(f"/plan?{query}").json()["tensors"]["weight"]
    assert f"{found['fan_in']}, {found['fan_out']}" == fans


def test_the_table_names_every_dtype() -> None:
    [meaning] = [meaning for field, _, _, meaning in rows("Every field") if field == "`dtype`"]
    assert set(_CODE.findall(meaning)) == set(DTYPES)


def test_the_page_names_every_code_of_a_dtype() -> None:
    [line] = [line for line in SECTIONS["What is in the file"].splitlines() if line.startswith("5. ")]
    assert set(_CODE.findall(line)) == {dtype.code for dtype in DTYPES.values()}


def test_the_table_of_errors_has_every_problem() -> None:
    said = {(status, kind.strip("`")) for status, kind, _ in rows("Errors") if kind}
    refused = {(status, kind) for status, (kind, _) in REFUSALS.items()}
    assert said == {(str(status), kind) for status, kind in refused | {each[:2] for each in PROBLEMS.values()}}


def test_the_table_of_errors_has_every_status(http: httpx.Client) -> None:
    operations = http.get("/openapi.json").json()["paths"]["/init"].values()
    said = {status for statuses, _, _ in rows("Errors") for status in statuses.split(", ")}
    assert said == {status for operation in operations for status in operation["responses"]}


def test_the_cache_headers_are_those_on_the_page(http: httpx.Client) -> None:
    said = {who: _CODE.findall(control)[0] for who, control, _ in rows("Caching")}
    assert list(said.values()) == [IMMUTABLE, REVALIDATE, "no-store"]
    for generator in http.get("/schemes").json()["generators"]:
        query = {"shape": "3", "scheme": "normal", "generator": generator["name"]}
        expected = IMMUTABLE if generator["portable"] else REVALIDATE
        assert http.head("/init", params=query).headers["cache-control"] == expected
    assert http.get("/init").headers["cache-control"] == "no-store"
