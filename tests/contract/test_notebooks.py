"""The notebooks of examples/notebooks run, and print the output that they show."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[-+]?\d+)?(?![\w.])")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the notebooks and their outputs of now."""
    folder = tmp_path_factory.mktemp("notebooks")
    # Sockets of zmq are not closed in order, which would be an error in this process.
    subprocess.run([sys.executable, FOLDER / "execute.py", "--into", folder], check=True)
    return folder


def printed(notebook: Any) -> list[str]:
    """The outputs of each cell as text. Pictures are their sizes: the same pixels need the same fonts."""
    return [
        "\n".join(
            output.text if output.output_type == "stream" else output.data["text/plain"]
            for output in cell.outputs
            if "building the font cache" not in output.get("text", "")
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_the_output_shown(path: Path, executed: Path) -> None:
    shown, now = (printed(nbformat.read(each, as_version=4)) for each in (path, executed / path.name))
    assert len(shown) == len(now)
    for expected, found in zip(shown, now, strict=True):
        # Sums of floating-point numbers differ in their last digits from one processor to another.
        assert NUMBER.sub("#", found) == NUMBER.sub("#", expected)
        for one, other in zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True):
            assert math.isclose(float(one), float(other), rel_tol=0.02), (one, other)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_outputs_and_nothing_of_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in cells) >= 4
    for cell in cells:
        assert cell.execution_count is None
        assert cell.metadata == {}
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
    text = path.read_text()
    assert not re.search(r"/(home|root|tmp|usr|work)/", text)
    assert notebook.cells[0].cell_type == "markdown"


def test_there_are_four_notebooks() -> None:
    assert len(NOTEBOOKS) == 4
