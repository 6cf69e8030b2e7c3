"""Forms: the arguments that describe a file.

A file is described by a shape and a scheme, by a ``Manifest``, by a torch module, or by a dict. A dict is the JSON of
docs/http.md, for one tensor (``{"shape": [512, 784], "scheme": "kaiming_normal"}``) or for many (``"tensors"``).
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard, Union, cast

from weightwell.literals import SchemeName
from weightwell.models.manifest import Manifest
from weightwell.spec import DEFAULT_NAME, ManifestSpec, ShapeLike, TensorSpec

if TYPE_CHECKING:
    from torch import nn

Described = Union[Manifest, Mapping[str, Any], "nn.Module"]

_FORMS = (
    "a shape and a scheme, such as (512, 784) and 'kaiming_normal'; or a Manifest, a torch module, or a dict such as "
    "{'shape': [512, 784], 'scheme': 'kaiming_normal'} or {'tensors': {...}}"
)


def spec_of(
    what: ShapeLike | Described, scheme: SchemeName | str | None, fields: Mapping[str, Any]
) -> TensorSpec | ManifestSpec:
    """Return the spec of a file; raise TypeError or ValueError for anything that does not describe one.

    ``fields``: for a shape those of ``Client.init``, for a module those of ``Manifest.from_module``.
    """
    if isinstance(what, Manifest | Mapping) or _is_module(what):
        if scheme is not None:
            raise TypeError(f"a scheme needs a shape, got {scheme!r} and a {type(what).__name__}")
        if isinstance(what, Mapping) and "tensors" not in what:
            return TensorSpec.of(**_single(what, fields))
        return ManifestSpec.of(manifest_of(what, fields).document())
    if scheme is None:
        raise TypeError(f"expected {_FORMS}; got {what!r:.80} and no scheme")
    return TensorSpec.of(cast("ShapeLike", what), scheme, **fields)


def manifest_of(what: object, fields: Mapping[str, Any]) -> Manifest:
    """Return the manifest for a description without a shape; raise TypeError or ValueError as ``spec_of``."""
    if _is_module(what):
        return Manifest.from_module(what, **fields)
    if isinstance(what, Manifest):
        _refuse_more(fields, "Manifest")
        return what
    if not isinstance(what, Mapping):
        raise TypeError(
            f"expected a Manifest, a torch module, or a dict such as {{'tensors': {{...}}}}; got {what!r:.80}"
        )
    if "tensors" in what:
        _refuse_more(fields, "dict")
        return Manifest.from_dict(what)
    tensor = _single(what, fields)
    generator, name = tensor.pop("generator", None), tensor.pop("name", None)
    return Manifest({DEFAULT_NAME if name is None else name: tensor}, generator=generator)


def _single(what: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dict that describes one tensor."""
    _refuse_more(fields, "dict")
    if missing := [field for field in ("shape", "scheme") if field not in what]:
        raise ValueError(
            f"a dict describes one tensor by 'shape' and 'scheme', or many by 'tensors'; got {what!r:.80} without "
            f"{' and '.join(missing)}"
        )
    return dict(what)


def _refuse_more(fields: Mapping[str, Any], form: str) -> None:
    """Raise TypeError for separate fields, which belong inside this form."""
    if fields:
        raise TypeError(f"a {form} takes no further fields, got {', '.join(fields)}: put them into the {form}")


def _is_module(what: object) -> "TypeGuard[nn.Module]":
    """Whether an object is a torch module. This does not import torch."""
    nn = getattr(sys.modules.get("torch"), "nn", None)  # None while another thread imports torch
    return nn is not None and isinstance(what, nn.Module)
