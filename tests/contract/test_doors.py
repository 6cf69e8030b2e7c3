"""Every door gives the same bytes: a server, the engine in this process, and the file."""

import io
import threading
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

import weightwell
from weightwell import Client
from weightwell.exceptions import REFUSALS
from weightwell.in_process.refusals import STATUS
from weightwell_engine import exceptions
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.schemes import SCHEMES
from weightwell_service.problems import PROBLEMS

# Every test draws from the same seed and name.
pytestmark = pytest.mark.filterwarnings("ignore::weightwell.RepeatedStreamWarning")

# What a scheme needs: parameters, and the number of dimensions.
NEEDED: dict[str, dict[str, Any]] = {
    "constant": {"val": 1.5},
    "values": {"values": [0.5, -2.0, 1.0, 0.0, 3.0, -1.0], "dims": [6]},
    "sparse": {"sparsity": 0.5},
    "clamped_normal": {"a": -0.5, "b": 1.0},
    "variance_scaling": {"distribution": "truncated_normal"},
    "randint": {"high": 2},
    "power_of_two": {"low": 0, "high": 2},
}
SHAPES = {"dirac": (8, 6, 3), "delta_orthogonal": (8, 6, 3)}
WHOLE = "whole"
SLICES = {2: "1:7,2:4", 3: "1:7,2:5,0:3"}


@pytest.fixture(scope="module")
def local() -> Iterator[Client]:
    with weightwell.local(threads=2) as client:
        yield client


@pytest.fixture(scope="module")
def remote(server: str) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def saved(client: Client, what: Any, *args: Any, **fields: Any) -> bytes:
    file = io.BytesIO()
    client.save(file, what, *args, **fields)
    return file.getvalue()


QUERIES = [
    (scheme, dtype, part)
    for scheme, dtype, part in product(SCHEMES, DTYPES, (WHOLE, "slice"))
    if DTYPES[dtype].is_real or scheme in {"zeros", "ones", "eye", "identity", "dirac", "randint", "power_of_two"}
]


def drawn(client: Client, *args: Any, **fields: Any) -> bytes | str:
    """The file, or the reason why it is refused."""
    try:
        return saved(client, *args, **fields)
    except weightwell.InvalidRequest as error:
        return str(error)


@pytest.mark.parametrize(("scheme", "dtype", "part"), QUERIES)
def test_every_scheme_dtype_and_slice_is_the_same_by_every_door(
    remote: Client, local: Client, scheme: str, dtype: str, part: str
) -> None:
    shape = SHAPES.get(scheme, (8, 6))
    fields = {"seed": 7, "dtype": dtype, **NEEDED.get(scheme, {})}
    if part != WHOLE:
        fields["slice"] = SLICES[len(shape)]
    mine = drawn(local, shape, scheme, **fields)
    assert mine == drawn(remote, shape, scheme, **fields)
    if isinstance(mine, bytes):
        tensor = local.init(shape, scheme, framework="torch", **fields).contiguous().reshape(-1).view(torch.uint8)
        assert tensor.numpy().tobytes() == mine[len(mine) - tensor.numel() :]
    else:
        assert dtype.startswith(("float8", "float4")) or scheme in {"randint", "power_of_two"}, mine


COMPOSED: dict[str, Any] = {
    "seed": 3,
    "dtype": "bfloat16",
    "preset": "torch",
    "tensors": {
        "embed.weight": {"shape": [1000, 48], "module": "Embedding", "parts": [{"slice": "0:1", "scheme": "zeros"}]},
        "fc.weight": {"shape": [300, 48], "module": "Linear", "slice": "100:200,:"},
        "fc.bias": {"shape": [301], "scheme": "normal", "dtype": "float64"},
        "q.weight": {"shape": [64, 64], "scheme": "orthogonal", "dtype": "float32"},
        "table": {"shape": [3, 5], "scheme": "values", "values": [1, 2, 3, 4, 5], "dims": [5]},
        "count": {"shape": [], "scheme": "zeros", "dtype": "int64"},
        "none": {"shape": [0, 4], "scheme": "normal"},
        "head.weight": {"alias": "embed.weight"},
    },
}


@pytest.mark.parametrize("generator", ["philox", "torch"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_manifest_is_the_same_file_by_every_door(remote: Client, generator: str, threads: int) -> None:
    manifest: dict[str, Any] = {**COMPOSED, "generator": generator}
    if generator == "torch":
        manifest["tensors"] = {k: v for k, v in COMPOSED["tensors"].items() if k not in {"embed.weight", "head.weight"}}
    with weightwell.local(threads=threads) as local:
        assert saved(local, manifest) == saved(remote, manifest)
        mine, theirs = (each.init_state_dict(manifest, framework="numpy") for each in (local, remote))
        assert {name: each.tobytes() for name, each in mine.items()} == {k: v.tobytes() for k, v in theirs.items()}


def test_several_chunks_and_threads_are_one_file(remote: Client) -> None:
    with weightwell.local(threads=3) as local:
        for dtype in ("float32", "bfloat16", "float64"):
            fields: dict[str, Any] = {"seed": 5, "dtype": dtype, "framework": "numpy"}
            mine, theirs = (each.init((1500, 1001), "normal", **fields) for each in (local, remote))
            assert mine.tobytes() == theirs.tobytes()


def test_plans_tables_and_gains_are_the_same(local: Client, remote: Client) -> None:
    mine, theirs = (each.plan(COMPOSED) for each in (local, remote))
    assert (mine.tensors, mine.nbytes, mine.etag, mine.generator) == (
        theirs.tensors,
        theirs.nbytes,
        theirs.etag,
        theirs.generator,
    )
    assert local.schemes() == remote.schemes()
    assert local.presets() == remote.presets()
    for source in (None, "quadrature"):
        assert local.gains(source=source) == remote.gains(source=source)
    assert local.gain("leaky_relu", 0.3) == remote.gain("leaky_relu", 0.3)


@pytest.mark.parametrize(
    ("method", "args", "fields"),
    [
        ("init", ((3, 4), "kaiming_norml"), {}),
        ("init", ((3, 4), "normal"), {"std": -1}),
        ("init", ((3, 4), "normal"), {"seed": 2**64}),
        ("init", ((3, 4), "normal"), {"sdt": 0.1}),
        ("init", ((3,), "orthogonal"), {}),
        ("init", ((2**40, 2**40), "normal"), {}),
        ("init", ((3, 4), "normal"), {"name": "__metadata__"}),
        ("init", ((3, 4), "orthogonal"), {"generator": "torhc"}),
        ("gain", ("rellu",), {}),
        ("gains", (), {"source": "quadratur"}),
        ("init_state_dict", ({"tensors": {"w": {"shape": "x", "scheme": "normal"}}},), {}),
        ("init_state_dict", ({"tensors": {"w": {"shape": [3]}}},), {}),
        ("plan", ({"tensors": {"w": {"shape": [3], "scheme": "normal", "std": 1e300}}},), {}),
    ],
)
def test_refusals_are_the_same(local: Client, remote: Client, method: str, args: Any, fields: Any) -> None:
    errors: list[Any] = []
    for client in (local, remote):
        with pytest.raises((weightwell.WeightwellError, ValueError, TypeError)) as caught:
            getattr(client, method)(*args, **fields)
        errors.append(caught.value)
    mine, theirs = errors
    assert type(mine) is type(theirs)
    assert without_quotes(mine) == without_quotes(theirs)  # a query has text where this process has numbers
    assert facts(mine) == facts(theirs)


def facts(error: Any) -> list[Any]:
    """What a program reads of a refusal."""
    if not isinstance(error, weightwell.ServerProblem):
        return []
    fields = [(each.field, each.expected, each.hint) for each in error.errors]
    return [error.status, error.type, error.title, error.retry_after, fields]


def without_quotes(error: Exception) -> str:
    return str(error).replace("'", "")


def test_errors_of_the_engine_have_the_statuses_and_titles_of_the_service() -> None:
    assert {kind: PROBLEMS[kind] for kind in STATUS} == STATUS
    assert {each for each in PROBLEMS if each.__module__ == exceptions.__name__} == set(STATUS)
    assert all(REFUSALS[status] for status, _, _ in STATUS.values() if status != 500)


def test_many_threads_share_a_client(local: Client, remote: Client) -> None:
    expected = {seed: saved(remote, (64, 64), "normal", seed=seed) for seed in range(8)}
    found: dict[int, bytes] = {}

    def draw(seed: int) -> None:
        for _ in range(10):
            found[seed] = saved(local, (64, 64), "normal", seed=seed)
            assert found[seed] == expected[seed]

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
