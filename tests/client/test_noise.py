"""Noise is added to a tensor in place: it is bit for bit what ``init`` draws, and each element is changed once."""

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import weightwell
from weightwell.models.noise import Addition, boxes
from weightwell.models.tensors import destination_of
from weightwell.transfers import destinations

if TYPE_CHECKING:
    from tests.client.conftest import Server

Connect = Callable[..., Any]

SHAPE = (30, 7)

FLOATS = ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor here takes several blocks."""
    monkeypatch.setattr(destinations, "BLOCK", 64)


def wide(value: Any) -> Any:
    """A tensor or an array in the precision in which noise is added, as an array."""
    if isinstance(value, torch.Tensor):
        value = (value if value.dtype == torch.float64 else value.float()).detach().contiguous().numpy()
    return value if value.dtype == np.float64 else value.astype(np.float32)


def element(dtype: str) -> Any:
    """The type of numpy or ml_dtypes."""
    return getattr(np, dtype, None) or getattr(ml_dtypes, dtype)


# New tensors ---------------------------------------------------------------------------------------------------------


def test_noise_for_a_shape_is_a_new_tensor_as_init_draws_it(door: str, connect: Connect) -> None:
    client = connect(door)
    noise = client.noise(SHAPE, seed=3, name="w", std=0.5, dtype="float16", slice="2:9")
    expected = client.init(SHAPE, "normal", seed=3, name="w", std=0.5, dtype="float16", slice="2:9")
    assert torch.equal(noise, expected)
    assert client.noise(np.array(SHAPE), framework="numpy").shape == client.noise(torch.tensor(SHAPE)).shape == SHAPE


def test_a_shape_has_no_alpha(fake: "Server", connect: Connect) -> None:
    with pytest.raises(ValueError, match=r"got alpha=2\.0 and a shape"):
        connect(fake.url).noise(SHAPE, alpha=2.0)
    assert not fake.requests


# Tensors that exist --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, -1.0, 0.3])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_sum_is_computed_in_float32_or_float64_and_rounded(
    door: str, connect: Connect, dtype: str, alpha: float
) -> None:
    client = connect(door)
    noise = wide(client.init(SHAPE, "normal", seed=3, std=0.5, dtype=dtype, framework="numpy"))
    before = client.init(SHAPE, "uniform", name="before", dtype=dtype, framework="numpy")
    factor = noise.dtype.type(alpha)
    expected = (wide(before) + factor * noise).astype(element(dtype))
    array = before.copy()
    assert client.noise(array, seed=3, std=0.5, alpha=alpha) is array
    assert array.tobytes() == expected.tobytes()
    tensor = client.init(SHAPE, "uniform", name="before", dtype=dtype)
    place = tensor.data_ptr()
    assert client.noise(tensor, seed=3, std=0.5, alpha=alpha) is tensor
    assert tensor.data_ptr() == place
    assert tensor.view(torch.uint8).numpy().tobytes() == expected.tobytes()


PLACES: dict[str, Callable[[], Any]] = {
    "transposed": lambda: torch.zeros(7, 30).T,
    "every second column": lambda: torch.zeros(30, 14)[:, ::2],
    "channels last": lambda: torch.zeros(2, 3, 5, 7).to(memory_format=torch.channels_last),
    "negated lazily": lambda: torch.zeros(30, dtype=torch.complex64).conj().imag,
    "a scalar": lambda: torch.zeros(()),
    "empty": lambda: torch.zeros(3, 0),
    "a parameter": lambda: nn.Parameter(torch.zeros(SHAPE)),
    "a transposed array": lambda: np.zeros((7, 30), np.float32).T,
    "a reversed array": lambda: np.zeros(99, np.float64)[::-1],
    "an array of the other byte order": lambda: np.zeros(30, np.dtype(np.float32).newbyteorder()),
    "an array of bfloat16": lambda: np.zeros((4, 66), ml_dtypes.bfloat16)[:, ::2],
    "an empty array": lambda: np.zeros((0, 3), np.float32),
    "a scalar array": lambda: np.zeros((), np.float32),
}


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_noise_is_added_whatever_the_strides(door: str, connect: Connect, make: Callable[[], Any]) -> None:
    tensor = make()
    dtype = str(tensor.dtype.name) if isinstance(tensor, np.ndarray) else tensor.dtype
    client = connect(door)
    client.noise(tensor, seed=1)
    assert np.array_equal(wide(tensor), wide(client.init(tensor.shape, "normal", seed=1, dtype=dtype)))


def test_a_parameter_gets_no_gradient_and_autograd_notices(fake: "Server", connect: Connect) -> None:
    parameter = nn.Parameter(torch.zeros(SHAPE))
    loss = (parameter * parameter).sum()
    connect(fake.url).noise(parameter)
    assert parameter.is_leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("field", ["dtype", "slice", "framework", "device"])
def test_what_the_tensor_says_is_no_argument(fake: "Server", connect: Connect, field: str) -> None:
    with pytest.raises(TypeError, match=f"noise takes {field} from the tensor, got {field}='x': leave it out"):
        connect(fake.url).noise(torch.zeros(3), **{field: "x"})
    assert not fake.requests


def test_integers_of_several_dimensions_are_neither_a_shape_nor_filled(fake: "Server", connect: Connect) -> None:
    for value in (np.zeros((3, 4), np.int32), torch.zeros(3, 4, dtype=torch.int32)):
        with pytest.raises(ValueError, match="noise is added to floating-point numbers, got a tensor of int32"):
            connect(fake.url).noise(value)
    assert not fake.requests


# Broken transfers ----------------------------------------------------------------------------------------------------


def test_a_broken_transfer_adds_no_block_twice(fake: "Server", connect: Connect) -> None:
    tensor = torch.zeros(SHAPE)
    head = len(fake.file_of({"shape": "30,7", "dtype": "float32", "scheme": "normal"})) - 840
    fake.faults.extend([fake.cut(head + 100), fake.cut(5), fake.silence, fake.cut(301)])
    connect(fake.url).noise(tensor)
    assert tensor.view(torch.uint8).numpy().tobytes() == fake.pattern(840)
    assert len(fake.requests) == 5


@pytest.mark.parametrize("sent", [20, 63, 64, 65, 500, 840])
def test_a_file_that_starts_over_is_added_from_where_the_first_one_broke(
    fake: "Server", connect: Connect, sent: int
) -> None:
    tensor = torch.zeros(SHAPE)
    head = len(fake.file_of({"shape": "30,7", "dtype": "float32", "scheme": "normal"})) - 840
    fake.faults.extend([fake.cut(head + sent), fake.without_ranges, fake.without_ranges])
    connect(fake.url).noise(tensor)
    assert tensor.view(torch.uint8).numpy().tobytes() == fake.pattern(840)


def test_another_file_after_a_part_of_the_first_is_an_error_with_the_number_of_changed_elements(
    fake: "Server", connect: Connect
) -> None:
    array = np.zeros(SHAPE, np.float32)
    head = len(fake.file_of({"shape": "30,7", "dtype": "float32", "scheme": "normal"})) - 840
    fake.faults.extend([fake.cut(head + 200), *[fake.other_file] * 2])
    with pytest.raises(weightwell.InvalidFile, match="a part of the old one has been added already") as caught:
        connect(fake.url).noise(array)
    assert caught.value.__notes__ == [
        "48 of 210 elements of the tensor have been changed already: the first ones, in the order of their indices. "
        "Restore the tensor before you try again"
    ]
    assert array.tobytes() == fake.pattern(840)[:192] + bytes(648)


def test_an_error_before_anything_was_added_has_no_note(fake: "Server", connect: Connect) -> None:
    fake.faults.extend([fake.cut(20)])
    with pytest.raises(weightwell.TruncatedBody) as caught:
        connect(fake.url, wait=0).noise(torch.zeros(SHAPE))
    assert not hasattr(caught.value, "__notes__")


def test_another_file_before_anything_was_added_is_added(fake: "Server", connect: Connect) -> None:
    tensor = torch.zeros(SHAPE)
    head = len(fake.file_of({"shape": "30,7", "dtype": "float32", "scheme": "normal"})) - 840
    fake.faults.extend([fake.cut(head + 20), *[fake.other_file] * 2])
    connect(fake.url).noise(tensor)
    assert tensor.view(torch.uint8).numpy().tobytes() == fake.pattern(840)


# In any order --------------------------------------------------------------------------------------------------------


@given(st.permutations(range(11)), st.sets(st.integers(0, 10)))
def test_ranges_of_whole_elements_are_added_once_in_any_order(order: list[int], twice: set[int]) -> None:
    array = np.zeros((70, 3), np.float32)
    data = np.arange(210, dtype=np.float32).tobytes()
    addition = Addition(destination_of(array), 2.0)
    addition.open(b"head", 840, None)
    for chunk in [*order, *twice]:
        start, stop = chunk * 80, min((chunk + 1) * 80, 840)
        for buffer in addition.buffers(start, stop):
            buffer[:] = data[start : start + len(buffer)]
            start += len(buffer)
    assert [*addition.open(b"head", 840, None)] == [(0, 840)]
    assert addition.commit() is array
    assert np.array_equal(array.reshape(-1), 2 * np.arange(210))


def test_threads_of_this_process_add_different_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "BLOCK", 1 << 16)
    tensor = torch.zeros(1000, 1024).T
    with weightwell.local(threads=3) as client:
        client.noise(tensor, seed=1, name="w")
        assert torch.equal(tensor, client.init((1024, 1000), "normal", seed=1, name="w"))


def test_an_error_after_ranges_in_any_order_has_the_number_of_changed_elements() -> None:
    addition = Addition(destination_of(np.zeros(40, np.float64)), 1.0)
    addition.open(b"head", 320, None)
    for _ in addition.buffers(160, 200):
        pass
    with pytest.raises(ZeroDivisionError) as caught, addition.explained():
        _ = 1 // 0
    assert caught.value.__notes__[0].startswith("5 of 40 elements of the tensor have been changed already. Restore")


# Boxes ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_boxes_have_the_elements_of_a_range_in_order(shape: list[int], data: st.DataObject) -> None:
    count = prod(shape)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    whole = np.arange(count).reshape(shape)
    found = [*boxes(shape, start, stop)]
    assert len(found) <= 2 * len(shape)
    assert [element for box in found for element in whole[box].reshape(-1)] == [*range(start, stop)]
