"""Execute the notebooks of this folder and write their outputs into them: ``python examples/notebooks/execute.py``.

Times and numbers of execution are left out, so that a notebook changes only if its outputs do.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
CELL_TIMEOUT = 120  # seconds

# The names of the notebook before are forgotten. tqdm warns that its bars need ipywidgets.
PREPARATION = """%reset -f
__import__("warnings").filterwarnings("ignore", message="IProgress not found")
"""


@contextmanager
def kernel() -> Iterator[Any]:
    """Start a Python process for notebooks. Several in turn can use it, which saves the import of torch for each."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(FOLDER), extra_arguments=["--HistoryManager.enabled=False", "--log-level=ERROR"])
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def executed(path: Path, manager: Any) -> Any:
    """Return a notebook with new outputs. Raises ``nbclient.exceptions.CellExecutionError`` if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PREPARATION))
    options = {"timeout": CELL_TIMEOUT, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, km=manager, **options).execute()
    del notebook.cells[0]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.metadata.clear()
            for output in cell.outputs:
                output.pop("execution_count", None)
                if output.output_type == "execute_result":
                    output.execution_count = None
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main(argv: Sequence[str] | None = None) -> None:
    """Execute all notebooks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder for the results; these files by default")
    folder = parser.parse_args(argv).into
    with kernel() as manager:
        for path in sorted(FOLDER.glob("*.ipynb")):
            nbformat.write(executed(path, manager), folder / path.name)


if __name__ == "__main__":
    main()
