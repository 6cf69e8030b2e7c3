"""The forms that describe a file. That all forms give the same file is tested in tests/contract/test_models.py."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from weightwell import Manifest
from weightwell.forms import manifest_of, spec_of
from weightwell.spec import ManifestSpec, TensorSpec

SINGLE = {"shape": [3, 4], "scheme": "normal", "std": 0.02, "seed": "7", "name": "w", "generator": "torch"}


def test_a_dict_with_a_shape_is_one_tensor() -> None:
    expected = TensorSpec.of((3, 4), "normal", std=0.02, seed=7, name="w", generator="torch")
    assert spec_of(SINGLE, None, {}) == expected


def test_a_dict_with_tensors_is_a_manifest() -> None:
    document: dict[str, Any] = {"tensors": {"w": {"shape": [3], "scheme": "ones"}}, "seed": 7}
    assert spec_of(document, None, {}) == ManifestSpec.of(Manifest(document["tensors"], seed=7).document())


def test_a_dict_of_one_tensor_is_a_manifest_of_it_where_several_are_wanted() -> None:
    fields = {"shape": [3, 4], "scheme": "normal", "std": 0.02, "seed": 7}
    assert manifest_of(SINGLE, {}) == Manifest({"w": fields}, generator="torch")
    assert [*manifest_of({"shape": 3, "scheme": "ones"}, {}).tensors] == ["weight"]


def test_a_module_takes_the_fields_of_from_module() -> None:
    module = torch.nn.Linear(3, 4)
    fields: dict[str, Any] = {"rules": "torch", "seed": 7, "dtype": "bfloat16"}
    assert manifest_of(module, fields) == Manifest.from_module(module, **fields)


@pytest.mark.parametrize(
    ("what", "fields", "message"),
    [
        ({"scheme": "ones"}, {}, "one tensor by 'shape' and 'scheme', or many by 'tensors'; got .* without shape"),
        ({"shape": 3}, {}, "without scheme"),
        ({"w": {"shape": 3}}, {}, "without shape and scheme"),
        (SINGLE, {"seed": 1}, "a dict takes no further fields, got seed: put them into the dict"),
        ({"tensors": {}}, {"seed": 1}, "a dict takes no further fields, got seed: put them into the dict"),
        (
            Manifest({}),
            {"preset": "torch"},
            "a Manifest takes no further fields, got preset: put them into the Manifest",
        ),
        ({"tensors": {}, "sed": 1}, {}, "a manifest has the fields .*; got sed"),
        (torch.nn.Linear(3, 4), {"std": 1}, "unexpected keyword argument 'std'"),
    ],
)
def test_what_is_in_no_form_is_refused_with_the_forms(what: Any, fields: dict[str, Any], message: str) -> None:
    for read in (manifest_of, lambda what, fields: spec_of(what, None, fields)):
        with pytest.raises((TypeError, ValueError), match=message):
            read(what, fields)


@pytest.mark.parametrize("what", [(3, 4), 3, "model", None, torch.zeros(3)])
def test_a_state_dict_is_not_of_one_shape(what: Any) -> None:
    with pytest.raises(TypeError, match="expected a Manifest, a torch module, or a dict"):
        manifest_of(what, {})


def test_looking_for_modules_does_not_import_torch() -> None:
    program = (
        "import sys; from weightwell.forms import spec_of; spec_of(3, 'ones', {}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", program], check=False).returncode == 0
