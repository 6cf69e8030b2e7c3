"""Tensors that exist are filled in place: the bytes are those of ``init``, in the memory of the caller's tensor."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import weightwell
from weightwell.models.pieces import Piece, Pieces
from weightwell.models.tensors import InTensors, destination_of

if TYPE_CHECKING:
    from tests.client.conftest import Server

Connect = Callable[..., Any]

SHAPE = (30, 7)

FLOATS = ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def bits(value: Any) -> bytes:
    """The bytes of a tensor or an array in the order of its elements."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return bytes(value.astype(value.dtype.newbyteorder("=")).tobytes()) if not value.dtype.isnative else value.tobytes()


# torch ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_tensor_gets_the_bytes_of_init_in_its_own_memory(fake: "Server", connect: Connect, dtype: str) -> None:
    tensor = torch.zeros(SHAPE, dtype=getattr(torch, dtype))
    place = tensor.data_ptr()
    assert connect(fake.url).init_(tensor, "normal", seed=42, name="w", std=0.02) is tensor
    assert tensor.data_ptr() == place
    assert bits(tensor) == fake.pattern(tensor.nbytes)
    fields = {"shape": "30,7", "scheme": "normal", "seed": "42", "dtype": dtype, "name": "w", "std": "0.02"}
    assert fake.requests[0].fields == fields


VIEWS: dict[str, Callable[[], torch.Tensor]] = {
    "transposed": lambda: torch.zeros(7, 30).T,
    "every second column": lambda: torch.zeros(30, 14)[:, ::2],
    "channels last": lambda: torch.zeros(2, 3, 5, 7).to(memory_format=torch.channels_last),
    "a part of another tensor": lambda: torch.zeros(9, 30, 7)[4],
    "negated lazily": lambda: torch.zeros(30, dtype=torch.complex64).conj().imag,
    "scalar": lambda: torch.zeros(()),
    "empty": lambda: torch.zeros(3, 0),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
def test_a_tensor_may_have_any_strides(fake: "Server", connect: Connect, make: Callable[[], torch.Tensor]) -> None:
    tensor = make()
    strides = tensor.stride()
    connect(fake.url).init_(tensor, "normal")
    assert bits(tensor.resolve_neg()) == fake.pattern(tensor.nbytes)
    assert tensor.stride() == strides


def test_the_elements_around_a_view_keep_their_values(fake: "Server", connect: Connect) -> None:
    whole = torch.full((30, 14), 3.0)
    connect(fake.url).init_(whole[:, 1::2], "normal")
    assert bool((whole[:, ::2] == 3).all())


def test_a_parameter_is_filled_without_a_gradient_and_autograd_notices(fake: "Server", connect: Connect) -> None:
    parameter = nn.Parameter(torch.ones(SHAPE))
    loss = (parameter * parameter).sum()
    version = parameter._version
    assert connect(fake.url).init_(parameter, "normal") is parameter
    assert parameter.is_leaf
    assert parameter.requires_grad
    assert parameter._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("strided", [False, True])
def test_a_tensor_that_is_no_leaf_is_filled_as_torch_does(fake: "Server", connect: Connect, strided: bool) -> None:
    source = torch.ones(SHAPE, requires_grad=True)
    value = source * 2
    tensor = value.T if strided else value
    connect(fake.url).init_(tensor, "normal")
    assert bits(tensor) == fake.pattern(tensor.nbytes)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert source.grad is not None
    assert bool((source.grad == 2).all())


def test_tensors_are_filled_in_inference_mode_and_under_no_grad(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url)
    with torch.inference_mode():
        inference = client.init_(torch.zeros(SHAPE), "normal")
        strided = client.init_(torch.zeros(7, 30).T, "normal")
    with torch.no_grad():
        parameter = client.init_(nn.Parameter(torch.zeros(SHAPE)), "normal")
    assert bits(inference) == bits(parameter) == bits(strided) == fake.pattern(840)


def test_an_inference_tensor_is_refused_elsewhere_as_by_torch(fake: "Server", connect: Connect) -> None:
    with torch.inference_mode():
        tensor = torch.ones(SHAPE)
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
        connect(fake.url).init_(tensor, "normal")
    assert bool((tensor == 1).all())
    assert not fake.requests


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "meta": (lambda: torch.empty(3, device="meta"), ValueError, "on the meta device.*init_module_"),
    "expanded": (lambda: torch.zeros(3, 1).expand(3, 4), ValueError, "expanded tensor"),
    "sparse": (lambda: torch.zeros(3, 4).to_sparse(), ValueError, "only plain tensors are filled"),
    "complex": (lambda: torch.zeros(3, dtype=torch.complex64), ValueError, "dtype must be one of"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
        ValueError,
        "dtype must be one of",
    ),
    "read-only": (lambda: np.broadcast_to(np.zeros(1), (3,)), ValueError, "read-only"),
    "broadcast": (
        lambda: np.lib.stride_tricks.as_strided(np.zeros(1), (3,), (0,)),
        ValueError,
        "its elements share memory",
    ),
    "a list": (lambda: [1.0, 2.0], TypeError, "expected a torch.Tensor or a numpy.ndarray to fill, got list"),
    "a scalar": (lambda: np.float32(1), TypeError, "got float32"),
    "a module": (lambda: nn.Linear(1, 1), TypeError, "got Linear"),
}


@pytest.mark.parametrize(("make", "kind", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore:.*quantized.*")
def test_a_tensor_that_cannot_be_filled_is_refused_before_the_request(
    fake: "Server", connect: Connect, make: Callable[[], Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        connect(fake.url).init_(make(), "normal")
    assert not fake.requests


@pytest.mark.parametrize("field", ["dtype", "shape", "slice", "framework", "device", "out"])
def test_what_the_tensor_says_is_no_argument(fake: "Server", connect: Connect, field: str) -> None:
    with pytest.raises(TypeError, match=f"init_ takes {field} from the tensor, got {field}='x': leave it out"):
        connect(fake.url).init_(torch.zeros(3), "normal", **{field: "x"})
    assert not fake.requests


def test_a_broken_transfer_is_continued_in_the_tensor(fake: "Server", connect: Connect) -> None:
    tensor = torch.zeros(SHAPE)
    fake.faults.extend([fake.cut(700)])
    connect(fake.url).init_(tensor, "normal")
    assert bits(tensor) == fake.pattern(840)
    assert "range" in fake.requests[1].headers


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
@pytest.mark.filterwarnings("ignore::weightwell.RepeatedStreamWarning")
def test_every_door_fills_the_values_of_init(door: str, connect: Connect, make: Callable[[], torch.Tensor]) -> None:
    tensor = make()
    client = connect(door)
    client.init_(tensor, "normal", seed=3, name="w")
    assert torch.equal(tensor, client.init(tensor.shape, "normal", seed=3, name="w"))
    array = np.zeros(tuple(tensor.shape), np.float64).T
    client.init_(array, "normal", seed=3)
    assert np.array_equal(array, client.init(array.shape, "normal", seed=3, dtype="float64", framework="numpy"))
    out = torch.zeros(3, 1, dtype=torch.bfloat16)
    assert client.init((9, 1), "normal", slice="2:5", dtype="bfloat16", out=out) is out
    assert torch.equal(out, client.init((9, 1), "normal", slice="2:5", dtype="bfloat16"))


# numpy ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_array_gets_the_bytes_of_init_in_its_own_memory(fake: "Server", connect: Connect, dtype: str) -> None:
    array = np.zeros(SHAPE, getattr(np, dtype, None) or getattr(ml_dtypes, dtype))
    assert connect(fake.url).init_(array, "normal") is array
    assert bits(array) == fake.pattern(array.nbytes)


ARRAYS: dict[str, Callable[[], Any]] = {
    "transposed": lambda: np.zeros((7, 30), np.float32).T,
    "reversed": lambda: np.zeros(30, np.float64)[::-1],
    "of the other byte order": lambda: np.zeros(30, np.dtype(np.float32).newbyteorder()),
    "of bfloat16": lambda: np.zeros((4, 6), ml_dtypes.bfloat16)[:, ::2],
    "scalar": lambda: np.zeros((), np.float32),
    "empty": lambda: np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_an_array_may_have_any_strides(fake: "Server", connect: Connect, make: Callable[[], Any]) -> None:
    array = make()
    connect(fake.url).init_(array, "normal")
    assert bits(array) == fake.pattern(array.nbytes)


# out= ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [torch.zeros(SHAPE), np.zeros(SHAPE, np.float32), nn.Parameter(torch.zeros(SHAPE))])
def test_out_is_filled_and_returned(fake: "Server", connect: Connect, out: Any) -> None:
    assert connect(fake.url).init(SHAPE, "normal", seed=1, out=out) is out
    assert bits(out) == fake.pattern(840)


def test_out_has_the_shape_of_the_slice(fake: "Server", connect: Connect) -> None:
    out = torch.zeros(4, 7)
    connect(fake.url).init(SHAPE, "normal", slice=slice(2, 6), out=out)
    assert bits(out) == fake.pattern(112)
    assert fake.requests[0].fields["slice"] == "2:6,0:7"


@pytest.mark.parametrize(
    ("out", "fields"),
    [
        (torch.zeros(7, 30), {}),
        (torch.zeros(SHAPE), {"dtype": "float16"}),
        (torch.zeros(SHAPE), {"slice": slice(2, 6)}),
        (np.zeros(SHAPE), {}),
    ],
)
def test_out_of_another_shape_or_dtype_is_refused(
    fake: "Server", connect: Connect, out: Any, fields: dict[str, Any]
) -> None:
    words = r"out has shape \[.*\] and dtype \w+, and the arguments ask for \[.*\] and \w+: use init_"
    with pytest.raises(ValueError, match=words):
        connect(fake.url).init(SHAPE, "normal", out=out, **fields)
    assert not fake.requests


def test_out_takes_neither_a_framework_nor_a_device(fake: "Server", connect: Connect) -> None:
    for fields in ({"framework": "torch"}, {"device": "cpu"}):
        with pytest.raises(ValueError, match="leave out framework= and device="):
            connect(fake.url).init(SHAPE, "normal", out=torch.zeros(SHAPE), **fields)


# Devices -------------------------------------------------------------------------------------------------------------

# The meta device stands for a device of its own: it has no memory, but allocation and copies are those of any device.


def test_a_new_tensor_is_allocated_on_its_device(fake: "Server", connect: Connect) -> None:
    tensor = connect(fake.url).init(SHAPE, "normal", dtype="bfloat16", device="meta")
    assert (tensor.device.type, tensor.shape, tensor.dtype) == ("meta", SHAPE, torch.bfloat16)


def test_the_tensors_of_a_state_dict_are_allocated_on_their_device(door: str) -> None:
    tensors = {"a": {"shape": [3, 4], "scheme": "normal"}, "b": {"alias": "a"}, "c": {"shape": [0], "scheme": "ones"}}
    with weightwell.Client(door) as client:
        state = client.init_state_dict({"tensors": tensors}, device="meta")
    assert list(state) == ["a", "b", "c"]
    assert state["a"] is state["b"]
    assert [tensor.device.type for tensor in state.values()] == ["meta"] * 3
    assert state["c"].shape == (0,)


def test_memory_of_a_gpu_is_offered_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.empty(3, device="meta"), torch.empty(2, 2, dtype=torch.float64, device="meta")
    pieces = Pieces([Piece(0, 12, first), Piece(12, 44, second)])
    assert pieces.on_device(20, 44) is None
    monkeypatch.setattr("weightwell.models.pieces.GPU", "meta")
    memories = pieces.on_device(20, 44)
    assert memories is not None
    [found] = memories
    assert (found.dtype, found.shape, found.storage_offset()) == (torch.uint8, (24,), 8)
    assert pieces.on_device(0, 0) is None


def test_memory_of_the_host_is_not_offered(fake: "Server") -> None:
    file = fake.file_of({"shape": "3", "dtype": "float32", "scheme": "ones"})
    head, size = file[:-12], 12
    for data in (InTensors("cpu"), destination_of(torch.zeros(3)), destination_of(np.zeros(3, np.float32))):
        data.open(head, size, None)
        assert data.on_device(0, size) is None
        for buffer in data.buffers(0, size):
            buffer[:] = file[-12:][: len(buffer)]
    assert bits(data.commit()) == file[-12:]  # type: ignore[union-attr]
