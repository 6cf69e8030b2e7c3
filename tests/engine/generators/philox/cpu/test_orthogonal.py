import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weightwell_engine.generators.philox.cpu.orthogonal import Reflectors, haar
from weightwell_engine.generators.philox.specification import orthogonal as orthogonal_reference

Matrix = NDArray[np.floating[Any]]
DTYPES = ["float32", "float64"]

# Empty, smallest, and around the borders of tiles (4 rows, 8 or 16 columns) and of blocks (64).
BORDERS = [
    *((0, 0), (5, 0), (0, 5), (1, 1), (1, 9), (9, 1), (2, 2), (3, 2), (2, 3), (300, 1), (1, 300)),
    *((4, 4), (5, 4), (16, 16), (17, 17), (33, 15), (63, 63), (64, 64), (65, 64), (64, 65), (65, 65), (66, 3)),
    *((127, 128), (128, 127), (128, 128), (129, 129), (129, 64), (70, 200), (333, 130)),
]

# SHA-256 of haar(grid(rows, cols, dtype), gain=1.25), which no machine and no version may change.
KNOWN = {
    ("float32", 1, 1): "131c7642a5632294044082b8e10009d66f1ddba75bb6e7f08d393a12a12dd9b3",
    ("float32", 70, 70): "dcad6f98b5d950fd1e1cfd56715152e76fe02d82a9cce9e9e8b835d2532deb58",
    ("float32", 200, 130): "bf17e8561afc866349e624580abbee9b866daf09aa6aa6f8c9bcaac590f6626e",
    ("float32", 130, 200): "50d696ef279aeffb0671077aa3956fa8721a9d37a4ee2a9e7d803c2fbfd2e520",
    ("float64", 1, 1): "4679b54d3d0b74caefd7260368a0d4e35f11048391f703b355350a4bb3458243",
    ("float64", 70, 70): "cecdbab5d2fb3965003c007c48621f46eeea59451441fdb977b0825dcd7bda57",
    ("float64", 200, 130): "15b54c06ed0b07a60c1e75b636dbbecd2d772daa25dee94e162e5a77e71e67c5",
    ("float64", 130, 200): "c1ea8bee3fc2376cc977d1a3a628c43b2377f5362120a8b14d8ae3bc4e3301b3",
}


def normals(rows: int, cols: int, dtype: str = "float64", seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(dtype)


def grid(rows: int, cols: int, dtype: str) -> Matrix:
    """Numbers in (-4, 4), each an odd multiple of 2^-22, that are the same everywhere."""
    index = np.arange(rows * cols, dtype=np.int64).reshape(rows, cols)
    return ((index * 2654435761 % 2**24 * 2 + 1 - 2**24) * 2.0**-22).astype(dtype)


def defect(q: Matrix) -> Matrix:
    """What is missing to orthonormal columns, or rows, whichever are fewer."""
    tall = (q if q.shape[0] >= q.shape[1] else q.T).astype(np.float64)
    return tall.T @ tall - np.eye(tall.shape[1])


def stewart(gaussian: Matrix) -> Matrix:
    """The definition, one reflection at a time, in whatever order of operations numpy likes."""
    rows, cols = gaussian.shape
    q = np.zeros((rows, cols))
    for k in reversed(range(cols)):
        x = gaussian[k:, k].astype(np.float64)
        v = x + np.copysign(np.linalg.norm(x), x[0]) * np.eye(len(x))[0]
        q[k, k] = -np.sign(x[0])
        q[k:] -= np.outer(2.0 * v / (v @ v), v @ q[k:])
    return q


@cache
def sample() -> Matrix:
    """Independent matrices of order 8."""
    return np.stack([haar(normals(8, 8, seed=seed)) for seed in range(4000)])


def standard_errors(statistic: Matrix, mean: float) -> float:
    """How many standard errors the average of a statistic is away from its mean."""
    return float(abs(statistic.mean() - mean) / (statistic.std() / np.sqrt(len(statistic))))


# -- the matrix -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 3), (64, 64), (65, 65), (200, 70), (130, 130)])
def test_the_matrix_is_the_product_of_the_reflections(shape: tuple[int, int]) -> None:
    gaussian = normals(*shape)
    np.testing.assert_allclose(haar(gaussian), stewart(gaussian), rtol=0, atol=2e-14)


def test_the_first_column_is_the_first_vector_made_one_long() -> None:
    gaussian = normals(100, 40)
    np.testing.assert_allclose(haar(gaussian)[:, 0], gaussian[:, 0] / np.linalg.norm(gaussian[:, 0]), atol=1e-15)


def test_a_wide_matrix_is_the_transpose_of_a_tall_one() -> None:
    gaussian = normals(30, 100, "float32")
    np.testing.assert_array_equal(haar(gaussian), haar(gaussian.T).T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.3, -0.3])
def test_a_matrix_of_one_element_is_its_sign(dtype: str, value: float) -> None:
    assert haar(np.array([[value]], dtype)) == np.sign(value)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 300), cols=st.integers(1, 300), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_columns_or_rows_are_orthonormal(dtype: str, rows: int, cols: int, seed: int) -> None:
    # That of float64 is measured in float64, and the measuring has errors of its own.
    assert np.abs(defect(haar(normals(rows, cols, dtype, seed)))).max() < 16 * np.finfo(dtype).eps


@pytest.mark.parametrize("shape", [(100, 100), (600, 600), (700, 100), (100, 700)])
def test_it_is_at_least_as_orthonormal_as_that_of_torch(shape: tuple[int, int]) -> None:
    theirs = torch.nn.init.orthogonal_(torch.empty(shape), generator=torch.Generator().manual_seed(0))
    ours = haar(normals(*shape, "float32"))
    assert np.abs(defect(ours)).max() < np.abs(defect(theirs.numpy())).max()
    assert np.linalg.norm(defect(ours)) < np.linalg.norm(defect(theirs.numpy()))


def test_normals_that_no_reflector_needs_are_not_used() -> None:
    gaussian = normals(90, 70, "float32")
    np.testing.assert_array_equal(haar(np.tril(gaussian)), haar(gaussian))


def test_every_element_is_multiplied_by_the_gain_once() -> None:
    gaussian = normals(90, 70, "float32")
    np.testing.assert_array_equal(haar(gaussian, gain=0.1), haar(gaussian) * np.float32(0.1))


# -- its distribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_traces_of_powers_have_the_moments_of_the_orthogonal_group(power: int) -> None:
    # Those of independent normals: Diaconis and Shahshahani, "On the eigenvalues of random matrices" (1994).
    traces = np.trace(np.linalg.matrix_power(sample(), power), axis1=1, axis2=2)
    mean = 1.0 - power % 2
    assert standard_errors(traces, mean) < 4
    assert standard_errors((traces - mean) ** 2, power) < 4


def test_a_rotation_of_either_side_leaves_the_distribution() -> None:
    rotation = stewart(normals(8, 8, seed=10**6))
    traces = np.trace(rotation @ sample(), axis1=1, axis2=2)
    assert standard_errors(traces, 0.0) < 4
    assert standard_errors(traces**2, 1.0) < 4


def test_without_the_signs_the_distribution_would_be_another() -> None:
    signs = np.stack([-np.sign(np.diagonal(normals(8, 8, seed=seed))) for seed in range(len(sample()))])
    signs[:, -1] *= -1
    assert standard_errors(np.trace(sample() * signs[:, np.newaxis], axis1=1, axis2=2), 0.0) > 40


def test_half_of_the_matrices_are_rotations() -> None:
    assert standard_errors(np.linalg.det(sample()), 0.0) < 4


@pytest.mark.parametrize("at", [(0, 0), (0, 7), (7, 0), (7, 7), (3, 5)])
def test_an_element_has_the_distribution_of_a_coordinate_of_the_sphere(at: tuple[int, int]) -> None:
    coordinates = scipy.stats.beta(7 / 2, 7 / 2, loc=-1, scale=2)
    assert scipy.stats.kstest(sample()[:, at[0], at[1]], coordinates.cdf).pvalue > 1e-3


def test_the_angles_of_matrices_of_order_two_are_uniform() -> None:
    columns = np.stack([haar(normals(2, 2, seed=seed))[:, 1] for seed in range(4000)])
    assert scipy.stats.kstest(np.arctan2(*columns.T) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3


# -- its bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", BORDERS)
def test_the_kernels_give_the_bits_of_the_reference(shape: tuple[int, int], dtype: str) -> None:
    gaussian = normals(*shape, dtype)
    assert haar(gaussian, gain=1.7).tobytes() == orthogonal_reference.haar(gaussian, gain=1.7).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 200), cols=st.integers(1, 200), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_the_kernels_give_the_bits_of_the_reference_for_any_shape(dtype: str, rows: int, cols: int, seed: int) -> None:
    gaussian = normals(rows, cols, dtype, seed)
    assert haar(gaussian).tobytes() == orthogonal_reference.haar(gaussian).tobytes()


@pytest.mark.parametrize(("dtype", "rows", "cols"), KNOWN)
@pytest.mark.parametrize("draw", [haar, orthogonal_reference.haar])
def test_known_answers(draw: Callable[..., Matrix], dtype: str, rows: int, cols: int) -> None:
    digest = hashlib.sha256(draw(grid(rows, cols, dtype), gain=1.25).tobytes()).hexdigest()
    assert digest == KNOWN[dtype, rows, cols]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_threads_do_not_change_the_bits(workers: int) -> None:
    gaussian = normals(700, 400, "float32")
    with ThreadPoolExecutor(workers) as executor:
        assert haar(gaussian, executor=executor).tobytes() == haar(gaussian).tobytes()


def test_the_layout_of_the_normals_does_not_change_the_bits() -> None:
    gaussian = normals(150, 140, "float32")
    spread = np.zeros((300, 280), np.float32)
    spread[::2, ::2] = gaussian
    expected = haar(gaussian).tobytes()
    assert haar(np.asfortranarray(gaussian)).tobytes() == expected
    assert haar(spread[::2, ::2]).tobytes() == expected


def test_flushing_subnormal_numbers_to_zero_does_not_change_the_bits() -> None:
    gaussian = normals(200, 200, "float32")
    expected = haar(gaussian).tobytes()
    assert torch.set_flush_denormal(True)
    try:
        assert haar(gaussian).tobytes() == expected
    finally:
        torch.set_flush_denormal(False)


# -- its parts --------------------------------------------------------------------------------------------------------


def test_panels_of_columns_can_be_computed_one_by_one() -> None:
    gaussian = normals(200, 150, "float32")
    reflectors = Reflectors.of(lambda start, stop: gaussian[start:, start:stop], gaussian.shape, gaussian.dtype)
    out = np.zeros_like(gaussian)
    reflectors.write_panel(1, out, 1.0)
    np.testing.assert_array_equal(out[:, 64:128], haar(gaussian)[:, 64:128])
    assert not out[:, :64].any()
    assert not out[:, 128:].any()


def test_normals_are_drawn_once() -> None:
    gaussian, asked = normals(200, 150), list[tuple[int, int]]()

    def draw(start: int, stop: int) -> Matrix:
        asked.append((start, stop))
        return gaussian[start:, start:stop]

    Reflectors.of(draw, gaussian.shape, gaussian.dtype)
    assert [start for start, _ in asked] == [0, 64, 128]
    assert all(stop == start for (_, stop), (start, _) in pairwise(asked))
