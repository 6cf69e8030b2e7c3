"""Random numbers that a model's code uses more than once, and numbers that it converts: what is drawn has them too."""

import math
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import weightwell
from tests.contract.test_recorded_models import tensors_of
from weightwell import Manifest

Make = Callable[[], torch.Tensor | tuple[torch.Tensor, ...]]


class Made(nn.Module):
    """A module with the parameters that a function makes."""

    def __init__(self, make: Make):
        super().__init__()
        made = make()
        for index, tensor in enumerate(made if isinstance(made, tuple) else (made,)):
            self.register_parameter(f"p{index}", nn.Parameter(tensor))


def drawn(make: Make) -> list[torch.Tensor]:
    """Return the tensors that are drawn for the parameters that a function makes."""
    return [*tensors_of(Manifest.of(Made, make, seed=3)).values()]


def of(function: Callable[[torch.Tensor], Any], *sizes: int) -> Make:
    """Return a function that makes parameters of one tensor of random numbers."""
    return lambda: function(torch.randn(*sizes))


def written(write: Callable[[torch.Tensor], object], *sizes: int) -> Make:
    """Return a function that makes a parameter, which another writes."""

    def make() -> torch.Tensor:
        tensor = torch.empty(*sizes)
        write(tensor)
        return tensor

    return make


@pytest.mark.parametrize(
    ("make", "holds"),
    [
        (of(lambda x: x + x.T, 20, 20), lambda p: torch.equal(p, p.T)),
        (of(lambda x: x - x.T, 20, 20), lambda p: torch.equal(p, -p.T) and p.std() > 1),
        (of(lambda x: x @ x.T, 20, 20), lambda p: torch.allclose(p, p.T) and p.trace() > 200),
        (of(lambda x: x * -x, 20, 20), lambda p: bool((p <= 0).all())),
        (of(lambda x: x - x[:1], 20, 20), lambda p: bool((p[0] == 0).all()) and p.std() > 1),
        (of(lambda x: torch.cat([x, -x]), 20, 20), lambda p: torch.equal(p[:20], -p[20:])),
        (of(lambda x: torch.cat([x, x[:5]]), 20, 20), lambda p: torch.equal(p[:5], p[20:])),
        (of(lambda x: torch.cat([x, x.T]), 20, 20), lambda p: torch.equal(p[:20], p[20:].T)),
        (of(lambda x: torch.stack([x, x], dim=2), 20, 20), lambda p: torch.equal(p[..., 0], p[..., 1])),
        (written(lambda w: (w.normal_(), w[10:].copy_(w[:10])), 20, 20), lambda p: torch.equal(p[:10], p[10:])),
        (written(lambda w: (w.normal_(), w[0].copy_(w[1])), 20, 20), lambda p: torch.equal(p[0], p[1])),
        (written(lambda w: w.copy_(torch.randn(20)), 30, 20), lambda p: torch.equal(p, p[:1].expand(30, 20))),
        (of(lambda x: x.expand(30, 20).clone(), 1, 20), lambda p: torch.equal(p, p[:1].expand(30, 20))),
        (of(lambda x: x.repeat_interleave(4, 0), 5, 20), lambda p: torch.equal(p[0], p[3]) and p[3].ne(p[4]).all()),
    ],
)
def test_numbers_that_a_tensor_has_more_than_once_are_the_same(
    make: Make, holds: Callable[[torch.Tensor], bool]
) -> None:
    (tensor,) = drawn(make)
    assert holds(tensor)
    assert len(set(tensor.flatten().tolist())) >= 20


@pytest.mark.parametrize("split", [lambda x: x.chunk(2), lambda x: x.chunk(2, dim=1), lambda x: x.unbind(0)])
def test_parts_of_a_tensor_that_have_no_number_in_common_are_drawn_apart(split: Callable[[torch.Tensor], Any]) -> None:
    first, second, *_ = drawn(lambda: split(torch.randn(2, 40)))
    assert first.shape == second.shape
    assert bool(first.ne(second).all())


def test_a_copy_with_its_axes_swapped_is_not_said_to_be_the_same() -> None:
    def copies() -> tuple[torch.Tensor, torch.Tensor]:
        first, second = torch.randn(4, 4), torch.empty(4, 4)
        second.T.copy_(first)
        return first, second

    with pytest.raises(ValueError, match="p1: it holds a part of p0"):
        Manifest.of(Made, copies)


def test_parts_of_random_numbers_that_another_tensor_has_are_named() -> None:
    with pytest.raises(ValueError, match="p1: it is computed from random numbers of which another tensor has a part"):
        Manifest.of(Made, of(lambda x: (x.T.contiguous(), x + x.T), 4, 4))


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: torch.full((3,), 2.7).long().float(), [2.0] * 3),
        (lambda: torch.full((3,), 0.5).bool().float(), [1.0] * 3),
        (lambda: torch.zeros(3, dtype=torch.int64).copy_(torch.full((3,), 2.7)).float(), [2.0] * 3),
        (lambda: (torch.full((3,), 200, dtype=torch.uint8) + 100).float(), [44.0] * 3),
        (lambda: (-torch.full((3,), 3, dtype=torch.uint8)).float(), [253.0] * 3),
        (lambda: torch.linspace(0, 2, 5).long().float(), [0.0, 0.0, 1.0, 1.0, 2.0]),
        (lambda: torch.tensor([1.5, 2.5]).long().float(), [1.0, 2.0]),
        (lambda: torch.tensor([1 / 3, 1.0]).bfloat16().float(), [0.333984375, 1.0]),
    ],
)
def test_numbers_that_are_converted_are_rounded(make: Make, values: list[float]) -> None:
    (tensor,) = drawn(make)
    assert tensor.tolist() == values


def test_random_numbers_that_are_converted_to_integers_are_integers() -> None:
    (tensor,) = drawn(lambda: (torch.rand(1000) * 10).long().float())
    assert set(tensor.tolist()) == {float(each) for each in range(10)}


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda w: w.uniform_(-0.5, 0.5).erfinv_().clamp_(-2, 2), ("trunc_normal", 0.5**0.5, -0.476936, 0.476936)),
        (lambda w: w.uniform_(-1, 1).erfinv_().mul_(math.sqrt(2)), ("normal", 1.0, None, None)),
        (lambda w: w.uniform_(-1, 1).erfinv_().clamp_(-0.7, 0.7), ("clamped_normal", 0.5**0.5, -0.7, 0.7)),
        (lambda w: w.normal_().clamp_(min=0), ("clamped_normal", 1.0, 0.0, 40.0)),
        (lambda w: w.normal_().clamp_(max=0.5), ("clamped_normal", 1.0, -40.0, 0.5)),
        (lambda w: w.normal_().clamp_(1, -1), ("constant", None, None, None)),
        (lambda w: w[:1].expand(6, 4).zero_() if w.normal_() is w else None, ("normal", 1.0, None, None)),
    ],
)
def test_bounds_are_those_of_the_code(
    write: Callable[[torch.Tensor], object], expected: tuple[str, float | None, float | None, float | None]
) -> None:
    fields = Manifest.of(Made, written(write, 6, 4)).document()["tensors"]["p0"]
    approx = [None if each is None else pytest.approx(each, abs=1e-5) for each in expected[1:]]
    assert [fields["scheme"], *(fields.get(key) for key in ("std", "a", "b"))] == [expected[0], *approx]


def test_a_view_that_repeats_a_row_writes_that_row_only() -> None:
    (tensor,) = drawn(written(lambda w: (w.normal_(), w[:1].expand(6, 4).zero_()), 6, 4))
    assert (tensor == 0).sum(1).tolist() == [4, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (written(lambda w: w.view(torch.int32).fill_(7), 6, 4), "another dtype"),
        (written(lambda w: (w.normal_(), w.view(torch.int32)[0].fill_(7)), 6, 4), "another dtype"),
        (lambda: torch.rand(4, dtype=torch.cfloat), "no scheme draws random numbers of torch.complex64"),
        (lambda: torch.full((4,), 1 + 2j), "it is complex"),
        (lambda: torch.empty(4) * 0.5, "it is computed from memory that was never written"),
        (written(lambda w: w.add_(1), 4), "it is computed from memory that was never written"),
    ],
)
def test_what_cannot_be_recorded_is_named(make: Make, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"p0: .*{problem}.*test_identity\.py:\d+"):
        Manifest.of(Made, make)


def test_memory_that_is_used_as_another_dtype_as_a_whole_is_recorded() -> None:
    fields = Manifest.of(Made, lambda: torch.empty(96, dtype=torch.uint8).view(torch.float32).normal_()).document()
    assert fields["tensors"]["p0"]["scheme"] == "normal"


@pytest.mark.parametrize(
    ("write", "expected"),
    [(lambda w: nn.init.eye_(w.T), torch.eye(4, 6)), (lambda w: w.copy_(torch.eye(4, 6)), torch.eye(4, 6))],
)
def test_an_identity_matrix_in_any_order_is_recorded(
    write: Callable[[torch.Tensor], object], expected: torch.Tensor
) -> None:
    assert torch.equal(drawn(written(write, 4, 6))[0], expected)


def test_a_large_identity_matrix_is_a_law() -> None:
    fields = Manifest.of(Made, lambda: torch.eye(300) * 0.5).document()["tensors"]["p0"]
    assert fields == {"shape": [300, 300], "module": "Made", "scheme": "identity", "gain": 0.5}


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_number_of_a_tensor_that_is_not_drawn_is_refused(device: str) -> None:
    def make() -> torch.Tensor:
        tensor = torch.randn(40, device=device)
        return torch.div(tensor, tensor.norm().item())

    with pytest.raises(ValueError, match=r"asks for the number of a tensor.*test_identity\.py:\d+"):
        Manifest.of(Made, make)


def test_a_number_that_is_known_is_given() -> None:
    fields = Manifest.of(Made, lambda: torch.ones(4) * torch.full((), 0.5).item()).document()["tensors"]["p0"]
    assert fields["val"] == 0.5


def test_random_numbers_that_numpy_takes_are_seen() -> None:
    """They are not drawn while a model is recorded."""
    manifest = Manifest.of(Made, lambda: torch.from_numpy(torch.randn(40, device="cpu").numpy() * 2))
    with pytest.raises(ValueError, match="p0 holds numbers that are not finite"):
        manifest.document()


def test_a_row_of_a_tensor_in_memory_is_a_part() -> None:
    with weightwell.recording() as recording:
        model = Made(lambda: torch.ones(6, 4))
        with torch.no_grad():
            model.get_parameter("p0")[2].normal_()
    fields = Manifest.from_recording(recording, model).document()["tensors"]["p0"]
    assert fields["scheme"] == "ones"
    assert [part["slice"] for part in fields["parts"]] == ["2:3,0:4"]


def test_recordings_that_end_in_another_order_leave_torch_as_it_was() -> None:
    """Two threads record: the first to begin ends first, and the second still records."""
    names = ("orthogonal_", "sparse_", "eye_", "dirac_", "_no_grad_trunc_normal_")
    before = [torch.tensor, torch.as_tensor, *(getattr(nn.init, name) for name in names)]
    begun, ended = threading.Event(), threading.Event()
    found: list[Any] = []

    def second() -> None:
        with weightwell.recording() as recording:
            begun.set()
            assert ended.wait(60)
            model = Made(lambda: nn.init.trunc_normal_(torch.empty(6, 4, device="meta")))
        found.append(Manifest.from_recording(recording, model).document()["tensors"]["p0"]["scheme"])

    thread = threading.Thread(target=second)
    with ExitStack() as stack:
        stack.enter_context(weightwell.recording())
        thread.start()
        assert begun.wait(60)
    ended.set()
    thread.join()
    assert found == ["trunc_normal"]
    assert before == [torch.tensor, torch.as_tensor, *(getattr(nn.init, name) for name in names)]


def test_a_function_that_a_module_imports_after_a_recording_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("imports_late")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with weightwell.recording():
        pass
    module.orthogonal_ = nn.init.orthogonal_
    with weightwell.recording() as recording:
        model = Made(lambda: module.orthogonal_(torch.empty(6, 4, device="meta")))
    assert Manifest.from_recording(recording, model).tensors["p0"]["scheme"] == "orthogonal"
    assert module.orthogonal_ is nn.init.orthogonal_


class Kept(nn.Module):
    """A module whose initializer finds its parameters by other attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.weight = nn.Parameter(torch.empty(3))
        self.layers = [self.layer]
        self.named = {"weight": self.weight}
        self.ones = partial(nn.init.ones_, self.weight)
        self.run = self._run
        self.reset_parameters()

    def _run(self) -> None:
        for layer in self.layers:
            nn.init.constant_(layer.weight, 3.0)
            nn.init.normal_(layer.bias, 5.0)
        nn.init.zeros_(self.named["weight"])
        self.ones()

    def reset_parameters(self) -> None:
        self.run()


def test_initializers_write_twins_by_any_attribute() -> None:
    model = Kept()
    with torch.no_grad():
        for each in model.parameters():
            each.fill_(7)
    tensors = Manifest.from_module(model).document()["tensors"]
    assert {name: each["scheme"] for name, each in tensors.items()} == {
        "weight": "ones",
        "layer.weight": "constant",
        "layer.bias": "normal",
    }
    assert all(bool((each == 7).all()) for each in model.parameters())


class Closed(nn.Module):
    """A module whose initializer has its parameter in a closure."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = weight = nn.Parameter(torch.empty(3))
        self.fill: Callable[[], object] = lambda: nn.init.ones_(weight)

    def reset_parameters(self) -> None:
        self.fill()


def test_an_initializer_that_would_write_the_model_itself_is_refused() -> None:
    model = Closed()
    with torch.no_grad():
        model.weight.fill_(7)
    with pytest.raises(ValueError, match=r"writes a tensor of the model .*test_identity\.py:\d+"):
        Manifest.from_module(model)
    assert model.weight.tolist() == [7.0] * 3


@pytest.mark.parametrize("made", [None, 3])
def test_what_builds_no_module_is_refused(made: object) -> None:
    with pytest.raises(TypeError, match=f"build must return a torch module, got {made}"):
        Manifest.of(lambda: made)  # type: ignore[arg-type, return-value]
