"""Stacks: the layers of a network, their input, and the settings of the measurement."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

from weightwell_engine.spec import Parameter, TensorSpec

Kind = Literal["linear", "conv2d"]
Normalization = Literal["none", "layer", "rms", "batch", "group", "instance"]
Residual = Literal["none", "pre-norm", "post-norm"]
Padding = Literal["zeros", "circular"]

_ORTHOGONAL = ("orthogonal", "delta_orthogonal")


@dataclass(frozen=True, slots=True)
class Draw:
    """How a tensor is drawn: the canonical name of a scheme, and the items of its parameters."""

    scheme: str
    items: tuple[tuple[str, Parameter], ...] = ()

    @classmethod
    def of(cls, scheme: str, parameters: Mapping[str, Parameter]) -> "Draw":
        """Return the draw of a scheme with these parameters."""
        return cls(scheme, tuple(parameters.items()))

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters, by name."""
        return dict(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer, with f its activation function, norm its normalization, W its weight and b its bias.

    Without a residual connection it maps x to f(norm(W x + b)); ``pre-norm`` to x + W f(norm(x)) + b, as He et al. 2016
    (arXiv:1603.05027); ``post-norm`` to norm(x + W f(x) + b). ``width``: the number of outputs, or output channels.
    ``kernel_size``, ``stride`` and ``padding`` are those of a convolution with padding ``kernel_size // 2``; a linear
    layer has 1, 1 and ``zeros``. ``bias`` is None for a layer without one.
    """

    kind: Kind
    width: int
    weight: Draw
    bias: Draw | None
    activation: str
    param: float | None
    normalization: Normalization
    norm_groups: int
    residual: Residual
    kernel_size: int = 1
    stride: int = 1
    padding: Padding = "zeros"


@dataclass(frozen=True)
class Stack:
    """Layers, the law of their input, and how they are measured.

    ``input_width``: the number of inputs, or of input channels. ``image_size``: height and width of the input of a
    convolution, and 1 for a linear layer. ``correlation``: that of the two inputs, in [-1, 1]. ``batch``: the number of
    examples. ``seeds``: the network is drawn and measured once for each.
    """

    layers: tuple[Layer, ...]
    input: Draw
    input_width: int
    image_size: int
    correlation: float
    batch: int
    seeds: tuple[int, ...]
    dtype: str

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The shapes of the signal of one example, before the first layer and after each: (channels, height).

        The width equals the height. A linear layer has height 1.
        """
        found = [(self.input_width, self.image_size)]
        for layer in self.layers:
            height = found[-1][1]
            after = (height + 2 * (layer.kernel_size // 2) - layer.kernel_size) // layer.stride + 1
            found.append((layer.width, after if layer.kind == "conv2d" else 1))
        return tuple(found)

    def weight_shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of the weight of a layer: (out, in), or (out, in, kernel_size, kernel_size)."""
        (channels, height), layer = self.sizes[index], self.layers[index]
        if layer.kind == "linear":
            return layer.width, channels * height * height
        return layer.width, channels, layer.kernel_size, layer.kernel_size

    def weight(self, index: int, seed: int) -> TensorSpec:
        """Return the spec of the weight of a layer: index 0 is the first layer, named ``layers.1.weight``."""
        layer = self.layers[index]
        return self._tensor(f"layers.{index + 1}.weight", self.weight_shape(index), layer.weight, seed)

    def bias(self, index: int, seed: int) -> TensorSpec | None:
        """Return the spec of the bias of a layer, of shape (out,), or None."""
        layer = self.layers[index]
        if layer.bias is None:
            return None
        return self._tensor(f"layers.{index + 1}.bias", (layer.width,), layer.bias, seed)

    def inputs(self, seed: int) -> tuple[TensorSpec, TensorSpec]:
        """Return the specs of two independent tensors x and y: (batch, in), or (batch, in, height, width).

        The first input of the network is x. The second is m + c (x - m) + sqrt(1 - c^2) (y - m), with the mean m of
        the law and the ``correlation`` c.
        """
        shape = self._input_shape
        return self._tensor("input", shape, self.input, seed), self._tensor("input.other", shape, self.input, seed)

    def cotangent(self, seed: int) -> TensorSpec:
        """Return the spec of the gradient at the output: independent values from N(0, 1)."""
        channels, height = self.sizes[-1]
        shape = (self.batch, channels) if self.layers[-1].kind == "linear" else (self.batch, channels, height, height)
        return self._tensor("cotangent", shape, Draw("normal", (("mean", 0.0), ("std", 1.0))), seed)

    @property
    def _input_shape(self) -> tuple[int, ...]:
        if self.layers[0].kind == "linear":
            return self.batch, self.input_width
        return self.batch, self.input_width, self.image_size, self.image_size

    def _tensor(self, name: str, shape: tuple[int, ...], draw: Draw, seed: int) -> TensorSpec:
        return TensorSpec(name, shape, self.dtype, seed, draw.scheme, draw.parameters)

    @property
    def operations(self) -> int:
        """Estimate the operations of a measurement.

        A multiplication and an addition count as 2, and are done for two inputs forward and one backward. Drawing a
        number counts as 50 operations, the statistics of a value as 200, the fixed cost of a layer as 2 million, and
        making a matrix with n columns orthogonal as 10 n for an element. A CPU takes 20 times as long for a convolution
        of 16-bit numbers.
        """
        total = 0
        for index, (channels, height) in enumerate(self.sizes[1:]):
            shape = self.weight_shape(index)
            values = self.batch * channels * height**2
            each = 10 * min(shape[0], prod(shape[1:])) if self.layers[index].weight.scheme in _ORTHOGONAL else 50
            slow = 20 if len(shape) > 2 and self.dtype in ("float16", "bfloat16") else 1
            total += 6 * slow * values * prod(shape[1:]) + each * prod(shape) + 200 * values + 2_000_000
        return total * len(self.seeds)

    @property
    def nbytes(self) -> int:
        """Estimate the peak bytes of memory of a measurement: the weights and the signals of one seed.

        Each layer keeps its weight and some signals for the backward pass. The statistics of one layer are computed in
        float64. A matrix is made orthogonal in float64.
        """
        size = {"float64": 8, "float32": 4}.get(self.dtype, 2)
        signals = [self.batch * channels * height**2 for channels, height in self.sizes]
        weights = sum(prod(self.weight_shape(index)) for index in range(len(self.layers)))
        whole = [
            prod(self.weight_shape(index))
            for index, layer in enumerate(self.layers)
            if layer.weight.scheme in _ORTHOGONAL
        ]
        return size * (weights + 6 * sum(signals)) + (8 * 8 + 4 * size) * max(signals) + 32 * max(whole, default=0)
