import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from math import ceil, prod
from typing import Any
from unittest import mock

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.fans import Fans
from weightwell_engine.laws import (
    ClampedNormal,
    Constant,
    Lattice,
    Law,
    Normal,
    Orthogonal,
    OrthogonalStack,
    Sparse,
    TruncatedNormal,
    Uniform,
)
from weightwell_engine.nonlinearities import calculate_gain
from weightwell_engine.schemes import ALIASES, FIXED, OPTIONS, SCHEMES, TRUNCATED_AT_2_STD

TORCH = sorted(name[:-1] for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_"))
WITH_FANS = [name for name, scheme in SCHEMES.items() if scheme.needs == "fans"]
WITH_AXES = [name for name, scheme in SCHEMES.items() if scheme.needs == "axes"]

matrices = st.lists(st.integers(1, 64), min_size=2, max_size=5).map(tuple)
kernels = st.lists(st.integers(1, 5), min_size=3, max_size=5).map(tuple)
factors = st.floats(0, 1e6)


def law(name: str, shape: tuple[int, ...], *, portable: bool = False, **parameters: Any) -> Law:
    return SCHEMES[name].law(shape, parameters, portable=portable)


@contextmanager
def calls_of(sampler: str) -> Iterator[list[tuple[float, ...]]]:
    """Collect the numbers that torch hands to one of its samplers, in place of drawing."""
    calls: list[tuple[float, ...]] = []

    def record(tensor: torch.Tensor, *numbers: float, generator: torch.Generator | None = None) -> torch.Tensor:
        del generator
        calls.append(numbers)
        return tensor

    with mock.patch.object(torch.Tensor, sampler, record):
        yield calls


def dense(lattice: Law, shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor that a lattice describes."""
    assert isinstance(lattice, Lattice)
    tensor = np.zeros(prod(shape))
    points = [range(count) for count in lattice.counts]
    for i, j in product(*points):
        tensor[lattice.first + i * lattice.strides[0] + j * lattice.strides[1]] = lattice.value
    return tensor.reshape(shape)


# The registry --------------------------------------------------------------------------------------------------------


def test_every_initializer_of_torch_is_a_scheme() -> None:
    assert len(TORCH) == 14
    assert set(TORCH) <= set(SCHEMES)


@pytest.mark.parametrize("name", TORCH)
def test_a_scheme_has_the_parameters_and_the_defaults_of_torch(name: str) -> None:
    arguments = list(inspect.signature(getattr(torch.nn.init, f"{name}_")).parameters.values())
    theirs = {a.name: ... if a.default is a.empty else a.default for a in arguments[1:] if a.name != "generator"}
    options = OPTIONS.get(SCHEMES[name].needs, {})
    ours = {p.name: p.default for p in SCHEMES[name].parameters if p.name not in options and not p.omitted}
    assert ours == theirs


@pytest.mark.parametrize("name", WITH_FANS + WITH_AXES)
def test_a_scheme_with_fans_or_axes_takes_all_that_changes_them(name: str) -> None:
    assert set(OPTIONS[SCHEMES[name].needs]) <= {parameter.name for parameter in SCHEMES[name].parameters}


def test_every_orthogonal_scheme_has_axes() -> None:
    assert WITH_AXES == ["orthogonal", "delta_orthogonal"]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_scheme_has_a_description(scheme: Any) -> None:
    assert scheme.summary.endswith(".")
    assert scheme.formula
    assert all(parameter.doc for parameter in scheme.parameters)


def test_names_and_aliases_name_one_scheme_each() -> None:
    names = [name for scheme in SCHEMES.values() for name in (scheme.name, *scheme.aliases)]
    assert sorted(names) == sorted(ALIASES)
    assert {alias: ALIASES[alias] for alias in ("glorot_normal", "glorot_uniform", "he_normal", "he_uniform")} == {
        "glorot_normal": "xavier_normal",
        "glorot_uniform": "xavier_uniform",
        "he_normal": "kaiming_normal",
        "he_uniform": "kaiming_uniform",
    }


# Laws scaled by the fans ---------------------------------------------------------------------------------------------


@given(matrices, factors)
def test_xavier_hands_torch_s_own_numbers_to_its_samplers(shape: tuple[int, ...], gain: float) -> None:
    weight = torch.empty(shape, device="meta")
    with calls_of("uniform_") as uniforms, calls_of("normal_") as normals:
        torch.nn.init.xavier_uniform_(weight, gain)
        torch.nn.init.xavier_normal_(weight, gain)
    assert law("xavier_uniform", shape, gain=gain) == Uniform(*uniforms[0])
    assert law("xavier_normal", shape, gain=gain) == Normal(*normals[0])


@given(
    matrices,
    st.floats(-1e3, 1e3),
    st.sampled_from(["fan_in", "fan_out"]),
    st.sampled_from(["linear", "relu", "leaky_relu", "tanh", "selu", "conv2d"]),
)
def test_kaiming_hands_torch_s_own_numbers_to_its_samplers(
    shape: tuple[int, ...], a: float, mode: Any, nonlinearity: Any
) -> None:
    weight, parameters = torch.empty(shape, device="meta"), {"a": a, "mode": mode, "nonlinearity": nonlinearity}
    with calls_of("uniform_") as uniforms, calls_of("normal_") as normals:
        torch.nn.init.kaiming_uniform_(weight, **parameters)
        torch.nn.init.kaiming_normal_(weight, **parameters)
    assert law("kaiming_uniform", shape, **parameters) == Uniform(*uniforms[0])
    assert law("kaiming_normal", shape, **parameters) == Normal(*normals[0])


# The variance that each formula promises, by the fans and a scale.
VARIANCES: dict[str, tuple[str, Callable[[Fans, float], float]]] = {
    "xavier_uniform": ("gain", lambda fans, gain: 2 * gain**2 / (fans.fan_in + fans.fan_out)),
    "xavier_normal": ("gain", lambda fans, gain: 2 * gain**2 / (fans.fan_in + fans.fan_out)),
    "kaiming_uniform": ("a", lambda fans, a: calculate_gain("leaky_relu", a) ** 2 / fans.fan_in),
    "kaiming_normal": ("a", lambda fans, a: calculate_gain("leaky_relu", a) ** 2 / fans.fan_in),
    "variance_scaling": ("scale", lambda fans, scale: scale / fans.fan_in),
    "lecun_uniform": ("", lambda fans, _: 1 / fans.fan_in),
    "lecun_normal": ("", lambda fans, _: 1 / fans.fan_in),
}


def variance(law: Law) -> float:
    match law:
        case Uniform(low, high):
            return (high - low) ** 2 / 12
        case Normal(_, std):
            return std**2
        case TruncatedNormal(_, std, low, high):
            assert (low, high) == (-2 * std, 2 * std)
            return (std * TRUNCATED_AT_2_STD) ** 2
    raise TypeError(law)


def test_every_scheme_with_fans_promises_a_variance() -> None:
    assert set(VARIANCES) == set(WITH_FANS)


@pytest.mark.parametrize("name", VARIANCES)
@given(shape=matrices, scale=st.floats(1e-3, 1e3))
def test_a_law_has_the_variance_of_its_formula(name: str, shape: tuple[int, ...], scale: float) -> None:
    parameter, promised = VARIANCES[name]
    parameters: dict[str, Any] = {parameter: scale} if parameter else {}
    found = variance(law(name, shape, **parameters))
    assert found == pytest.approx(promised(Fans.of(shape), scale), rel=1e-14)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
def test_variance_scaling_has_variance_scale_by_fan_in_every_mode(mode: str, distribution: str) -> None:
    found = variance(law("variance_scaling", (6, 10, 3), scale=2.0, mode=mode, distribution=distribution))
    assert found == pytest.approx(2.0 / Fans.of((6, 10, 3)).mode(mode), rel=1e-14)


def test_a_truncated_normal_whose_variance_is_too_small_for_a_double_is_its_mean() -> None:
    assert law("variance_scaling", (3, 4), scale=5e-324) == Constant(0.0)


@pytest.mark.parametrize("name", WITH_FANS)
def test_given_fans_replace_those_of_the_shape(name: str) -> None:
    assert law(name, (6, 10), fan_in=3, fan_out=5) == law(name, (5, 3))
    assert law(name, (7,), fan_in=3, fan_out=5) == law(name, (5, 3))


@pytest.mark.parametrize("name", WITH_FANS)
def test_a_transposed_layer_has_the_law_of_its_weight_the_other_way_round(name: str) -> None:
    assert law(name, (6, 10, 3), transposed=True) == law(name, (10, 6, 3))


@pytest.mark.parametrize(
    ("shape", "names", "fans"),
    [
        ((10, 6, 3), {}, {"fan_in": 18, "fan_out": 30}),
        ((3, 6, 10), {"layout": "jax"}, {"fan_in": 18, "fan_out": 30}),
        ((12, 4, 5), {"in_axis": (0,), "out_axis": (1, 2)}, {"fan_in": 12, "fan_out": 20}),
        ((7, 10, 6), {"batch_axis": (0,)}, {"fan_in": 6, "fan_out": 10}),
        ((7, 6, 10), {"batch_axis": (-3,), "layout": "jax"}, {"fan_in": 6, "fan_out": 10}),
    ],
)
@pytest.mark.parametrize("name", WITH_FANS)
def test_a_law_has_the_variance_of_the_fans_by_axes(
    name: str, shape: tuple[int, ...], names: dict[str, Any], fans: dict[str, Any]
) -> None:
    scale, promised = VARIANCES[name]
    parameters: dict[str, Any] = {scale: 2.0} if scale else {}
    found = variance(law(name, shape, **parameters, **names))
    assert found == pytest.approx(promised(Fans.of((1, 1), **fans), 2.0), rel=1e-14)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
def test_variance_scaling_is_that_of_jax_for_an_attention_projection(mode: str, distribution: str) -> None:
    # jax.nn.initializers.variance_scaling(2.0, mode, distribution, in_axis=0, out_axis=(1, 2)) for (512, 8, 96): the
    # variance is scale / n with n = 512, 768, or their mean.
    expected = 2.0 / {"fan_in": 512, "fan_out": 768, "fan_avg": 640}[mode]
    parameters: dict[str, Any] = {"mode": mode, "distribution": distribution, "in_axis": (0,), "out_axis": (1, 2)}
    found = law("variance_scaling", (512, 8, 96), scale=2.0, **parameters)
    assert variance(found) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", WITH_FANS)
@pytest.mark.parametrize("shape", [(0,), (0, 0), (0, 3), (3, 0), (3, 3, 0)])
def test_a_tensor_without_elements_needs_no_fans(name: str, shape: tuple[int, ...]) -> None:
    assert law(name, shape) == Constant(0.0)


@given(matrices, st.floats(-1e3, 1e3))
def test_a_portable_law_is_within_an_ulp_or_two_of_that_of_torch(shape: tuple[int, ...], a: float) -> None:
    ours, theirs = (law("kaiming_normal", shape, a=a, portable=portable) for portable in (True, False))
    assert isinstance(ours, Normal)
    assert isinstance(theirs, Normal)
    assert abs(ours.std - theirs.std) <= 2 * np.spacing(theirs.std)


def test_the_std_of_a_normal_truncated_at_2_is_derived() -> None:
    with mpmath.workdps(40):
        kept = mpmath.ncdf(2) - mpmath.ncdf(-2)
        assert float(mpmath.sqrt(1 - 4 * mpmath.npdf(2) / kept)) == TRUNCATED_AT_2_STD


# Given laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("constant", {"val": 0.3}, Constant(0.3)),
        ("ones", {}, Constant(1.0)),
        ("zeros", {}, Constant(0.0)),
        ("uniform", {}, Uniform(0.0, 1.0)),
        ("uniform", {"a": 2.0, "b": 2.0}, Uniform(2.0, 2.0)),
        ("normal", {}, Normal(0.0, 1.0)),
        ("trunc_normal", {}, TruncatedNormal(0.0, 1.0, -2.0, 2.0)),
        ("trunc_normal", {"mean": 5.0, "std": 0.0}, Constant(2.0)),
        ("trunc_normal", {"mean": -5.0, "std": 0.0}, Constant(-2.0)),
        ("trunc_normal", {"mean": 0.5, "std": 0.0}, Constant(0.5)),
        ("truncated_normal", {"mean": 1.0, "std": 0.5}, TruncatedNormal(1.0, 0.5, 0.0, 2.0)),
        ("truncated_normal", {"mean": 1.0, "std": 0.0}, Constant(1.0)),
        ("clamped_normal", {}, ClampedNormal(0.0, 1.0, -2.0, 2.0)),
        ("clamped_normal", {"mean": 5.0, "std": 0.0}, Constant(2.0)),
    ],
)
def test_a_law_has_the_given_numbers(name: str, parameters: dict[str, Any], expected: Law) -> None:
    assert law(name, (3,), **parameters) == expected


# Functions of the index and matrices ---------------------------------------------------------------------------------


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_eye_is_that_of_torch(shape: tuple[int, int]) -> None:
    np.testing.assert_array_equal(dense(law("eye", shape), shape), torch.nn.init.eye_(torch.empty(shape)))


@given(kernels, st.integers(1, 4))
def test_dirac_is_that_of_torch(shape: tuple[int, ...], groups: int) -> None:
    shape = (shape[0] * groups, *shape[1:])
    expected = torch.nn.init.dirac_(torch.empty(shape), groups)
    np.testing.assert_array_equal(dense(law("dirac", shape, groups=groups), shape), expected)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple), st.floats(-9, 9))
def test_identity_is_a_stack_of_scaled_identity_matrices(shape: tuple[int, ...], gain: float) -> None:
    expected = np.broadcast_to(gain * np.eye(shape[-2], shape[-1]), shape)
    np.testing.assert_array_equal(dense(law("identity", shape, gain=gain), shape), expected)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5).map(tuple))
def test_orthogonal_flattens_all_but_the_first_dimension_as_torch_does(shape: tuple[int, ...]) -> None:
    assert law("orthogonal", shape, gain=0.5) == Orthogonal(shape[0], prod(shape[1:]), 0.5)


@given(kernels)
def test_delta_orthogonal_has_its_matrix_at_the_centre_of_the_kernel(shape: tuple[int, ...]) -> None:
    rows, cols, kernel = max(shape[:2]), min(shape[:2]), shape[2:]
    found = law("delta_orthogonal", (rows, cols, *kernel))
    centre = np.ravel_multi_index(tuple((size - 1) // 2 for size in kernel), kernel)
    assert found == Orthogonal(rows, cols, 1.0, prod(kernel), int(centre))


@pytest.mark.parametrize(
    ("shape", "names", "expected"),
    [
        # What torch's layout is anyway has the law, and so the bits, that it has without names.
        ((6, 4, 3), {"layout": "torch", "out_axis": (0,), "in_axis": (1,)}, Orthogonal(6, 12, 1.0)),
        ((6, 4, 3), {"in_axis": (1, 2), "out_axis": (0,)}, Orthogonal(6, 12, 1.0)),
        ((1, 6, 4), {"batch_axis": (0,)}, Orthogonal(6, 4, 1.0)),
        ((4, 6), {"layout": "jax"}, OrthogonalStack(6, 4, 1.0, 1, 0, 1, (4, 6), (1, 4))),
        ((3, 2, 4, 6), {"layout": "jax"}, OrthogonalStack(6, 24, 1.0, 1, 0, 1, (6, 4, 6), (1, 6, 24))),
        ((5, 6, 4), {"batch_axis": (0,)}, OrthogonalStack(6, 4, 1.0, 1, 0, 5, (120,), (1,))),
        ((5, 4, 6), {"batch_axis": (0,), "layout": "jax"}, OrthogonalStack(6, 4, 1.0, 1, 0, 5, (5, 4, 6), (24, 1, 4))),
        ((12, 2, 4), {"in_axis": (0,), "out_axis": (1, 2)}, OrthogonalStack(8, 12, 1.0, 1, 0, 1, (12, 8), (1, 12))),
        (
            (12, 2, 4),
            {"in_axis": (0,), "out_axis": (2,), "batch_axis": (1,)},
            OrthogonalStack(4, 12, 1.0, 1, 0, 2, (12, 8), (1, 12)),
        ),
    ],
)
def test_orthogonal_is_outputs_by_all_the_others_but_the_batch(
    shape: tuple[int, ...], names: dict[str, Any], expected: Law
) -> None:
    assert law("orthogonal", shape, **names) == expected


@pytest.mark.parametrize(
    ("shape", "names", "expected"),
    [
        ((3, 4, 6), {"layout": "jax"}, OrthogonalStack(6, 4, 1.0, 3, 1, 1, (3, 4, 6), (1, 3, 12))),
        ((2, 6, 4, 4), {"batch_axis": (0,)}, OrthogonalStack(6, 4, 1.0, 4, 1, 2, (192,), (1,))),
        ((2, 6, 4, 3, 3, 3), {"batch_axis": (0,)}, OrthogonalStack(6, 4, 1.0, 27, 13, 2, (1296,), (1,))),
    ],
)
def test_delta_orthogonal_has_its_matrices_at_the_centre_of_the_kernel_wherever_that_is(
    shape: tuple[int, ...], names: dict[str, Any], expected: Law
) -> None:
    assert law("delta_orthogonal", shape, **names) == expected


@given(st.integers(0, 50), st.floats(0, 1))
def test_sparse_has_as_many_zeros_in_a_column_as_torch(rows: int, sparsity: float) -> None:
    found = law("sparse", (rows, 3), sparsity=sparsity)
    assert found == Sparse(rows, 3, ceil(sparsity * rows), 0.01)
    assert isinstance(found, Sparse)
    assert 0 <= found.zeros <= rows


# Refusals ------------------------------------------------------------------------------------------------------------

REFUSALS: list[tuple[str, tuple[int, ...], dict[str, Any], str]] = [
    ("uniform", (3,), {"a": 1.0, "b": 0.0}, "a"),
    ("eye", (3,), {}, "shape"),
    ("eye", (3, 3, 3), {}, "shape"),
    ("dirac", (3, 3), {}, "shape"),
    ("dirac", (3, 3, 1, 1, 1, 1), {}, "shape"),
    ("dirac", (3, 3, 1), {"groups": 2}, "groups"),
    ("xavier_uniform", (3,), {}, "shape"),
    ("xavier_normal", (), {}, "shape"),
    ("kaiming_uniform", (3,), {}, "shape"),
    ("kaiming_normal", (3, 3), {"nonlinearity": "gelu"}, "nonlinearity"),
    ("orthogonal", (3,), {}, "shape"),
    ("sparse", (3,), {"sparsity": 0.5}, "shape"),
    ("sparse", (3, 3, 3), {"sparsity": 0.5}, "shape"),
]


@pytest.mark.parametrize(("name", "shape", "parameters", "field"), REFUSALS)
def test_what_torch_refuses_is_refused_in_its_words(
    name: str, shape: tuple[int, ...], parameters: dict[str, Any], field: str
) -> None:
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        getattr(torch.nn.init, f"{name}_")(torch.empty(shape), **parameters)
    with pytest.raises(InvalidSpec) as ours:
        law(name, shape, **parameters)
    assert ours.value.detail == str(theirs.value)
    assert ours.value.field == field


@pytest.mark.parametrize(
    ("name", "shape", "parameters", "field"),
    [
        ("trunc_normal", (3,), {"a": 1.0, "b": 0.0}, "a"),
        ("truncated_normal", (3,), {"lower": 1.0, "upper": 0.0}, "lower"),
        ("truncated_normal", (3,), {"lower": -2.0, "std": 1e308}, "lower"),
        ("truncated_normal", (3,), {"lower": 0.0, "mean": 1e308, "std": 1e308, "upper": 1.0}, "upper"),
        ("identity", (3,), {}, "shape"),
        ("delta_orthogonal", (3, 3), {}, "shape"),
        ("delta_orthogonal", (2, 3, 1), {}, "shape"),
        ("delta_orthogonal", (3, 2, 1), {"in_axis": (0,), "out_axis": (1,)}, "shape"),
        ("delta_orthogonal", (2, 3, 3), {"batch_axis": (0,)}, "shape"),
        ("orthogonal", (3, 5), {"batch_axis": (0,)}, "shape"),
        ("orthogonal", (3, 5), {"in_axis": (0,)}, "in_axis"),
        ("orthogonal", (3, 5), {"batch_axis": (2,)}, "batch_axis"),
        ("lecun_normal", (3, 5), {"batch_axis": (0,)}, "shape"),
        ("lecun_normal", (3, 0), {"batch_axis": (2,)}, "batch_axis"),
        ("xavier_normal", (4, 4), {"in_axis": (1,), "groups": 2}, "groups"),
        ("xavier_normal", (4, 4), {"out_axis": (0,), "transposed": True}, "transposed"),
        ("lecun_normal", (3,), {}, "shape"),
        ("xavier_normal", (3, 3), {"groups": 2}, "groups"),
        ("kaiming_normal", (3, 3), {"a": 1e200}, "a"),
        ("kaiming_uniform", (3, 3), {"a": 1e200}, "a"),
    ],
)
@pytest.mark.parametrize("portable", [True, False])
def test_what_has_no_law_is_refused_by_a_field_of_the_scheme(
    name: str, shape: tuple[int, ...], parameters: dict[str, Any], field: str, portable: bool
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        law(name, shape, portable=portable, **parameters)
    assert caught.value.field == field
    assert caught.value.expected


@pytest.mark.parametrize("nonlinearity", ["relu", "linear", "selu"])
def test_the_slope_of_anything_but_a_leaky_rectifier_is_not_looked_at(nonlinearity: str) -> None:
    assert law("kaiming_normal", (3, 3), a=1e200, nonlinearity=nonlinearity) == law(
        "kaiming_normal", (3, 3), nonlinearity=nonlinearity
    )


# Schemes that draw nothing -------------------------------------------------------------------------------------------


def test_fixed_schemes_are_those_whose_laws_have_nothing_random() -> None:
    needed: dict[str, Any] = {"val": 1.0, "sparsity": 0.5, "values": (1.0,), "dims": (), "low": 0, "high": 2}
    shapes = {"eye": (4, 4), "sparse": (4, 4)}
    laws = {
        name: law(name, shapes.get(name, (4, 4, 3)), **{key: value for key, value in needed.items() if key in own})
        for name, own in ((name, {each.name for each in scheme.parameters}) for name, scheme in SCHEMES.items())
    }
    assert {name for name, each in laws.items() if each.is_deterministic} == FIXED
