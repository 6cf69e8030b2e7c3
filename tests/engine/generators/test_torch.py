import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightwell_engine.dtypes import FLOATS
from weightwell_engine.exceptions import UnsupportedSpec
from weightwell_engine.generators import DrawingStopped
from weightwell_engine.generators import torch as module
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.generators.factory import make_generator
from weightwell_engine.generators.torch import TorchGenerator
from weightwell_engine.laws import Law, TruncatedNormal
from weightwell_engine.parsing import read_document
from weightwell_engine.plan import Plan, make_plan
from weightwell_engine.schemes import SCHEMES, TRUNCATED_AT_2_STD
from weightwell_engine.virtual_file import VirtualFile

Fields = dict[str, Any]
Fill = Callable[..., torch.Tensor]

GENERATOR = TorchGenerator(Cpu())


# The numbers under test ----------------------------------------------------------------------------------------------


def plan(**fields: Any) -> Plan:
    """Plan one tensor, or with ``tensors`` a manifest, for generator=torch on the CPU."""
    spec = read_document(json.dumps({"generator": "torch", **fields}).encode())
    planned = make_plan(spec, GENERATOR.identity, portable=GENERATOR.portable, max_bytes=2**50)
    GENERATOR.check(planned)
    return planned


def draw(plan: Plan, file: VirtualFile, start: int, stop: int) -> memoryview:
    """Return bytes of a file's data."""
    prefix = len(plan.header)
    return file.read(prefix + start, prefix + stop)


def drawn(planned: Plan) -> dict[str, torch.Tensor]:
    """Draw a file whole and return its tensors."""
    data, drawing = bytearray(planned.data_nbytes), VirtualFile(planned, GENERATOR)
    data[:] = draw(planned, drawing, 0, planned.data_nbytes)
    return {tensor.name: view(data, planned, tensor.name) for tensor in planned.tensors}


def view(data: bytearray, planned: Plan, name: str) -> torch.Tensor:
    [tensor] = [tensor for tensor in planned.tensors if tensor.name == name]
    dtype = getattr(torch, tensor.dtype.name)
    if not tensor.size:
        return torch.empty(tensor.region.extent, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=tensor.size, offset=tensor.offset).view(tensor.region.extent)


def one(**fields: Any) -> torch.Tensor:
    return drawn(plan(**fields))["weight"]


def identical(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors are the same bit for bit, signs of zero and all."""
    words = [tensor.flatten().contiguous().view(torch.uint8) for tensor in (ours, theirs)]
    return ours.shape == theirs.shape and ours.dtype == theirs.dtype and torch.equal(*words)


# The oracle: torch itself --------------------------------------------------------------------------------------------


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def local(
    scheme: str, shape: tuple[int, ...], dtype: str, generator: torch.Generator, **parameters: Any
) -> torch.Tensor:
    """Return what torch gives here for a scheme: its own initializer, or for what it lacks its own samplers."""
    weight = torch.empty(shape, dtype=getattr(torch, dtype))
    if scheme in BEYOND_TORCH:
        return BEYOND_TORCH[scheme](weight, generator, **parameters)
    if scheme == "sparse":
        return sparse(weight, generator, **parameters)
    fill: Fill = getattr(torch.nn.init, f"{scheme}_")
    return (
        fill(weight, **parameters) if scheme in WITHOUT_GENERATOR else fill(weight, generator=generator, **parameters)
    )


def sparse(weight: torch.Tensor, generator: torch.Generator, **parameters: Any) -> torch.Tensor:
    """Fill with torch's sparse_, whose mask follows the global generator: so let that be the one."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator.get_state())
        torch.nn.init.sparse_(weight, **parameters)
        generator.set_state(torch.random.get_rng_state())
    return weight


def variance_scaling(
    weight: torch.Tensor, generator: torch.Generator, scale: float = 1.0, distribution: str = "truncated_normal"
) -> torch.Tensor:
    fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(weight)
    std = (scale / fan_in) ** 0.5
    if distribution == "uniform":
        return weight.uniform_(-(3.0**0.5) * std, 3.0**0.5 * std, generator=generator)
    if distribution == "normal":
        return weight.normal_(0, std, generator=generator)
    wide = std / TRUNCATED_AT_2_STD
    return torch.nn.init.trunc_normal_(weight, 0, wide, -2 * wide, 2 * wide, generator=generator)


def truncated_normal(
    weight: torch.Tensor,
    generator: torch.Generator,
    mean: float = 0.0,
    std: float = 1.0,
    lower: float = -2,
    upper: float = 2,
) -> torch.Tensor:
    return torch.nn.init.trunc_normal_(weight, mean, std, mean + lower * std, mean + upper * std, generator=generator)


def delta_orthogonal(weight: torch.Tensor, generator: torch.Generator, gain: float = 1.0) -> torch.Tensor:
    matrix = torch.nn.init.orthogonal_(weight.new_empty(weight.shape[:2]), gain, generator=generator)
    centre = tuple((size - 1) // 2 for size in weight.shape[2:])
    weight.zero_().movedim((0, 1), (-2, -1))[centre] = matrix
    return weight


def identity(weight: torch.Tensor, _: torch.Generator, gain: float = 1.0) -> torch.Tensor:
    weight.zero_().diagonal(dim1=-2, dim2=-1).fill_(gain)
    return weight


def given_numbers(
    weight: torch.Tensor, generator: torch.Generator, values: list[float], dims: list[int]
) -> torch.Tensor:
    del generator
    carrier = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return weight.copy_(torch.tensor(values, dtype=torch.float64).reshape(dims).to(carrier))


def clamped_normal(
    weight: torch.Tensor,
    generator: torch.Generator,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
) -> torch.Tensor:
    return weight.normal_(mean, std, generator=generator).clamp_(a, b)


BEYOND_TORCH: dict[str, Fill] = {
    "clamped_normal": clamped_normal,
    "values": given_numbers,
    "variance_scaling": variance_scaling,
    "lecun_uniform": lambda weight, generator: variance_scaling(weight, generator, distribution="uniform"),
    "lecun_normal": variance_scaling,
    "truncated_normal": truncated_normal,
    "delta_orthogonal": delta_orthogonal,
    "identity": identity,
}
WITHOUT_GENERATOR = {"constant", "ones", "zeros", "eye", "dirac"}

VECTORS: list[tuple[int, ...]]
MATRICES: list[tuple[int, ...]]
KERNELS: list[tuple[int, ...]]
VECTORS, MATRICES, KERNELS = [(), (7,), (16,), (33,)], [(3, 5), (5, 3), (16, 4), (1, 1)], [(6, 4, 3), (4, 4, 2, 3)]

# What is drawn of every scheme, in every dtype: some shapes, and some parameters.
CASES: dict[str, tuple[list[tuple[int, ...]], list[Fields]]] = {
    "constant": (VECTORS, [{"val": 0.3}, {"val": -0.0}, {"val": 1e-9}]),
    "ones": (VECTORS, [{}]),
    "zeros": (VECTORS, [{}]),
    "eye": (MATRICES, [{}]),
    "identity": (MATRICES + KERNELS, [{}, {"gain": -0.3}]),
    "dirac": (KERNELS, [{}, {"groups": 2}]),
    "uniform": (VECTORS + MATRICES, [{}, {"a": -3.0, "b": 0.25}, {"a": 2.0, "b": 2.0}]),
    "normal": (VECTORS + MATRICES, [{}, {"mean": 1.5, "std": 0.02}, {"mean": 1.5, "std": 0.0}]),
    "trunc_normal": (VECTORS + MATRICES, [{}, {"std": 0.02}, {"a": 1.0, "b": 2.0}, {"a": 0.5, "b": 0.5}]),
    "truncated_normal": (
        VECTORS + MATRICES,
        [{}, {"mean": 0.5, "std": 0.1, "lower": -1.0}, {"lower": 1.0, "upper": 3.0}],
    ),
    "clamped_normal": (VECTORS + MATRICES, [{}, {"mean": 0.5, "std": 0.1, "a": 0.45, "b": 0.7}]),
    "values": (
        MATRICES + KERNELS,
        [{"values": [0.1], "dims": [1]}, {"values": [-0.0], "dims": []}, {"values": [1.5], "dims": [1, 1]}],
    ),
    "xavier_uniform": (MATRICES + KERNELS, [{}, {"gain": 5 / 3}, {"gain": 0.0}]),
    "xavier_normal": (MATRICES + KERNELS, [{}, {"gain": 5 / 3}, {"gain": 0.0}]),
    "kaiming_uniform": (MATRICES + KERNELS, [{}, {"a": 5**0.5}, {"mode": "fan_out", "nonlinearity": "relu"}]),
    "kaiming_normal": (MATRICES + KERNELS, [{}, {"a": -0.2}, {"mode": "fan_out", "nonlinearity": "selu"}]),
    "variance_scaling": (
        MATRICES + KERNELS,
        [{}, {"scale": 2.0, "distribution": "uniform"}, {"distribution": "normal"}],
    ),
    "lecun_uniform": (MATRICES + KERNELS, [{}]),
    "lecun_normal": (MATRICES + KERNELS, [{}]),
    "orthogonal": (MATRICES + KERNELS, [{}, {"gain": -0.5}]),
    "delta_orthogonal": (KERNELS, [{}, {"gain": 2.0}]),
    "sparse": (MATRICES, [{"sparsity": 0.3}, {"sparsity": 0.0}, {"sparsity": 1.0, "std": 0.5}]),
}


# The dtypes that torch has kernels for.
DRAWABLE = ("float32", "float64", "float16", "bfloat16")
DRAWN_IN = dict.fromkeys(CASES, DRAWABLE) | {
    **{name: tuple(FLOATS) for name in WITHOUT_GENERATOR | {"identity", "values"}},
    **dict.fromkeys(("orthogonal", "delta_orthogonal"), DRAWABLE[:2]),
}


def test_every_scheme_is_compared_with_torch() -> None:
    assert set(CASES) == set(SCHEMES) - {"randint", "power_of_two"}  # which no dtype of these cases can have


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        *(("int64", 1 - 2**53, 2**53), ("int64", 0, 50257), ("int32", -(2**31), 2**31), ("int32", 0, 3)),
        *(("int16", -300, 301), ("int8", -128, 128), ("uint8", 0, 255), ("bool", 0, 2)),
    ],
)
@pytest.mark.parametrize("shape", [(), (33,), (5, 7), (3, 2**18)])
def test_uniform_integers_are_those_of_random(dtype: str, low: int, high: int, shape: tuple[int, ...]) -> None:
    ours = one(scheme="randint", shape=shape, low=low, high=high, dtype=dtype, seed=3)
    assert identical(ours, torch.empty(shape, dtype=getattr(torch, dtype)).random_(low, high, generator=seeded(3)))


def test_powers_of_two_are_refused() -> None:
    with pytest.raises(UnsupportedSpec, match="torch has no function that draws powers of two; use generator=philox"):
        plan(scheme="power_of_two", shape=[3], low=0, high=2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scheme", CASES)
def test_a_scheme_has_the_bits_of_torch_or_both_refuse(scheme: str, dtype: str) -> None:
    shapes, parameters = CASES[scheme]
    for shape, case, seed in product(shapes, parameters, (0, 2**64 - 1)):
        fields = {"shape": shape, "scheme": scheme, "dtype": dtype, "seed": seed, **case}
        if dtype in DRAWN_IN[scheme]:
            assert identical(one(**fields), local(scheme, shape, dtype, seeded(seed), **case)), fields
            continue
        with pytest.raises(UnsupportedSpec, match=f"in {dtype}; use one of "):
            plan(**fields)
        with pytest.raises(NotImplementedError):
            local(scheme, shape, dtype, seeded(seed), **case)


@given(
    st.sampled_from(["uniform", "normal", "trunc_normal", "xavier_normal", "orthogonal"]),
    st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple),
    st.integers(0, 2**64 - 1),
)
def test_any_shape_and_seed_have_the_bits_of_torch(scheme: str, shape: tuple[int, ...], seed: int) -> None:
    assert identical(one(shape=shape, scheme=scheme, seed=seed), local(scheme, shape, "float32", seeded(seed)))


# Where torch is wrong, or has nothing --------------------------------------------------------------------------------


def test_sparse_is_torch_s_own_under_its_global_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        expected = torch.nn.init.sparse_(torch.empty(64, 16), 0.3)
    assert identical(one(shape=[64, 16], scheme="sparse", sparsity=0.3, seed=42), expected)


def test_a_truncated_normal_without_width_is_a_constant_where_torch_divides_by_zero() -> None:
    with pytest.raises(ZeroDivisionError):
        torch.nn.init.trunc_normal_(torch.empty(3), 0.5, 0.0)
    assert one(shape=[3], scheme="trunc_normal", mean=0.5, std=0).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_tensor_without_elements_is_drawn_in_every_dtype(name: str, dtype: str) -> None:
    shape = (3, 0) if SCHEMES[name].ndim[1] == 2 else (3, 2, 0)
    fields = CASES[name][1][0]
    assert one(shape=shape, scheme=name, dtype=dtype, **fields).shape == shape


def test_tensors_without_elements_take_nothing_from_those_that_follow() -> None:
    empty = {
        f"a{i}": {"shape": [3, 2, 0], "scheme": s} for i, s in enumerate(["normal", "orthogonal", "delta_orthogonal"])
    }
    found = drawn(plan(tensors={**empty, "w": {"shape": [5], "scheme": "normal"}}))["w"]
    assert identical(found, one(shape=[5], scheme="normal"))


@pytest.mark.parametrize(
    "parameters",
    [
        {"a": 1000, "b": 2000},
        {"a": 0.6, "b": 1e30},
        {"a": 1, "b": 2, "std": 1e-20},
        {"a": 1, "b": 2, "std": 1e-200, "dtype": "float64"},
        {"a": 1e39, "b": 2e39},
        {"a": -2e39, "b": -1e39, "mean": -3e38},
        {"a": -1e300, "b": -5e299, "dtype": "float64"},
        {"a": 1, "b": 1, "std": 1e-200, "dtype": "float64"},
        {"a": 0, "b": 0, "mean": 1, "std": 1e-200, "dtype": "float64"},
        {"a": 300, "b": 300.1, "dtype": "float16"},
        # Bounds that the dtype rounds to where the normal has next to nothing.
        {"a": 1e8 + 5, "b": 1e8 + 6, "mean": 1e8},
        {"a": 1 + 5.46e-8, "b": 1 + 5.959e-8, "mean": 1 + 5.973e-8, "std": 1e-9},
    ],
)
def test_a_truncated_normal_that_torch_cannot_finish_is_refused_before_it_begins(parameters: Fields) -> None:
    with pytest.raises(UnsupportedSpec):
        plan(shape=[1000], scheme="trunc_normal", **parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"a": 3, "b": 4},
        {"a": -4, "b": -3},
        {"a": -1e39, "b": 1e39},
        {"a": 0.5, "b": 1e39},
        {"std": 0.001},
        {"mean": 1, "std": 0.001},
        {"a": 0.5, "b": 0.5},
        {"mean": 3},
    ],
)
def test_a_truncated_normal_that_torch_finishes_is_torch_s(parameters: Fields, dtype: str) -> None:
    expected = local("trunc_normal", (99,), dtype, seeded(0), **parameters)
    assert identical(one(shape=[99], scheme="trunc_normal", dtype=dtype, **parameters), expected)


@pytest.mark.parametrize(
    ("scheme", "shape", "order", "names"),
    [
        ("orthogonal", (5, 9, 6), (0, 1, 2), {"batch_axis": 0}),
        ("orthogonal", (9, 6), (1, 0), {"layout": "jax"}),
        ("orthogonal", (5, 6, 9), (0, 2, 1), {"batch_axis": 0, "layout": "jax"}),
        ("orthogonal", (3, 2, 4, 5), (3, 2, 0, 1), {"layout": "jax"}),
        ("orthogonal", (7, 3, 4), (1, 2, 0), {"in_axis": 0, "out_axis": 2, "batch_axis": 1}),
        ("delta_orthogonal", (2, 3, 4, 6), (3, 2, 0, 1), {"layout": "jax"}),
        ("delta_orthogonal", (2, 6, 4, 3), (0, 1, 2, 3), {"batch_axis": 0}),
    ],
)
@pytest.mark.parametrize("dtype", DRAWABLE[:2])
def test_orthogonal_matrices_are_drawn_one_after_the_other_and_laid_out_as_the_axes_say(
    scheme: str, shape: tuple[int, ...], order: tuple[int, ...], names: Fields, dtype: str
) -> None:
    """``order`` has the axes in the order batch, out, in, kernel."""
    generator, sizes = seeded(3), tuple(shape[axis] for axis in order)
    count = sizes[0] if "batch_axis" in names else 1
    stacked = [local(scheme, sizes[-len(sizes) + ("batch_axis" in names) :], dtype, generator) for _ in range(count)]
    expected = torch.stack(stacked).view(sizes).permute(*torch.tensor(order).argsort().tolist())
    found = one(shape=shape, scheme=scheme, dtype=dtype, seed=3, **names)
    assert identical(found, expected)
    assert identical(one(shape=shape, scheme=scheme, dtype=dtype, seed=3, slice="1:", **names), expected[1:])


def test_a_law_by_the_fans_of_another_layout_is_torch_s_by_the_fans_of_the_other_shape() -> None:
    ours = one(shape=[6, 4], scheme="kaiming_uniform", layout="jax", seed=3)
    assert identical(ours.view(4, 6), local("kaiming_uniform", (4, 6), "float32", seeded(3)))


def test_stacked_matrices_are_refused_in_the_dtypes_in_which_a_matrix_is() -> None:
    with pytest.raises(UnsupportedSpec, match="in bfloat16; use one of float32, float64, or another generator"):
        plan(shape=[2, 4, 3], scheme="orthogonal", batch_axis=0, dtype="bfloat16")


def test_tensors_of_different_seeds_cannot_come_from_one_generator() -> None:
    tensors = {"a": {"shape": [3], "scheme": "normal", "seed": 1}, "b": {"shape": [3], "scheme": "normal", "seed": 2}}
    with pytest.raises(UnsupportedSpec, match="give one seed in the manifest, next to tensors") as caught:
        plan(tensors=tensors)
    assert caught.value.field.endswith("seed")


# Blocks --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of elements of each call of torch."""
    sizes: list[int] = []
    whole = module._Generators.draw

    def counted(self: Any, law: Law, values: torch.Tensor, go_on: Callable[[], None]) -> None:
        sizes.append(len(values))
        whole(self, law, values, go_on)

    monkeypatch.setattr(module._Generators, "draw", counted)
    return sizes


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "_BLOCK", 64)
    return 64


SIZES = [
    1,
    2,
    15,
    16,
    17,
    63,
    64,
    65,
    79,
    80,
    81,
    95,
    96,
    127,
    128,
    129,
    143,
    144,
    145,
    191,
    192,
    193,
    207,
    208,
    209,
    1001,
]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("scheme", ["uniform", "normal"])
def test_blocks_are_the_bits_of_one_call(scheme: str, dtype: str) -> None:
    for size in SIZES:
        found = one(shape=[size], scheme=scheme, dtype=dtype, seed=size)
        assert identical(found, local(scheme, (size,), dtype, seeded(size))), size


@pytest.mark.parametrize("excess", [-17, -16, -1, 0, 1, 15, 16, 17])
def test_blocks_of_the_real_size_are_the_bits_of_one_call(excess: int) -> None:
    size = module._BLOCK + excess
    assert torch.equal(one(shape=[size], scheme="normal"), local("normal", (size,), "float32", seeded(0)))


@pytest.mark.parametrize("scheme", ["uniform", "normal"])
def test_several_blocks_of_the_real_size_are_the_bits_of_one_call(scheme: str) -> None:
    shape = (3, module._BLOCK + 5)
    assert torch.equal(one(shape=shape, scheme=scheme), local(scheme, shape, "float32", seeded(0)))


def test_a_drawing_keeps_one_block_of_a_tensor_however_large(draws: list[int]) -> None:
    planned = plan(shape=[2**40], scheme="normal")
    assert GENERATOR.footprint(planned) == 0
    draw(planned, VirtualFile(planned, GENERATOR), 0, 2**20)
    assert draws == [module._BLOCK]


def test_a_drawing_that_is_closed_on_its_way_goes_no_further(draws: list[int]) -> None:
    planned = plan(shape=[2**40], scheme="normal")
    drawing = GENERATOR.open(planned)
    drawing.close()
    with pytest.raises(DrawingStopped):
        drawing.fill(tuple(planned.pieces(planned.data_nbytes - 8, planned.data_nbytes)), memoryview(bytearray(8)))
    assert len(draws) == 1


def test_a_truncated_normal_is_stopped_between_the_passes_of_its_sampler() -> None:
    asked: list[int] = []

    def go_on() -> None:
        asked.append(len(asked))
        if len(asked) >= 1000:
            raise DrawingStopped

    law = TruncatedNormal(0.0, 1.0, 9.0, 19.0)
    with pytest.raises(DrawingStopped):
        module._Generators(torch.device("cpu"), 0).draw(law, torch.empty(10**4), go_on)
    assert len(asked) == 1000
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("law", [(-2.0, 2.0), (0.5, 9.0), (1.0, 2.0), (3.0, 4.0), (6.0, 9.0)])
def test_the_passes_of_the_sampler_are_estimated(law: tuple[float, float]) -> None:
    drawn: list[str] = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            drawn.append(func.__name__)
            return func(*args, **(kwargs or {}))

    values = torch.empty(5000)
    with Counting():
        torch.nn.init.trunc_normal_(values, 0, 1, *law, generator=seeded(0))
    passes = max(drawn.count("normal_"), drawn.count("uniform_") / 2)
    assert passes == pytest.approx(module._passes(TruncatedNormal(0.0, 1.0, *law), 5000), rel=0.6, abs=2)


def test_a_truncated_normal_of_too_many_passes_is_refused_before_it_begins() -> None:
    fields = {"scheme": "trunc_normal", "a": 9, "b": 19}
    plan(shape=[10**6], **fields)
    with pytest.raises(UnsupportedSpec, match=r"would pass about 1\d{3} times over 50000000 elements") as refused:
        plan(shape=[50_000_000], **fields)
    assert refused.value.field == "shape"
    plan(shape=[150_000_000], scheme="trunc_normal")


# Manifests -----------------------------------------------------------------------------------------------------------

# In an order that is not the file's, with normals so few that torch keeps half of a pair for the next call.
MANIFEST: dict[str, Fields] = {
    "h": {"shape": [5], "scheme": "normal"},
    "c": {"shape": [4, 4], "scheme": "eye"},
    "g": {"shape": [100], "scheme": "normal", "dtype": "bfloat16"},
    "f": {"shape": [3], "scheme": "normal", "dtype": "float64"},
    "b": {"shape": [7], "scheme": "normal", "dtype": "float16"},
    "e": {"shape": [9, 4], "scheme": "sparse", "sparsity": 0.5},
    "d": {"shape": [0, 4], "scheme": "uniform"},
    "a": {"shape": [70], "scheme": "uniform", "dtype": "float64"},
    "i": {"shape": [6, 4], "scheme": "orthogonal"},
    "k": {"shape": [33], "scheme": "trunc_normal"},
    "j": {"shape": [200], "scheme": "normal"},
}


def in_order(seed: int) -> dict[str, torch.Tensor]:
    generator, tensors = seeded(seed), {}
    for name, fields in MANIFEST.items():
        rest = {key: value for key, value in fields.items() if key not in ("shape", "scheme", "dtype")}
        shape, dtype = tuple(fields["shape"]), fields.get("dtype", "float32")
        tensors[name] = local(fields["scheme"], shape, dtype, generator, **rest)
    return tensors


@pytest.mark.usefixtures("small_blocks")
def test_a_manifest_is_drawn_in_its_order_from_one_generator() -> None:
    expected = in_order(3)
    found = drawn(plan(tensors=MANIFEST, seed=3))
    assert [name for name in expected if not identical(found[name], expected[name])] == []


@pytest.fixture(scope="module")
def file() -> tuple[Plan, bytes]:
    planned = plan(tensors=MANIFEST, seed=3)
    return planned, bytes(draw(planned, VirtualFile(planned, GENERATOR), 0, planned.data_nbytes))


@given(st.lists(st.integers(0, 2500), min_size=2, max_size=8))
def test_any_ranges_in_any_order_of_one_drawing_are_the_bytes_of_the_file(
    file: tuple[Plan, bytes], cuts: list[int]
) -> None:
    planned, data = file
    drawing = VirtualFile(planned, GENERATOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", 32)
        for start, stop in map(sorted, pairwise(min(cut, len(data)) for cut in cuts)):
            assert bytes(draw(planned, drawing, start, stop)) == data[start:stop]


def test_a_file_in_the_order_of_drawing_is_drawn_once(draws: list[int]) -> None:
    planned = plan(tensors={name: {"shape": [32], "scheme": "normal"} for name in "abcd"})
    draw(planned, VirtualFile(planned, GENERATOR), 0, planned.data_nbytes)
    assert draws == [32] * 4


def test_going_back_to_a_tensor_does_not_draw_those_before_it_again(draws: list[int]) -> None:
    planned = plan(tensors={name: {"shape": [32], "scheme": "normal"} for name in "dcba"})
    drawing = VirtualFile(planned, GENERATOR)
    draw(planned, drawing, 0, planned.data_nbytes)
    assert draws == [32] * 7  # the file's first is drawn last, and so the others twice
    draw(planned, drawing, planned.tensors[2].offset, planned.tensors[2].offset + 8)
    assert len(draws) == 8


# Slices --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", CASES)
def test_a_slice_is_the_slice_of_the_whole(scheme: str) -> None:
    shapes, parameters = CASES[scheme]
    shape = shapes[-1]
    whole = one(shape=shape, scheme=scheme, seed=1, **parameters[0])
    for start, stop in ((0, 1), (1, shape[0]), (shape[0] // 2, shape[0] // 2)):
        bounds = (slice(start, stop), *(slice(size // 3, size) for size in shape[1:]))
        text = ",".join(f"{each.start}:{each.stop}" for each in bounds)
        assert identical(one(shape=shape, scheme=scheme, seed=1, slice=text, **parameters[0]), whole[bounds])


def test_a_slice_does_not_change_the_tensors_after_it() -> None:
    tensors = {"a": {"shape": [50, 2], "scheme": "normal", "slice": "3:4,:"}, "b": {"shape": [5], "scheme": "normal"}}
    generator = seeded(0)
    local("normal", (50, 2), "float32", generator)
    assert identical(drawn(plan(tensors=tensors))["b"], local("normal", (5,), "float32", generator))


# Several at once -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _untouched_global_generator() -> Iterator[None]:
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("_untouched_global_generator")
@pytest.mark.parametrize("scheme", CASES)
def test_the_global_generator_is_left_alone(scheme: str) -> None:
    shapes, parameters = CASES[scheme]
    for case in parameters:
        one(shape=shapes[-1], scheme=scheme, **case)


@pytest.mark.usefixtures("_untouched_global_generator")
def test_drawings_in_eight_threads_equal_those_in_one() -> None:
    requests: list[Fields] = [
        {"shape": [64, 32], "scheme": scheme, "seed": seed, **CASES[scheme][1][0]}
        for seed in range(4)
        for scheme in ("normal", "uniform", "trunc_normal", "orthogonal", "sparse", "eye")
    ]
    alone = [one(**fields) for fields in requests]
    together = threading.Barrier(8)

    def repeatedly(shift: int) -> list[int]:
        together.wait()
        order = [(i + shift) % len(requests) for i in range(len(requests))]
        return [i for i in order if not identical(one(**requests[i]), alone[i])]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(repeatedly, range(8))) == [[]] * 8


def test_two_drawings_in_turns_do_not_disturb_one_another(small_blocks: int) -> None:
    plans = [plan(shape=[10 * small_blocks], scheme="normal", seed=seed) for seed in (1, 2)]
    drawings = [VirtualFile(planned, GENERATOR) for planned in plans]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for start in range(0, plans[0].data_nbytes, 200):
        for planned, drawing, part in zip(plans, drawings, parts, strict=True):
            part.append(bytes(draw(planned, drawing, start, min(start + 200, planned.data_nbytes))))
    for planned, part in zip(plans, parts, strict=True):
        assert b"".join(part) == bytes(draw(planned, VirtualFile(planned, GENERATOR), 0, planned.data_nbytes))


def test_threads_that_share_a_drawing_each_get_their_own_part() -> None:
    planned = plan(shape=[8, 100], scheme="normal")
    data, drawing = (
        bytes(draw(planned, VirtualFile(planned, GENERATOR), 0, planned.data_nbytes)),
        VirtualFile(planned, GENERATOR),
    )
    spans = [(start, start + 400) for start in range(0, planned.data_nbytes, 400)] * 8
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda span: bytes(draw(planned, drawing, *span)), spans))
    assert parts == [data[start:stop] for start, stop in spans]


# The plan ------------------------------------------------------------------------------------------------------------


def test_the_identity_has_everything_that_the_bits_depend_on() -> None:
    assert torch.__version__ in GENERATOR.identity
    assert torch.backends.cpu.get_cpu_capability() in GENERATOR.identity
    assert not GENERATOR.portable


@pytest.mark.parametrize("scheme", CASES)
def test_a_footprint_counts_only_tensors_that_are_drawn_whole(scheme: str) -> None:
    shapes, parameters = CASES[scheme]
    planned = plan(shape=shapes[-1], scheme=scheme, **parameters[0])
    drawn_whole = (
        scheme in {"sparse", "orthogonal", "delta_orthogonal", "lecun_normal", "variance_scaling"} or "trunc" in scheme
    )
    nbytes = prod(shapes[-1]) * 4
    assert nbytes <= GENERATOR.footprint(planned) <= 8 * nbytes if drawn_whole else GENERATOR.footprint(planned) == 0


def test_the_footprint_of_a_slice_is_that_of_the_whole_where_the_whole_has_to_be_drawn() -> None:
    assert GENERATOR.footprint(plan(shape=[1000, 8], scheme="normal", slice="0:1,:")) >= 32_000
    assert GENERATOR.footprint(plan(shape=[1000, 8], scheme="eye", slice="0:1,:")) == 0


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(CASES)),
    st.sampled_from(list(FLOATS)),
    st.dictionaries(
        st.sampled_from(["a", "b", "lower", "upper", "mean", "std", "val", "gain", "scale"]),
        st.floats(allow_nan=False, allow_infinity=False) | st.floats(-4, 4),
        max_size=4,
    ),
)
def test_what_the_plan_lets_pass_can_be_drawn(scheme: str, dtype: str, numbers: dict[str, float]) -> None:
    known = {parameter.name for parameter in SCHEMES[scheme].parameters}
    shapes, parameters = CASES[scheme]
    fields = {**parameters[0], **{key: value for key, value in numbers.items() if key in known}}
    try:
        planned = plan(shape=shapes[-1], scheme=scheme, dtype=dtype, **fields)
    except ValueError:
        return
    drawn(planned)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bounds_that_a_dtype_does_not_hold_are_its_own(dtype: str) -> None:
    fields = {"shape": [50], "scheme": "clamped_normal", "dtype": dtype}
    most = float(torch.finfo(getattr(torch, dtype)).max)
    far, own = ({**fields, "a": -each, "b": 0.5} for each in (1e300, most))
    assert identical(one(**far), one(**own))
    assert set(one(**fields, a=1e300, b=1e301).tolist()) == {most}


def test_a_warm_generator_still_draws_the_same() -> None:
    GENERATOR.warm_up()
    assert identical(one(shape=[20], scheme="normal"), local("normal", (20,), "float32", seeded(0)))


def test_the_cpu_has_a_torch_generator() -> None:
    assert make_generator("torch", Cpu(), threads=2).identity == GENERATOR.identity
