"""docs/presets.md: its tables agree with the presets, and its commands print the output shown."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

import pytest

from weightwell_engine.modules import MODULES
from weightwell_engine.presets import PRESETS, Rule

PAGE = (Path(__file__).parents[2] / "docs" / "presets.md").read_text()
SECTIONS = {text.partition("\n")[0]: text for text in PAGE.split("\n## ")}
WITH_NAMES = [name for name in PRESETS if name != "torch"]

_CODE = re.compile(r"`([^`]+)`")
_SESSION = re.compile(r"^```sh\n(.*?)^```\n\n^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of the rows of the first table in a text, without its head."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    return ([cell.strip() for cell in line.strip("|").split("|")] for line in table[2:])


def rules_of(section: str) -> tuple[Rule, ...]:
    """Return the rules of a section's preset, for the example that it is about."""
    found = re.search(r'With `"preset": (.+?)`:', section)
    assert found
    example: Any = json.loads(found[1])
    parameters = {} if isinstance(example, str) else {key: value for key, value in example.items() if key != "name"}
    return PRESETS[section.partition("\n")[0]].rules(**parameters)


def test_the_first_table_has_every_preset_and_its_parameters() -> None:
    told = {
        _CODE.findall(name)[0]: (_CODE.findall(must), _CODE.findall(may))
        for name, must, may, _ in rows(PAGE.partition("## Combine a preset with your own rules")[0])
    }
    assert list(told) == list(PRESETS)
    for name, preset in PRESETS.items():
        required = [parameter.name for parameter in preset.parameters if parameter.default is ...]
        optional = [parameter.name for parameter in preset.parameters if parameter.default is not ...]
        assert told[name] == (required, optional)


@pytest.mark.parametrize("name", WITH_NAMES)
def test_a_table_has_a_tensor_and_its_scheme_for_each_rule_of_a_preset(name: str) -> None:
    rules = rules_of(SECTIONS[name])
    shown = []
    for tensor, gets, _ in rows(SECTIONS[name]):
        first = next(rule for rule in rules if re.fullmatch(str(rule["regex"]), tensor.strip("`")))
        assert json.loads(gets.strip("`")) == {key: value for key, value in first.items() if key != "regex"}
        shown.append(rules.index(first))
    assert sorted(shown) == list(range(len(rules)))


@pytest.mark.parametrize("name", PRESETS)
def test_the_sources_of_a_preset_are_on_the_page(name: str) -> None:
    listed = SECTIONS[name].partition("Sources:\n")[2].strip().removeprefix("* ").split("\n* ")
    assert listed == list(PRESETS[name].references)


def test_the_table_of_modules_has_every_module_and_all_its_tensors() -> None:
    told = {
        module: set(_CODE.findall(tensors))
        for modules, tensors, _ in rows(SECTIONS["torch"])
        for module in _CODE.findall(modules)
    }
    assert told == {name: set(leaves) for name, leaves in MODULES.items() if not name.startswith("Lazy")}


@pytest.mark.parametrize("session", _SESSION.findall(PAGE), ids=["presets", "a preset as a start", "axes"])
def test_the_commands_print_the_output_shown(session: tuple[str, str], server: str, tmp_path: Path) -> None:
    if not (shutil.which("curl") and shutil.which("jq")):
        pytest.skip("curl and jq are not installed, and the page uses them")
    commands, wanted = session
    script = commands.replace("http://127.0.0.1:8000", server).replace("curl ", "curl --noproxy '*' ")
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert OutputChecker().check_output(wanted, done.stdout, ELLIPSIS | NORMALIZE_WHITESPACE), done.stdout
