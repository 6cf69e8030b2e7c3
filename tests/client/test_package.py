"""The package: its exports, and the cost of its import."""

import re
import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import pytest

import weightwell
from weightwell import exceptions
from weightwell.exceptions import REFUSALS


def test_all_is_every_public_name_and_nothing_else() -> None:
    public = {
        name
        for name, value in vars(weightwell).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert sorted(weightwell.__all__) == sorted(public)
    assert weightwell.__all__ == sorted(weightwell.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    assert weightwell.__version__ == version("weightwell")


def classes(base: type) -> set[type]:
    """The exceptions of the package below ``base``."""
    kinds = {value for value in vars(exceptions).values() if isinstance(value, type)}
    return {kind for kind in kinds if issubclass(kind, base) and kind is not base}


def test_every_exception_is_exported() -> None:
    assert {kind.__name__ for kind in classes(exceptions.WeightwellError)} <= set(weightwell.__all__)


def test_the_tree_is_drawn_as_it_is() -> None:
    branches = re.findall(r"^([ |]*)\+-- (\w+)", exceptions.__doc__ or "", re.MULTILINE)
    drawn, parents = {}, {-1: "WeightwellError"}
    for indent, name in branches:
        depth = len(indent) // 5
        parents[depth] = name
        drawn[name] = parents[depth - 1]
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in classes(exceptions.WeightwellError)}


@pytest.mark.parametrize("module", ["numpy", "torch", "ml_dtypes", "tqdm", "safetensors"])
def test_importing_the_package_does_not_import(module: str) -> None:
    program = f"import sys, weightwell, weightwell.__main__; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", program], check=False).returncode == 0


def test_every_class_of_refusal_has_a_status() -> None:
    assert set(REFUSALS.values()) == classes(exceptions.ServerProblem)
