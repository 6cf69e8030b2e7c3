"""Reparametrized tensors: a module computes them from other tensors, the originals.

Weight norm, spectral norm, orthogonal maps and pruning replace the parameter ``weight`` by originals. Weightwell draws
the weight itself, under its plain name, so names and numbers are those of the plain module. Then it computes the
originals from the weight. ``torch.nn.utils.parametrize`` calls this a right inverse.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from weightwell.models.places import Place, put, tensor_at
from weightwell.models.shards import is_sharded

if TYPE_CHECKING:
    import torch
    from torch import nn

# Steps of the power method for the singular vectors of a spectral norm, as in torch's constructor.
STEPS = 15

_CURE = "fill the module before it is parametrized, or name the original tensors in a Manifest"


class Reparametrization(ABC):
    """The computation of a module's tensor ``leaf``, and the way to set it.

    ``kind`` is a name for messages. ``originals`` are the places of the tensors that it is computed from, ``computed``
    of buffers that are computed from its value, and ``kept`` of buffers that never change.
    """

    kind: str
    computed: Sequence[Place] = ()
    kept: Sequence[Place] = ()

    def __init__(self, owner: "nn.Module", leaf: str, originals: Sequence[Place]):
        self.owner = owner
        self.leaf = leaf
        self.originals = originals

    def template(self) -> "torch.Tensor":
        """Return a tensor with the shape, dtype and device of the computed tensor."""
        return tensor_at(self.originals[-1]).detach()

    def check(self) -> None:
        """Raise ValueError if the tensor cannot be set."""
        if any(is_sharded(tensor_at(place)) for place in self.originals):
            raise ValueError("the tensors that it is computed from are sharded: fill the module before it is sharded")

    def assign(self, value: "torch.Tensor") -> None:
        """Set the tensor, up to rounding errors; raise ValueError if the computed value differs."""
        import torch

        with torch.no_grad():
            computed = self._assigned(value)
            if computed is None or not value.numel():
                return
            # Relative to the largest element. Rounding errors are far smaller, and real differences larger.
            bound = torch.finfo(value.dtype).eps ** 0.5 * value.abs().amax()
            if not bool(((computed - value).abs() <= bound).all()):
                raise ValueError("it computes another value than the one that was drawn")

    @abstractmethod
    def _assigned(self, value: "torch.Tensor") -> "torch.Tensor | None":
        """Set the originals; return the computed tensor, or None if it differs from the value by design."""


class Parametrization(Reparametrization):
    """A list of parametrizations of ``torch.nn.utils.parametrize``."""

    def __init__(self, owner: "nn.Module", leaf: str):
        from torch.nn.utils.parametrizations import _SpectralNorm

        parametrizations: Any = owner.parametrizations
        self._list = parametrizations[leaf]
        self._steps: list[Any] = [self._list._modules[str(index)] for index in range(len(self._list))]
        self.kind = ", ".join(type(step).__name__ for step in self._steps)
        names = ["original"] if self._list.is_tensor else [f"original{index}" for index in range(self._list.ntensors)]
        super().__init__(owner, leaf, [(self._list, name) for name in names])
        self.computed = [(step, name) for step in self._steps if _is_torchs(step) for name in step._buffers]
        self._normalizes = any(isinstance(step, _SpectralNorm) for step in self._steps)

    @property
    def is_orthogonal(self) -> bool:
        """Whether only an orthogonal matrix can be its value."""
        from torch.nn.utils.parametrizations import _Orthogonal

        return len(self._steps) == 1 and isinstance(self._steps[0], _Orthogonal)

    def template(self) -> "torch.Tensor":
        """Return a tensor with the shape, dtype and device of the computed tensor."""
        import torch

        if len(self._steps) == 1 and _is_torchs(self._steps[0]):
            return super().template()
        with torch.no_grad(), _evaluating(self._list):
            return self._forward()

    def check(self) -> None:
        """Raise ValueError if there is no right inverse."""
        super().check()
        for step in self._steps:
            if not hasattr(step, "right_inverse"):
                raise ValueError(f"{type(step).__name__} has no right_inverse: define one, or {_CURE}")
        template = self.template()
        if not template.is_meta:
            self._try(template.new_zeros(template.shape))

    def _try(self, value: "torch.Tensor") -> None:
        """Raise ValueError if the right inverse exists but is not implemented. Other errors depend on the value."""
        try:
            _inverse(copy.deepcopy(self._steps), value)
        except NotImplementedError as error:
            raise ValueError(f"it has no right_inverse ({error}); {_CURE}") from None
        except Exception:
            return

    def _assigned(self, value: "torch.Tensor") -> "torch.Tensor | None":
        inverse = _inverse(self._steps, value)
        new = [inverse] if self._list.is_tensor else [*inverse]
        if len(new) != len(self.originals):
            raise ValueError(f"right_inverse returned {len(new)} tensors instead of {len(self.originals)}")
        for place, tensor in zip(self.originals, new, strict=True):
            put(place, tensor)
        with _evaluating(self._list):
            computed = self._forward(restart=True)
        return None if self._normalizes else computed

    def _forward(self, *, restart: bool = False) -> "torch.Tensor":
        """Return the computed tensor; with ``restart``, spectral norms compute their singular vectors again."""
        from torch.nn.utils.parametrizations import _SpectralNorm

        values = [tensor_at(place) for place in self.originals]
        for step in self._steps:
            if restart and isinstance(step, _SpectralNorm) and values[0].ndim > 1:
                _put_singular_vectors([(step, "_u"), (step, "_v")], values[0], step.dim, step.eps)
            values = [step(*values)]
        return values[0].detach()


# Hooks ---------------------------------------------------------------------------------------------------------------


class WeightNorm(Reparametrization):
    """``torch.nn.utils.weight_norm``: a hook that computes the tensor before every forward pass."""

    kind = "weight_norm"

    def __init__(self, owner: "nn.Module", leaf: str, hook: Any):
        super().__init__(owner, leaf, [(owner, f"{leaf}_g"), (owner, f"{leaf}_v")])
        self._hook = hook

    def _assigned(self, value: "torch.Tensor") -> "torch.Tensor":
        import torch

        magnitude, direction = self.originals
        put(magnitude, torch.norm_except_dim(value, 2, self._hook.dim))
        put(direction, value)
        computed: torch.Tensor = self._hook.compute_weight(self.owner)
        setattr(self.owner, self.leaf, computed)
        return computed


class SpectralNorm(Reparametrization):
    """``torch.nn.utils.spectral_norm`` as a hook. The drawn tensor is the one before division by the norm."""

    kind = "spectral_norm"

    def __init__(self, owner: "nn.Module", leaf: str, hook: Any):
        super().__init__(owner, leaf, [(owner, f"{leaf}_orig")])
        self.computed = [(owner, f"{leaf}_u"), (owner, f"{leaf}_v")]
        self._hook = hook

    def _assigned(self, value: "torch.Tensor") -> None:
        put(self.originals[0], value)
        _put_singular_vectors(self.computed, value, self._hook.dim, self._hook.eps)
        setattr(self.owner, self.leaf, self._hook.compute_weight(self.owner, do_power_iteration=False))


class Pruning(Reparametrization):
    """``torch.nn.utils.prune`` as a hook. The drawn tensor is the one before the mask. The mask does not change."""

    kind = "pruning"

    def __init__(self, owner: "nn.Module", leaf: str, hook: Any):
        super().__init__(owner, leaf, [(owner, f"{leaf}_orig")])
        self.kept = [(owner, f"{leaf}_mask")]
        self._hook = hook

    def _assigned(self, value: "torch.Tensor") -> None:
        put(self.originals[0], value)
        setattr(self.owner, self.leaf, self._hook.apply_mask(self.owner))


# Finding them --------------------------------------------------------------------------------------------------------


def reparametrizations_of(module: "nn.Module") -> Iterator[Reparametrization]:
    """Yield the parametrizations of a module's own tensors."""
    from torch.nn.utils.parametrize import is_parametrized

    if is_parametrized(module):
        parametrizations: Any = module.parametrizations
        for leaf in parametrizations:
            yield Parametrization(module, leaf)
    if module._forward_pre_hooks:
        yield from _hooks_of(module)


def _hooks_of(module: "nn.Module") -> Iterator[Reparametrization]:
    # In torch.nn.utils, functions hide the modules of the same names.
    from torch.nn.utils.prune import BasePruningMethod
    from torch.nn.utils.spectral_norm import SpectralNorm as SpectralNormHook
    from torch.nn.utils.weight_norm import WeightNorm as WeightNormHook

    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNormHook):
            yield WeightNorm(module, hook.name, hook)
        elif isinstance(hook, SpectralNormHook):
            yield SpectralNorm(module, hook.name, hook)
        elif isinstance(hook, BasePruningMethod):
            yield Pruning(module, hook._tensor_name, hook)


# Computing -----------------------------------------------------------------------------------------------------------


def _inverse(steps: Sequence[Any], value: "torch.Tensor") -> Any:
    """Return the originals of a value. Random numbers in a right inverse (orthogonal maps) are the same every time."""
    with _seeded(value.device):
        for step in reversed(steps):
            value = step.right_inverse(value)
    return value


def _put_singular_vectors(places: Sequence[Place], tensor: "torch.Tensor", dim: int, eps: float) -> None:
    """Compute the singular vectors u and v of a spectral norm, for a tensor with its rows along ``dim``."""
    import torch
    from torch.nn.functional import normalize

    matrix = tensor.movedim(dim, 0).flatten(1)
    start = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0))
    v = normalize(start.to(matrix), dim=0, eps=eps)
    for _ in range(STEPS):
        u = normalize(matrix.mv(v), dim=0, eps=eps)
        v = normalize(matrix.t().mv(u), dim=0, eps=eps)
    for place, vector in zip(places, (u, v), strict=True):
        put(place, vector)


@contextmanager
def _seeded(device: "torch.device") -> Iterator[None]:
    """Seed torch's global generators with a fixed value, and restore their states at the end."""
    import torch

    kind = device.type if device.type not in {"cpu", "meta"} else None
    with torch.random.fork_rng([device] if kind else [], device_type=kind or "cuda"):
        torch.default_generator.manual_seed(0)
        if kind:
            torch.get_device_module(device).manual_seed(0)
        yield


@contextmanager
def _evaluating(module: "nn.Module") -> Iterator[None]:
    """Switch modules to evaluation mode for a while, so that they do not change their buffers."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode


def _is_torchs(step: "nn.Module") -> bool:
    return type(step).__module__ == "torch.nn.utils.parametrizations"
