"""Reparametrized tensors: what a module computes from other tensors instead of having it as a parameter.

Weight norm, spectral norm, orthogonal maps and pruning replace ``weight`` by tensors from which it is computed: the
originals. What is drawn is the tensor itself, under its plain name, so that names and numbers are those of the module
before; the originals follow from it. That is what ``torch.nn.utils.parametrize`` calls a right inverse.
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

# Steps of the power method that find the singular vectors of a spectral norm: as many as torch's constructor makes.
STEPS = 15

_CURE = "fill the module before it is parametrized, or name the original tensors in a Manifest"


class Reparametrization(ABC):
    """How a module computes its tensor ``leaf``, and how that is given a value.

    ``kind`` names it. ``originals`` are the places of the tensors that it is computed from, ``computed`` those of
    buffers that follow from its value, and ``kept`` those of buffers that no value changes.
    """

    kind: str
    computed: Sequence[Place] = ()
    kept: Sequence[Place] = ()

    def __init__(self, owner: "nn.Module", leaf: str, originals: Sequence[Place]):
        self.owner = owner
        self.leaf = leaf
        self.originals = originals

    def template(self) -> "torch.Tensor":
        """Return a tensor of the shape and the dtype, and on the device, of what is computed."""
        return tensor_at(self.originals[-1]).detach()

    def check(self) -> None:
        """Raise ValueError where no value can be given."""
        if any(is_sharded(tensor_at(place)) for place in self.originals):
            raise ValueError("what it is computed from is sharded: fill the module before it is sharded")

    def assign(self, value: "torch.Tensor") -> None:
        """Give it a value, to within rounding; raise ValueError where what is computed is another one."""
        import torch

        with torch.no_grad():
            computed = self._assigned(value)
            if computed is None or not value.numel():
                return
            # Rounding is far below this, relative to the largest element, and any other difference is above.
            bound = torch.finfo(value.dtype).eps ** 0.5 * value.abs().amax()
            if not bool(((computed - value).abs() <= bound).all()):
                raise ValueError("what it computes is another tensor than the one that was drawn")

    @abstractmethod
    def _assigned(self, value: "torch.Tensor") -> "torch.Tensor | None":
        """Give the originals their values; return what is computed, or None where it is meant to be another tensor."""


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
        """Return a tensor of the shape and dtype, and on the device, of what is computed."""
        import torch

        if len(self._steps) == 1 and _is_torchs(self._steps[0]):
            return super().template()
        with torch.no_grad(), _evaluating(self._list):
            return self._forward()

    def check(self) -> None:
        """Raise ValueError where there is no right inverse."""
        super().check()
        for step in self._steps:
            if not hasattr(step, "right_inverse"):
                raise ValueError(f"{type(step).__name__} has no right_inverse: define one, or {_CURE}")
        template = self.template()
        if not template.is_meta:
            self._try(template.new_zeros(template.shape))

    def _try(self, value: "torch.Tensor") -> None:
        """Raise ValueError where the right inverse is there and not implemented; any other error is of this value."""
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
            raise ValueError(f"right_inverse returned {len(new)} tensors, and it has {len(self.originals)}")
        for place, tensor in zip(self.originals, new, strict=True):
            put(place, tensor)
        with _evaluating(self._list):
            computed = self._forward(restart=True)
        return None if self._normalizes else computed

    def _forward(self, *, restart: bool = False) -> "torch.Tensor":
        """Return what is computed; with ``restart`` spectral norms find their singular vectors anew."""
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
    """``torch.nn.utils.spectral_norm``: as a hook. What is drawn is the tensor that it divides by its norm."""

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
    """``torch.nn.utils.prune``: as a hook. What is drawn is the tensor before its mask, which stays as it is."""

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
    """Yield how a module computes those of its own tensors that are neither parameters nor buffers."""
    from torch.nn.utils.parametrize import is_parametrized

    if is_parametrized(module):
        parametrizations: Any = module.parametrizations
        for leaf in parametrizations:
            yield Parametrization(module, leaf)
    if module._forward_pre_hooks:
        yield from _hooks_of(module)


def _hooks_of(module: "nn.Module") -> Iterator[Reparametrization]:
    # By the names of these modules torch.nn.utils has functions.
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
    """Return the originals of a value. What is drawn for that, as orthogonal maps do, is the same every time."""
    with _seeded(value.device):
        for step in reversed(steps):
            value = step.right_inverse(value)
    return value


def _put_singular_vectors(places: Sequence[Place], tensor: "torch.Tensor", dim: int, eps: float) -> None:
    """Compute the singular vectors u and v that a spectral norm keeps, of a tensor whose rows are along ``dim``."""
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
    """Give random numbers of torch the same start every time, and leave no trace of it behind."""
    import torch

    kind = device.type if device.type not in {"cpu", "meta"} else None
    with torch.random.fork_rng([device] if kind else [], device_type=kind or "cuda"):
        torch.default_generator.manual_seed(0)
        if kind:
            torch.get_device_module(device).manual_seed(0)
        yield


@contextmanager
def _evaluating(module: "nn.Module") -> Iterator[None]:
    """Have modules compute as in evaluation, in which they change no buffers of theirs."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode


def _is_torchs(step: "nn.Module") -> bool:
    return type(step).__module__ == "torch.nn.utils.parametrizations"
