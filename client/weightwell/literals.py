"""Literals: the known values of string arguments, for editors and type checkers.

The types accept every other string too, and the client sends it: a server may be newer than this list. A test compares
the list with the server's registry.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex, TypeAlias, TypedDict

from weightwell.slices import SliceLike

if TYPE_CHECKING:
    import numpy as np
    import torch

SchemeName = Literal[
    "constant",
    "ones",
    "zeros",
    "eye",
    "identity",
    "dirac",
    "values",
    "uniform",
    "normal",
    "trunc_normal",
    "truncated_normal",
    "clamped_normal",
    "randint",
    "power_of_two",
    "xavier_uniform",
    "glorot_uniform",
    "xavier_normal",
    "glorot_normal",
    "kaiming_uniform",
    "he_uniform",
    "kaiming_normal",
    "he_normal",
    "variance_scaling",
    "lecun_uniform",
    "lecun_normal",
    "orthogonal",
    "delta_orthogonal",
    "sparse",
]
DTypeName = Literal[
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float4_e2m1fn_x2",
    "float8_e8m0fnu",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
]
PresetName = Literal[
    "torch", "gpt2", "llama", "megatron", "torchtitan-llama3", "gpt-neox", "vit", "vit-jax", "lora", "mup"
]
GeneratorName = Literal["philox", "torch"]
FrameworkName = Literal["torch", "numpy"]
GainSource = Literal["torch", "quadrature"]

Stability = Literal["stable", "unstable", "marginal"]
Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["truncated_normal", "normal", "uniform"]
Layout = Literal["torch", "jax"]
LayerKind = Literal["linear", "conv2d"]
Normalization = Literal["none", "layer", "rms", "batch", "group", "instance"]
Residual = Literal["none", "pre-norm", "post-norm"]
Padding = Literal["zeros", "circular"]

SeedLike: TypeAlias = SupportsIndex | str
AxisLike: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
DTypeLike: TypeAlias = "DTypeName | str | torch.dtype | np.dtype[Any] | type[Any]"


class Parameters(TypedDict, total=False):
    """The parameters of all schemes; the server refuses those that a scheme does not have."""

    val: SupportsFloat
    values: Any
    dims: Sequence[SupportsIndex] | None
    gain: SupportsFloat
    a: SupportsFloat
    b: SupportsFloat
    mean: SupportsFloat
    std: SupportsFloat
    low: SupportsIndex
    high: SupportsIndex
    lower: SupportsFloat
    upper: SupportsFloat
    scale: SupportsFloat
    sparsity: SupportsFloat
    mode: Mode | str
    nonlinearity: str | None
    gain_source: GainSource | str
    distribution: Distribution | str
    groups: SupportsIndex
    transposed: bool
    fan_in: SupportsIndex | None
    fan_out: SupportsIndex | None
    layout: Layout | str
    in_axis: AxisLike | None
    out_axis: AxisLike | None
    batch_axis: AxisLike | None


class SignalFields(Parameters, total=False):
    """The fields of a stack of layers; ``Client.signal`` describes them."""

    depth: SupportsIndex
    width: SupportsIndex
    kind: LayerKind | str
    activation: str
    param: SupportsFloat | None
    scheme: SchemeName | str
    normalization: Normalization | str
    norm_groups: SupportsIndex
    residual: Residual | str
    kernel_size: SupportsIndex
    stride: SupportsIndex
    padding: Padding | str
    bias: str
    bias_val: SupportsFloat | None
    bias_mean: SupportsFloat | None
    bias_std: SupportsFloat | None
    bias_a: SupportsFloat | None
    bias_b: SupportsFloat | None
    bias_lower: SupportsFloat | None
    bias_upper: SupportsFloat | None
    input_width: SupportsIndex | None
    image_size: SupportsIndex
    input: str
    input_val: SupportsFloat | None
    input_mean: SupportsFloat | None
    input_std: SupportsFloat | None
    input_a: SupportsFloat | None
    input_b: SupportsFloat | None
    input_lower: SupportsFloat | None
    input_upper: SupportsFloat | None
    correlation: SupportsFloat
    batch: SupportsIndex
    seeds: SeedLike | Iterable[SeedLike]
    dtype: DTypeLike


class InPlaceFields(Parameters, total=False):
    """The fields of a tensor that exists, other than its scheme; ``Client.init_`` describes them."""

    seed: SeedLike
    name: str | None
    generator: GeneratorName | str | None
    stream: str | None


class NoiseFields(TypedDict, total=False):
    """The fields of noise that a tensor or a shape does not decide; ``Client.noise`` describes them."""

    seed: SeedLike
    name: str | None
    std: SupportsFloat
    generator: GeneratorName | str | None
    stream: str | None


class TensorFields(InPlaceFields, total=False):
    """The fields of a tensor other than its shape and scheme; ``Client.init`` describes them."""

    dtype: DTypeLike
    slice: SliceLike | None


class FileFields(TensorFields, total=False):
    """The fields of a file: the fields of a tensor and, for a torch module, of ``Manifest.from_module``."""

    rules: Any
    preset: Any
    prefix: str
