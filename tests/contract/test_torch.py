"""``generator=torch`` over a socket: the bits of ``torch.nn.init`` on this machine."""

import math
import subprocess
from collections.abc import Callable, Iterable, Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import init

from weightwell_engine.dtypes import FLOATS
from weightwell_engine.schemes import ALIASES, SCHEMES, Scheme

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning")

Parameters = dict[str, Any]
Shape = tuple[int, ...]

# torch draws fewer than 16 normals by another algorithm, so both sides of that are here.
SHAPES: tuple[Shape, ...] = (
    *((), (1,), (15,), (16,), (37,)),
    *((1, 1), (3, 5), (5, 3), (4, 4), (8, 33)),
    *((4, 2, 3), (2, 4, 4), (6, 2, 3, 3), (4, 4, 2, 2), (4, 3, 2, 1, 3), (2, 2, 1, 1, 2, 2)),
)
# The dtypes of fewer bits, and float64, take the same way; both sides of 16 and some of each number of dimensions.
FEWER: tuple[Shape, ...] = ((), (15,), (37,), (5, 3), (4, 4), (2, 4, 4), (6, 2, 3, 3), (4, 3, 2, 1, 3))
EMPTY: tuple[Shape, ...] = (
    *((0,), (0, 0), (0, 3), (3, 0), (3, 3, 0), (2, 0, 3)),
    *((0, 0, 1, 1), (2, 2, 0, 1, 3), (1, 1, 1, 1, 1, 0)),
)

RECTIFIERS: tuple[Parameters, ...] = (
    {},
    {"a": sqrt(5), "mode": "fan_out"},
    {"mode": "FAN_IN", "nonlinearity": "relu"},
    {"a": 3, "nonlinearity": "tanh"},
    {"nonlinearity": "gelu"},
    {"mode": "fan_avg"},
)
GAINS: tuple[Parameters, ...] = ({}, {"gain": sqrt(2)}, {"gain": 0}, {"gain": -1})
MATRICES: tuple[Parameters, ...] = ({}, {"gain": 0.5}, {"gain": -2})

# The parameters for each scheme: its defaults, ordinary values, the limits, and values that torch refuses.
CASES: dict[str, tuple[Parameters, ...]] = {
    "constant": ({"val": 0.1}, {"val": -0.0}, {"val": 3}, {"val": 448}, {"val": 1e-30}),
    "ones": ({},),
    "zeros": ({},),
    "eye": ({},),
    "identity": MATRICES,
    "dirac": ({}, {"groups": 2}, {"groups": 3}),
    "values": (
        {"values": "448", "dims": ""},
        {"values": "0.1,-0.0,3", "dims": "3"},
        {"values": "1e-30", "dims": "1,1"},
    ),
    "uniform": ({}, {"a": -0.3, "b": 0.7}, {"a": 2, "b": 2}, {"a": 1, "b": 0}),
    "normal": ({}, {"mean": 3, "std": 0.02}, {"std": 0}, {"std": -1}),
    "trunc_normal": ({}, {"std": 0.02}, {"mean": 5, "a": 0, "b": 1}, {"std": 3, "a": 1, "b": 9}, {"std": 0, "mean": 7}),
    "clamped_normal": ({}, {"mean": 1, "std": 0.5, "a": 0.25, "b": 1.5}, {"a": 1, "b": 0}),
    "truncated_normal": ({}, {"mean": 1, "std": 0.02, "lower": -1, "upper": 3}),
    "xavier_uniform": GAINS,
    "xavier_normal": GAINS,
    "kaiming_uniform": RECTIFIERS,
    "kaiming_normal": RECTIFIERS,
    "variance_scaling": (
        {},
        {"scale": 2, "mode": "fan_out", "distribution": "normal"},
        {"scale": 0.5, "mode": "fan_avg", "distribution": "uniform"},
        {"mode": "fan_geo_avg"},
    ),
    "lecun_uniform": ({},),
    "lecun_normal": ({},),
    "orthogonal": MATRICES,
    "delta_orthogonal": MATRICES,
    "sparse": ({"sparsity": 0.5}, {"sparsity": 0.9, "std": 1}, {"sparsity": 0}, {"sparsity": 1}),
}


# References: torch.nn.init itself, or torch's own operations on an independent formula --------------------------------


def _fan(tensor: Tensor, mode: str) -> float:
    fan_in, fan_out = init._calculate_fan_in_and_fan_out(tensor)
    means = {"fan_avg": (fan_in + fan_out) / 2, "fan_geo_avg": sqrt(fan_in * fan_out)}
    return {"fan_in": fan_in, "fan_out": fan_out, **means}[mode]


def _variance_scaling(
    tensor: Tensor,
    generator: torch.Generator,
    *,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
) -> None:
    std = sqrt(scale / _fan(tensor, mode))
    if distribution == "uniform":
        tensor.uniform_(-sqrt(3.0) * std, sqrt(3.0) * std, generator=generator)
    elif distribution == "normal":
        tensor.normal_(0.0, std, generator=generator)
    else:
        std /= 0.87962566103423978  # Keras and JAX: the standard deviation of N(0, 1) truncated at 2
        init.trunc_normal_(tensor, 0.0, std, -2 * std, 2 * std, generator=generator)


def _truncated_normal(
    tensor: Tensor,
    generator: torch.Generator,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    lower: float = -2.0,
    upper: float = 2.0,
) -> None:
    init.trunc_normal_(tensor, mean, std, mean + lower * std, mean + upper * std, generator=generator)


def _identity(tensor: Tensor, generator: torch.Generator, *, gain: float = 1.0) -> None:
    del generator
    if tensor.dim() < 2:
        raise ValueError("an identity has rows and columns")
    tensor.zero_().diagonal(dim1=-2, dim2=-1).fill_(gain)


def _delta_orthogonal(tensor: Tensor, generator: torch.Generator, *, gain: float = 1.0) -> None:
    rows, cols, *kernel = tensor.shape
    if not 1 <= len(kernel) <= 3 or cols > rows:
        raise ValueError("a delta-orthogonal kernel has no more input than output channels")
    matrix = init.orthogonal_(torch.empty(rows, cols, dtype=tensor.dtype), gain, generator=generator)
    centre: list[Any] = [(size - 1) // 2 for size in kernel]
    tensor.zero_()[(..., *centre)] = matrix


def _trunc_normal(tensor: Tensor, generator: torch.Generator, **parameters: float) -> None:
    # torch divides by a standard deviation of zero; what it would mean is the mean, within the bounds.
    if parameters.get("std") == 0:
        tensor.fill_(min(max(parameters["mean"], -2.0), 2.0))
    else:
        init.trunc_normal_(tensor, **parameters, generator=generator)


def _sparse(tensor: Tensor, generator: torch.Generator, *, sparsity: float, std: float = 0.01) -> None:
    # torch takes the mask from the global generator whatever it is given (pytorch#196941), so only a global seed tells
    # what it would draw from one generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        init.sparse_(tensor, sparsity, std)


def _without_generator(scheme: str) -> Callable[..., Any]:
    fill = getattr(init, f"{scheme}_")
    return lambda tensor, generator, **parameters: fill(tensor, **parameters)  # noqa: ARG005 - as the others are called


def _with_generator(scheme: str) -> Callable[..., Any]:
    fill = getattr(init, f"{scheme}_")
    return lambda tensor, generator, **parameters: fill(tensor, **parameters, generator=generator)


def _values(tensor: Tensor, generator: torch.Generator, *, values: str, dims: str) -> None:
    del generator
    numbers = torch.tensor(list(map(float, values.split(","))), dtype=torch.float64)
    # A number of a narrow dtype is rounded by way of float32, as torch's fill_ does.
    carrier = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    tensor.copy_(numbers.reshape([int(size) for size in dims.split(",") if size]).to(carrier))


def _clamped_normal(
    tensor: Tensor, generator: torch.Generator, *, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> None:
    if a > b:
        raise ValueError("torch sets all to the upper bound then, which nobody means")
    tensor.normal_(mean, std, generator=generator).clamp_(a, b)


BEYOND_TORCH: dict[str, Callable[..., Any]] = {
    "clamped_normal": _clamped_normal,
    "values": _values,
    "identity": _identity,
    "truncated_normal": _truncated_normal,
    "variance_scaling": _variance_scaling,
    "lecun_uniform": lambda tensor, generator: _variance_scaling(tensor, generator, distribution="uniform"),
    "lecun_normal": _variance_scaling,
    "delta_orthogonal": _delta_orthogonal,
}
REFERENCES: dict[str, Callable[..., Any]] = {
    **{name: _with_generator(name) for name in SCHEMES if hasattr(init, f"{name}_")},
    **{name: _without_generator(name) for name in ("constant", "ones", "zeros", "eye", "dirac")},
    "trunc_normal": _trunc_normal,
    "sparse": _sparse,
    **BEYOND_TORCH,
}


def draw(scheme: str, shape: Shape, dtype: str, generator: torch.Generator, parameters: Parameters) -> Tensor:
    """Draw a tensor with torch in this process; raise torch's errors."""
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    with torch.no_grad():
        REFERENCES[scheme](tensor, generator, **parameters)
    return tensor


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at_home(scheme: str, shape: Shape, dtype: str, seed: int, parameters: Parameters) -> Tensor | Exception:
    """Draw a tensor at home; return the exception where torch refuses."""
    try:
        return draw(scheme, shape, dtype, seeded(seed), parameters)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        return error


# The contract --------------------------------------------------------------------------------------------------------


def ask(
    http: httpx.Client, scheme: str, shape: Shape, dtype: str = "float32", seed: int = 0, **fields: Any
) -> httpx.Response:
    query = {"scheme": scheme, "shape": ",".join(map(str, shape)), "dtype": dtype, "seed": str(seed)}
    return http.get("/init", params={**query, "generator": "torch", **fields})


def tensor_of(response: httpx.Response) -> Tensor:
    assert response.status_code == 200, response.text
    return safetensors.torch.load(response.content)["weight"]


def bits(tensor: Tensor) -> tuple[Shape, torch.dtype, bytes]:
    return tuple(tensor.shape), tensor.dtype, tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def difference(expected: Tensor | Exception, response: httpx.Response) -> str | None:
    """Describe how a response differs from torch in this process."""
    if isinstance(expected, Exception):
        return None if response.status_code == 422 else f"torch refuses it: {expected}"
    if response.status_code != 200:
        return f"the service refuses it: {response.text}"
    return None if bits(tensor_of(response)) == bits(expected) else "the bits differ"


def differences(http: httpx.Client, scheme: str, dtype: str, shapes: Iterable[Shape]) -> Iterator[str]:
    for seed, shape in enumerate(shapes):
        for parameters in CASES[scheme]:
            response = ask(http, scheme, shape, dtype, seed, **parameters)
            if found := difference(at_home(scheme, shape, dtype, seed, parameters), response):
                yield f"{shape} {parameters}: {found}"


def test_every_scheme_has_cases_and_a_reference() -> None:
    assert set(CASES) == set(REFERENCES) == set(SCHEMES) - {"randint", "power_of_two"}  # of other dtypes, or refused
    assert set(BEYOND_TORCH) == {scheme for scheme in CASES if not hasattr(init, f"{scheme}_")}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scheme", CASES)
def test_a_tensor_has_the_bits_of_torch_or_is_refused_by_both(
    http: httpx.Client, scheme: str, dtype: str, *, exhaustive: bool
) -> None:
    shapes = SHAPES if exhaustive or dtype in ("float32", "bfloat16") else FEWER
    assert list(differences(http, scheme, dtype, shapes)) == []


WHOLE: tuple[tuple[str, Parameters], ...] = (
    *(("zeros", {}), ("ones", {}), ("constant", {"val": -3}), ("constant", {"val": 2**53 - 1})),
    *(("eye", {}), ("dirac", {"groups": 2}), ("identity", {"gain": 5})),
)


@pytest.mark.parametrize(("scheme", "parameters"), WHOLE)
def test_whole_numbers_have_the_bits_of_torch(http: httpx.Client, scheme: str, parameters: Parameters) -> None:
    for shape in ((), (4,), (4, 3), (4, 3, 3)):
        response = ask(http, scheme, shape, "int64", **parameters)
        assert difference(at_home(scheme, shape, "int64", 0, parameters), response) is None


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scheme", [SCHEMES[name] for name in CASES], ids=CASES)
def test_a_tensor_without_elements_is_served_wherever_it_has_the_right_rank(
    http: httpx.Client, scheme: Scheme, dtype: str
) -> None:
    # torch divides by its fans, or has no kernel, where there is nothing to divide and nothing to draw.
    low, high = scheme.ndim
    for shape in EMPTY:
        response = ask(http, scheme.name, shape, dtype, **CASES[scheme.name][0])
        if low <= len(shape) <= (high or len(shape)):
            assert bits(tensor_of(response)) == (shape, getattr(torch, dtype), b"")
        else:
            assert response.status_code == 422


WITH_FANS = [name for name, scheme in SCHEMES.items() if scheme.needs == "fans"]
REFUSING = [name for name, scheme in SCHEMES.items() if scheme.refusal]


@pytest.mark.parametrize("scheme", WITH_FANS + REFUSING)
def test_a_shape_is_refused_in_the_words_of_torch(http: httpx.Client, scheme: str) -> None:
    refusal = at_home(scheme, (3,), "float32", 0, CASES[scheme][0])
    assert ask(http, scheme, (3,), **CASES[scheme][0]).json()["detail"] == str(refusal)


@pytest.mark.parametrize(
    ("scheme", "shape", "parameters"),
    [
        ("dirac", (4, 2, 3), {"groups": -2}),  # torch: all zeros
        ("sparse", (5, 4), {"sparsity": 1.5}),  # torch: all zeros
        ("sparse", (5, 4), {"sparsity": -0.5}),  # torch: takes the mask from the wrong end
        ("normal", (3,), {"std": math.inf}),  # torch: infinities
        ("trunc_normal", (3,), {"std": math.inf}),
        ("constant", (3,), {"val": math.nan}),
    ],
)
def test_what_torch_draws_by_accident_is_refused(
    http: httpx.Client, scheme: str, shape: Shape, parameters: Parameters
) -> None:
    assert isinstance(at_home(scheme, shape, "float32", 0, parameters), Tensor)
    response = ask(http, scheme, shape, **parameters)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == list(parameters)


@pytest.mark.parametrize("scheme", CASES)
def test_a_tensor_of_many_chunks_has_the_bits_of_torch(http: httpx.Client, scheme: str) -> None:
    # Beyond 2^18 elements and 1 MiB, and multiples of neither.
    shape = (521, 523) if SCHEMES[scheme].ndim[0] <= 2 else (521, 523, 1)
    shape = (523, 521, 1) if scheme == "delta_orthogonal" else shape
    parameters = CASES[scheme][0]
    expected = draw(scheme, shape, "float32", seeded(7), parameters)
    assert bits(tensor_of(ask(http, scheme, shape, seed=7, **parameters))) == bits(expected)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_every_seed_is_the_seed_of_torch(http: httpx.Client, seed: int) -> None:
    expected = draw("normal", (3, 7), "float32", seeded(seed), {})
    assert bits(tensor_of(ask(http, "normal", (3, 7), seed=seed))) == bits(expected)


@pytest.mark.parametrize(("alias", "scheme"), [(alias, name) for alias, name in ALIASES.items() if alias != name])
def test_an_alias_names_the_same_file(http: httpx.Client, alias: str, scheme: str) -> None:
    assert ask(http, alias, (3, 5)).content == ask(http, scheme, (3, 5)).content


@pytest.mark.parametrize("scheme", WITH_FANS)
def test_a_transposed_weight_has_the_fans_of_the_weight_the_other_way_round(http: httpx.Client, scheme: str) -> None:
    expected = draw(scheme, (6, 4, 3), "float32", seeded(0), {})
    assert torch.equal(tensor_of(ask(http, scheme, (4, 6, 3), transposed="true")).flatten(), expected.flatten())


@pytest.mark.parametrize("fields", [{"fan_out": 10}, {"groups": 2}], ids=["given", "from groups"])
def test_the_fan_out_of_a_grouped_convolution_is_that_of_a_group(http: httpx.Client, fields: Parameters) -> None:
    expected = torch.empty(4, 3, 5).normal_(0, sqrt(2 / 10), generator=seeded(3))
    response = ask(http, "kaiming_normal", (4, 3, 5), seed=3, mode="fan_out", **fields)
    assert torch.equal(tensor_of(response), expected)


def test_the_example_of_the_readme_loads_and_equals_torch(server: str, tmp_path: Path) -> None:
    url = f"{server}/init?shape=3,5&scheme=xavier_uniform&gain=1.4142135623730951&seed=1&generator=torch"
    subprocess.run(["curl", "-fs", "--noproxy", "*", url, "-o", "w.safetensors"], cwd=tmp_path, check=True)
    expected = init.xavier_uniform_(torch.empty(3, 5), gain=sqrt(2), generator=seeded(1))
    assert torch.equal(safetensors.torch.load_file(tmp_path / "w.safetensors")["weight"], expected)


# Manifests -----------------------------------------------------------------------------------------------------------

# Drawn in this order, and laid out in another: wide dtypes come first in a file, and then names.
MODEL: dict[str, tuple[str, Shape, str, Parameters]] = {
    "z": ("kaiming_uniform", (5, 3), "float32", {"a": sqrt(5)}),
    "y": ("normal", (7,), "bfloat16", {"std": 0.02}),  # an odd number of normals leaves one behind in the generator
    "x": ("orthogonal", (4, 4), "float64", {}),
    "w": ("zeros", (9,), "float8_e5m2", {}),
    "v": ("normal", (33,), "float32", {}),
    "u": ("trunc_normal", (3, 3), "float16", {"std": 0.5}),
    "t": ("normal", (3,), "float64", {}),
    "s": ("uniform", (), "float32", {}),
}


def manifest(names: Iterable[str]) -> dict[str, Any]:
    tensors = {
        name: {"scheme": scheme, "shape": list(shape), "dtype": dtype, **parameters}
        for name, (scheme, shape, dtype, parameters) in MODEL.items()
        if name in names
    }
    return {"generator": "torch", "seed": 5, "tensors": tensors}


def test_a_manifest_is_drawn_in_its_order_from_one_generator(http: httpx.Client) -> None:
    generator = seeded(5)
    expected = {
        name: bits(draw(scheme, shape, dtype, generator, parameters))
        for name, (scheme, shape, dtype, parameters) in MODEL.items()
    }
    got = safetensors.torch.load(http.post("/init", json=manifest(MODEL)).content)
    assert {name: bits(tensor) for name, tensor in got.items()} == expected


def test_a_manifest_of_one_tensor_is_that_tensor(http: httpx.Client) -> None:
    got = safetensors.torch.load(http.post("/init", json=manifest("z")).content)["z"]
    assert bits(got) == bits(tensor_of(ask(http, "kaiming_uniform", (5, 3), seed=5, a=sqrt(5))))


# Slices --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", CASES)
def test_a_slice_has_the_bits_of_the_whole_there(http: httpx.Client, scheme: str) -> None:
    shape = (19, 18) if SCHEMES[scheme].ndim[0] <= 2 else (19, 18, 3)
    whole = tensor_of(ask(http, scheme, shape, **CASES[scheme][0]))
    part = tensor_of(ask(http, scheme, shape, **CASES[scheme][0], slice="3:11,:17"))
    assert bits(part) == bits(whole[3:11, :17])
