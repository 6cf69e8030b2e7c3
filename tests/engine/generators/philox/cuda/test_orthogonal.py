"""Orthogonal matrices by the GPU code, in Triton's interpreter, which takes a second for every 64 columns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from weightwell_engine.generators.philox.cuda import orthogonal, orthogonal_kernels
from weightwell_engine.generators.philox.cuda.orthogonal import haar_, nbytes
from weightwell_engine.generators.philox.specification import orthogonal as orthogonal_reference

Matrix = NDArray[np.floating[Any]]
Shape = tuple[int, int]

SHAPES = [(1, 1), (9, 1), (3, 300), (700, 300), (300, 700), (64, 64), (65, 65), (5000, 100)]


def normals(rows: int, cols: int, dtype: str) -> Matrix:
    return np.random.default_rng(0).standard_normal((rows, cols)).astype(dtype)


def drawn(gaussian: Matrix) -> bytes:
    return haar_(torch.from_numpy(gaussian.copy())).numpy().tobytes()


def expected(gaussian: Matrix) -> bytes:
    return orthogonal_reference.haar(gaussian).tobytes()


# The interpreter takes 2 seconds for each 64 columns, or fewer. The first sizes are the edges of one block, and two
# blocks are in the tests of float64 and of panels.
EXHAUSTIVE = [pytest.param(shape, marks=pytest.mark.exhaustive) for shape in [(1, 9), (63, 63), (64, 64), (140, 130)]]

# -- its bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (65, 64), *EXHAUSTIVE])
def test_the_matrix_has_the_bits_of_the_reference(shape: Shape) -> None:
    gaussian = normals(*shape, "float32")
    assert drawn(gaussian) == expected(gaussian)


@pytest.mark.parametrize("shape", [pytest.param((9, 1), marks=pytest.mark.exhaustive), (70, 130)])
def test_the_matrix_has_the_bits_of_the_reference_in_float64(shape: Shape) -> None:
    gaussian = normals(*shape, "float64")
    assert drawn(gaussian) == expected(gaussian)


def test_panels_do_not_change_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonal, "_WAITING", 1)
    gaussian = normals(130, 70, "float32")
    assert drawn(gaussian) == expected(gaussian)


def test_what_has_nothing_to_reflect_keeps_its_sign() -> None:
    gaussian = normals(12, 6, "float32")
    gaussian[1:, 0] = gaussian[3:, 2] = gaussian[4:, 3] = 0
    gaussian[2, 2], gaussian[3, 3] = -0.0, 0.0
    assert drawn(gaussian) == expected(gaussian)


def test_normals_that_no_reflector_needs_are_not_used() -> None:
    gaussian = normals(12, 6, "float32")
    assert drawn(np.tril(gaussian)) == expected(gaussian)


def test_the_matrix_takes_the_place_of_its_normals() -> None:
    gaussian = torch.from_numpy(normals(3, 2, "float32"))
    assert haar_(gaussian) is gaussian
    np.testing.assert_allclose(gaussian.T @ gaussian, np.eye(2), atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 0), (5, 0), (0, 5)])
def test_nothing_is_made_of_nothing(shape: Shape) -> None:
    assert nbytes(*shape, 4) == 0
    assert haar_(torch.empty(shape)).shape == shape


# -- allocations and launches on the device ---------------------------------------------------------------------------


class Launches(list[tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]]):
    """Launches of kernels that do not run: their programs, arguments, and options."""

    def __getitem__(self, programs: Any) -> Callable[..., None]:  # type: ignore[override]
        return lambda *arguments, **options: self.append((programs, arguments, options))


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The memory that tensors are made in while this is entered."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._storages: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            storage = tensor.untyped_storage()  # kept, so that its address is not used again
            if storage.data_ptr() not in self._known:
                self._storages[storage.data_ptr()] = storage
        return result

    @property
    def nbytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    found = Launches()
    for name, value in list(vars(orthogonal).items()):
        if isinstance(value, type(orthogonal_kernels.add_up)):
            monkeypatch.setattr(orthogonal, name, found)
    return found


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("waiting", [1, 30, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_takes_the_memory_that_it_says(
    shape: Shape, dtype: torch.dtype, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orthogonal, "_WAITING", waiting)
    gaussian = torch.zeros(shape, dtype=dtype)
    with Allocations(gaussian) as allocations:
        haar_(gaussian)
    assert allocations.nbytes == nbytes(*shape, dtype.itemsize)


def test_sums_that_wait_are_a_small_part_of_a_large_matrix() -> None:
    size = 1 << 14
    assert nbytes(size, size, 4) < 2.2 * size * size * 4


@pytest.mark.parametrize("shape", SHAPES)
def test_every_launch_forbids_fused_operations(shape: Shape, launches: Launches) -> None:
    haar_(torch.zeros(shape))
    assert launches
    assert all(options["enable_fp_fusion"] is False for _, _, options in launches)


@pytest.mark.parametrize("waiting", [1, 30, 4096])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_needs_kernels_of_its_own(
    shape: Shape, waiting: int, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Triton compiles a kernel again for a number that is 1, and for one that is a multiple of 16 where others were not.
    monkeypatch.setattr(orthogonal, "_WAITING", waiting)
    haar_(torch.zeros(shape))
    numbers = {number for _, arguments, _ in launches for number in arguments if isinstance(number, int)}
    assert numbers
    assert all(number % 64 == 0 for number in numbers)
    tensors = [tensor for _, arguments, _ in launches for tensor in arguments if isinstance(tensor, torch.Tensor)]
    assert all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def test_a_large_matrix_is_a_few_hundred_launches(launches: Launches) -> None:
    haar_(torch.zeros(4096, 1024))
    assert len(launches) == 6 + 4 * 16
