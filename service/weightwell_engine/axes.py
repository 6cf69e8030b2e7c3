"""Axes: which axes of a weight's shape are inputs, outputs, a batch of independent weights, or the receptive field."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal, TypedDict

from weightwell_engine.exceptions import InvalidSpec

Shape = tuple[int, ...]

Layout = Literal["torch", "jax"]


class Names(TypedDict, total=False):
    """The keyword arguments of ``Axes.of``."""

    layout: Layout
    transposed: bool
    in_axis: Shape | None
    out_axis: Shape | None
    batch_axis: Shape


@dataclass(frozen=True, slots=True)
class Axes:
    """A shape, and the roles of its axes: ``outputs``, ``inputs`` and ``batch``, each in ascending order.

    An axis has one role. The other axes are the receptive field. ``transposed``: the tensor is the weight of a
    transposed convolution.
    """

    shape: Shape
    outputs: Shape
    inputs: Shape
    batch: Shape = ()
    transposed: bool = False

    @classmethod
    @lru_cache(4096)  # a scheme, its fans and its description ask for the same
    def of(
        cls,
        shape: Shape,
        *,
        layout: Layout = "torch",
        transposed: bool = False,
        in_axis: Shape | None = None,
        out_axis: Shape | None = None,
        batch_axis: Shape = (),
    ) -> "Axes | None":
        """Return the axes of a weight.

        The result is None if the shape has fewer than two axes that are not batch, and no axis is named.

        ``in_axis``, ``out_axis`` and ``batch_axis`` are indices of axes. Negative indices count from the end, as in
        ``jax.nn.initializers.variance_scaling``. If ``in_axis`` or ``out_axis`` is None, the ``layout`` of the axes
        that are not batch decides: ``[out, in, *kernel]`` in torch, ``[*kernel, in, out]`` in jax. ``transposed``
        exchanges in and out.

        Raises ``InvalidSpec`` for an axis that the shape does not have, for an axis named twice, for too few axes for
        the layout, and for ``transposed`` together with ``in_axis`` or ``out_axis``.
        """
        batch = _resolved("batch_axis", batch_axis, shape)
        named = {
            field: _resolved(field, given, shape)
            for field, given in (("in_axis", in_axis), ("out_axis", out_axis))
            if given is not None
        }
        if named and transposed:
            expected = "false if in_axis or out_axis is given, because these already name the axes"
            raise InvalidSpec("transposed", got=True, expected=expected)
        usual = _usual([axis for axis in range(len(shape)) if axis not in batch], layout, transposed=transposed)
        if not usual and not named:
            return None
        for field, axes in named.items():
            _check_apart(field, axes, named, usual, batch)
        found = usual | named
        return cls(shape, found["out_axis"], found["in_axis"], batch, transposed)

    @property
    def kernel(self) -> Shape:
        """The axes of the receptive field."""
        others = {*self.outputs, *self.inputs, *self.batch}
        return tuple(axis for axis in range(len(self.shape)) if axis not in others)

    @property
    def parts(self) -> tuple[str, ...]:
        """The role of each axis: ``("out", "in", "kernel", "kernel")`` for torch's Conv2d."""
        parts = dict.fromkeys(range(len(self.shape)), "kernel")
        for part, axes in (("out", self.outputs), ("in", self.inputs), ("batch", self.batch)):
            parts |= dict.fromkeys(axes, part)
        return tuple(parts.values())

    def sizes(self, axes: Shape) -> Shape:
        """Return the sizes of some axes."""
        return tuple(self.shape[axis] for axis in axes)

    def size(self, axes: Shape) -> int:
        """Return the product of the sizes of some axes."""
        return prod(self.sizes(axes))

    def strides(self) -> tuple[Shape, Shape]:
        """Return the map from this tensor to its transpose with the axes batch, outputs, inputs, kernel, in this order.

        The result is ``(sizes, strides)``. Axes that are adjacent in both tensors are merged. An element at
        ``(x[0], x[1], ...)`` in axes of ``sizes`` has the flat index ``x[0] * strides[0] + ...`` in the transpose. If
        both orders are equal, the result is one axis with a stride of 1.
        """
        strides, stride = {}, 1
        for axis in reversed((*self.batch, *self.outputs, *self.inputs, *self.kernel)):
            strides[axis] = stride
            stride *= self.shape[axis]
        merged = [(1, stride)]
        for axis, size in enumerate(self.shape):
            outer, distance = merged[-1]
            if distance == size * strides[axis]:
                merged[-1] = outer * size, strides[axis]
            elif size != 1:
                merged.append((size, strides[axis]))
        kept = [level for level in merged if level[0] != 1] or [(1, 1)]
        sizes, distances = zip(*kept, strict=True)
        return sizes, distances


def _resolved(field: str, given: Shape, shape: Shape) -> Shape:
    """Return axes as ascending indices from 0; raise ``InvalidSpec`` for unknown and for repeated axes."""
    ndim = len(shape)
    for axis in given:
        if not -ndim <= axis < ndim:
            expected = f"axes of the shape, from {-ndim} to {ndim - 1}" if ndim else "absent, as a scalar has no axes"
            raise InvalidSpec(field, got=axis, expected=expected)
    found = sorted(axis % ndim for axis in given)
    if len(set(found)) < len(found):
        raise InvalidSpec(field, got=list(given), expected=f"different axes of a shape that has {ndim}")
    return tuple(found)


def _usual(rest: list[int], layout: Layout, *, transposed: bool) -> dict[str, Shape]:
    """Return the input and output axes of a layout, not counting batch; empty for fewer than two axes."""
    if len(rest) < 2:
        return {}
    first, second = (rest[-1], rest[-2]) if layout == "jax" else (rest[0], rest[1])
    return {"in_axis": (first,), "out_axis": (second,)} if transposed else {"in_axis": (second,), "out_axis": (first,)}


def _check_apart(field: str, axes: Shape, named: dict[str, Shape], usual: dict[str, Shape], batch: Shape) -> None:
    """Raise ``InvalidSpec`` for named axes with two roles, or if the roles of the other axes stay open."""
    other = "out_axis" if field == "in_axis" else "in_axis"
    if {*axes} & {*batch}:
        raise InvalidSpec(field, got=list(axes), expected=f"axes other than batch_axis, which is {list(batch)}")
    if other in named:
        if {*axes} & {*named[other]}:
            raise InvalidSpec(field, got=list(axes), expected=f"axes other than {other}, which is {list(named[other])}")
    elif not usual:
        raise InvalidSpec(field, got=list(axes), expected=f"given with {other}, as the shape has too few other axes")
    elif {*axes} & {*usual[other]}:
        expected = f"given with {other}, which is {list(usual[other])} in this layout"
        raise InvalidSpec(field, got=list(axes), expected=expected)
