"""Every way in which code writes a parameter, and the law that is recorded of it."""

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import weightwell
from weightwell import Manifest

Write = Callable[[torch.Tensor], object]

SHAPE = (6, 4)


class Written(nn.Module):
    """A module with one parameter, which a function writes."""

    def __init__(self, write: Write, shape: tuple[int, ...] = SHAPE):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        with torch.no_grad():
            write(self.weight)


class Made(nn.Module):
    """A module with one parameter, which a function makes."""

    def __init__(self, make: Callable[[], torch.Tensor]):
        super().__init__()
        self.weight = nn.Parameter(make())


def fields(module: Callable[..., nn.Module], *args: Any) -> dict[str, Any]:
    """Return what is recorded of the only parameter of a module."""
    (tensor,) = Manifest.of(module, *args).document()["tensors"].values()
    return {key: value for key, value in tensor.items() if key not in {"shape", "dtype", "module"}}


def uniform(low: float, high: float) -> dict[str, Any]:
    return {"scheme": "uniform", "a": pytest.approx(low), "b": pytest.approx(high)}


def normal(mean: float, std: float) -> dict[str, Any]:
    return {"scheme": "normal", "mean": pytest.approx(mean), "std": pytest.approx(std)}


def bounded(scheme: str, mean: float, std: float, low: float, high: float) -> dict[str, Any]:
    approx = pytest.approx
    return {"scheme": scheme, "mean": approx(mean), "std": approx(std), "a": approx(low), "b": approx(high)}


ZEROS, ONES = {"scheme": "zeros"}, {"scheme": "ones"}


def timms_trunc_normal_(tensor: torch.Tensor, mean: float, std: float, a: float, b: float) -> torch.Tensor:
    """Truncate as torch did until 2.12, and timm and others do: by the inverse of the distribution function."""

    def share(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    low, high = share((a - mean) / std), share((b - mean) / std)
    tensor.uniform_(2 * low - 1, 2 * high - 1)
    tensor.erfinv_()
    tensor.mul_(std * math.sqrt(2.0))
    tensor.add_(mean)
    return tensor.clamp_(min=a, max=b)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda w: w.normal_(), normal(0, 1)),
        (lambda w: nn.init.normal_(w, 0.5, 0.02), normal(0.5, 0.02)),
        (lambda w: w.data.uniform_(-0.1, 0.3), uniform(-0.1, 0.3)),
        (lambda w: w.detach().view(-1).uniform_(), uniform(0, 1)),
        (lambda w: nn.init.xavier_uniform_(w), uniform(-math.sqrt(0.6), math.sqrt(0.6))),
        (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), normal(0, math.sqrt(0.5))),
        (lambda w: w.zero_(), ZEROS),
        (lambda w: w.fill_(1), ONES),
        (lambda w: nn.init.constant_(w, 0.3), {"scheme": "constant", "val": pytest.approx(0.3)}),
        (lambda w: w.copy_(torch.tensor(0.25)), {"scheme": "constant", "val": 0.25}),
        (lambda w: w.fill_(2).mul_(3).sqrt_(), {"scheme": "constant", "val": pytest.approx(math.sqrt(6))}),
        (lambda w: nn.init.trunc_normal_(w, std=0.02), bounded("trunc_normal", 0, 0.02, -2, 2)),
        (lambda w: timms_trunc_normal_(w, 0.1, 0.2, -0.3, 0.5), bounded("trunc_normal", 0.1, 0.2, -0.3, 0.5)),
        (lambda w: timms_trunc_normal_(w, 0.0, 0.02, -2.0, 2.0), bounded("trunc_normal", 0, 0.02, -2, 2)),
        (lambda w: nn.init.trunc_normal_(w).mul_(0.5).add_(1), bounded("trunc_normal", 1, 0.5, 0, 2)),
        (lambda w: nn.init.orthogonal_(w, 2.0), {"scheme": "orthogonal", "gain": 2.0}),
        (lambda w: nn.init.orthogonal_(w).mul_(-3), {"scheme": "orthogonal", "gain": -3.0}),
        (lambda w: nn.init.sparse_(w, 0.5), {"scheme": "sparse", "sparsity": 0.5, "std": 0.01}),
        (lambda w: nn.init.eye_(w), {"scheme": "eye"}),
        (lambda w: nn.init.eye_(w).mul_(2), {"scheme": "identity", "gain": 2.0}),
        (lambda w: w.normal_().mul_(0.5), normal(0, 0.5)),
        (lambda w: w.normal_(1.0, 2.0).div_(-4), normal(-0.25, 0.5)),
        (lambda w: w.uniform_().mul_(2).sub_(1), uniform(-1, 1)),
        (lambda w: w.uniform_(1, 3).neg_(), uniform(-3, -1)),
        (lambda w: w.copy_(1 - 2 * torch.rand_like(w)), uniform(-1, 1)),
        (lambda w: w.add_(torch.ones(()), alpha=2) if w.zero_() is w else None, {"scheme": "constant", "val": 2.0}),
        (lambda w: w.uniform_(0, 1).clamp_(-1, 2), uniform(0, 1)),
        (lambda w: w.copy_(torch.normal(1.0, 3.0, w.shape)), normal(1, 3)),
        (lambda w: w.copy_(torch.empty(w.T.shape).normal_(std=0.1).T), normal(0, 0.1)),
        (lambda w: w.normal_() and w.zero_() if False else (w.normal_(), w.zero_()), ZEROS),
    ],
)
def test_a_parameter_that_is_written_as_a_whole_has_one_scheme(write: Write, expected: dict[str, Any]) -> None:
    assert fields(Written, write) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: torch.randn(6, 4) * 0.02, normal(0, 0.02)),
        (lambda: torch.randn(SHAPE).div(4) + 1, normal(1, 0.25)),
        (lambda: 0.5 * torch.rand(6, 4), uniform(0, 0.5)),
        (lambda: torch.ones(4) * 1e-5, {"scheme": "constant", "val": pytest.approx(1e-5)}),
        (lambda: torch.full((4,), 0.5), {"scheme": "constant", "val": 0.5}),
        (lambda: torch.zeros(1, 2, 3), ZEROS),
        (lambda: torch.zeros_like(torch.randn(3)), ZEROS),
        (lambda: torch.randn(3).new_ones(4), ONES),
        (lambda: torch.tensor(2.5), {"scheme": "constant", "val": 2.5}),
        (lambda: torch.tensor([1.0, 2.0]), {"scheme": "values", "values": [1.0, 2.0]}),
        (lambda: torch.arange(3.0).log1p().exp(), {"scheme": "values", "values": pytest.approx([1.0, 2.0, 3.0])}),
        (
            lambda: torch.arange(1.0, 4.0).repeat(5, 1),
            {"scheme": "values", "values": [1.0, 2.0, 3.0], "dims": [1, 3]},
        ),
        (lambda: torch.where(torch.arange(4) < 2, 1.0, 0.0), {"scheme": "values", "values": [1.0, 1.0, 0.0, 0.0]}),
        (lambda: torch.empty(0, 3), ZEROS),
        (lambda: torch.empty(3, 4, dtype=torch.bfloat16).normal_().float(), normal(0, 1)),
    ],
)
def test_a_parameter_that_is_made_by_an_expression_has_a_scheme(
    make: Callable[[], torch.Tensor], expected: dict[str, Any]
) -> None:
    assert fields(Made, make) == expected


def _padded(weight: torch.Tensor) -> None:
    weight.normal_(std=0.02)
    weight[2].zero_()


def _fused(weight: torch.Tensor) -> None:
    for index, std in enumerate((0.1, 0.2, 0.3)):
        weight[2 * index : 2 * index + 2].normal_(std=std)


def _alike(weight: torch.Tensor) -> None:
    for row in weight:
        row.uniform_(-1, 1)


def _columns(weight: torch.Tensor) -> None:
    weight.zero_()
    weight[1:3, 1:2] = 1.0


def _chunks(weight: torch.Tensor) -> None:
    for chunk in weight.chunk(2):
        nn.init.orthogonal_(chunk)


def _covered(weight: torch.Tensor) -> None:
    weight.zero_()
    weight[:2].normal_()
    weight[:3].fill_(1)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (_padded, {**normal(0, 0.02), "parts": [{"slice": "2:3,0:4", **ZEROS}]}),
        (
            _fused,
            {
                **ZEROS,
                "parts": [
                    {"slice": "0:2,0:4", **normal(0, 0.1)},
                    {"slice": "2:4,0:4", **normal(0, 0.2)},
                    {"slice": "4:6,0:4", **normal(0, 0.3)},
                ],
            },
        ),
        (_alike, uniform(-1, 1)),
        (_columns, {**ZEROS, "parts": [{"slice": "1:3,1:2", **ONES}]}),
        (
            _chunks,
            {
                **ZEROS,
                "parts": [
                    {"slice": "0:3,0:4", "scheme": "orthogonal", "gain": 1.0},
                    {"slice": "3:6,0:4", "scheme": "orthogonal", "gain": 1.0},
                ],
            },
        ),
        (
            lambda w: w.zero_()[:2, :2].fill_diagonal_(1.0),
            {**ZEROS, "parts": [{"slice": "0:1,0:1", **ONES}, {"slice": "1:2,1:2", **ONES}]},
        ),
        (
            lambda w: (w.zero_(), w[::3].fill_(1)),
            {**ZEROS, "parts": [{"slice": "0:1,0:4", **ONES}, {"slice": "3:4,0:4", **ONES}]},
        ),
        (_covered, {**ZEROS, "parts": [{"slice": "0:3,0:4", **ONES}]}),
        (
            lambda w: (w.normal_(), w[:, :2].mul_(0.5)),
            {**normal(0, 1), "parts": [{"slice": "0:6,0:2", **normal(0, 0.5)}]},
        ),
        (lambda w: (w.zero_(), w.T[1].fill_(1)), {**ZEROS, "parts": [{"slice": "0:6,1:2", **ONES}]}),
        (lambda w: (w.zero_(), w.view(3, 2, 4)[1].fill_(1)), {**ZEROS, "parts": [{"slice": "2:4,0:4", **ONES}]}),
    ],
)
def test_rectangles_that_are_written_apart_are_parts(write: Write, expected: dict[str, Any]) -> None:
    assert fields(Written, write) == expected


def _fused_by_head(weight: torch.Tensor) -> None:
    """Join query, key and value in the manner of torchtitan, head by head."""
    query, key, value = torch.empty(4, 2), torch.empty(2, 2), torch.empty(2, 2)
    nn.init.normal_(query, std=0.1)
    nn.init.normal_(key, std=0.2)
    nn.init.zeros_(value)
    fused = torch.cat([query.view(2, 2, 1, 2), key.view(2, 1, 1, 2), value.view(2, 1, 1, 2)], dim=1)
    weight.copy_(fused.view(-1, 2))


def test_tensors_that_are_joined_in_turns_are_parts_by_turns() -> None:
    expected = [("0:2", 0.1), ("4:6", 0.1), ("2:3", 0.2), ("6:7", 0.2), ("3:4", 0.0), ("7:8", 0.0)]
    parts = [{"slice": f"{rows},0:2", **(normal(0, std) if std else ZEROS)} for rows, std in expected]
    assert fields(Written, _fused_by_head, (8, 2)) == {**ZEROS, "parts": parts}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: torch.cat([torch.randn(2, 3), torch.randn(4, 3)]), normal(0, 1)),
        (lambda: torch.stack([torch.rand(3), torch.rand(3)], dim=1), uniform(0, 1)),
        (
            lambda: torch.cat([torch.randn(2, 3), torch.zeros(1, 3)]),
            {**ZEROS, "parts": [{"slice": "0:2,0:3", **normal(0, 1)}, {"slice": "2:3,0:3", **ZEROS}]},
        ),
        (
            lambda: torch.stack([torch.randn(3), torch.ones(3)]),
            {**ZEROS, "parts": [{"slice": "0:1,0:3", **normal(0, 1)}, {"slice": "1:2,0:3", **ONES}]},
        ),
    ],
)
def test_tensors_that_are_joined_are_parts_or_have_one_law(
    make: Callable[[], torch.Tensor], expected: dict[str, Any]
) -> None:
    assert fields(Made, make) == expected


def test_what_is_no_rectangle_is_computed() -> None:
    triangle = fields(Written, lambda w: w.copy_(torch.ones(3, 2).tril()), (3, 2))
    assert triangle == {"scheme": "values", "values": [1.0, 0.0, 1.0, 1.0, 1.0, 1.0]}


class Pair(nn.Module):
    """Two parameters of which the second is made of the first."""

    def __init__(self, second: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.first = nn.Parameter(torch.randn(4, 4))
        self.second = nn.Parameter(second(self.first.detach()))


@pytest.mark.parametrize("second", [torch.clone, copy.deepcopy, lambda first: torch.empty(4, 4).copy_(first)])
def test_a_copy_of_a_parameter_has_its_stream(second: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = Manifest.of(Pair, second).document()["tensors"]
    assert tensors["second"] == {**tensors["first"], "stream": "first"}


def _twice(weight: torch.Tensor) -> None:
    half = torch.randn(3, 4)
    weight.copy_(torch.cat([half, half]))


def test_numbers_that_a_parameter_has_twice_are_drawn_twice() -> None:
    """The second half has the stream of the first."""
    parts = [{"slice": "0:3,0:4", **normal(0, 1)}, {"slice": "3:6,0:4", **normal(0, 1), "stream": "weight[0:3,0:4]"}]
    assert fields(Written, _twice) == {**ZEROS, "parts": parts}


class Fused(nn.Module):
    """Parameters, and another that they are joined in."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(2, 4))
        self.key = nn.Parameter(torch.randn(2, 4))
        self.fused = nn.Parameter(torch.cat([self.query.detach(), self.key.detach()]))


def test_a_parameter_in_which_others_are_joined_has_their_numbers() -> None:
    fused = Manifest.of(Fused).document()["tensors"]["fused"]
    assert [(part["slice"], part["stream"]) for part in fused["parts"]] == [("0:2,0:4", "query"), ("2:4,0:4", "key")]


def test_a_copy_of_a_parameter_with_parts_has_their_streams() -> None:
    def build() -> nn.Module:
        first = nn.Embedding(8, 4, padding_idx=0)
        return nn.ModuleList([first, copy.deepcopy(first)])

    tensors = Manifest.of(build).document()["tensors"]
    assert tensors["1.weight"] == {**tensors["0.weight"], "stream": "0.weight"}


def test_a_scaled_copy_of_a_parameter_has_its_stream_and_a_law_of_its_own() -> None:
    tensors = Manifest.of(Pair, lambda first: first * 0.5).document()["tensors"]
    assert tensors["second"] == {"shape": [4, 4], "module": "Pair", **normal(0, 0.5), "stream": "first"}


@pytest.mark.parametrize("second", [lambda first: first[:2].clone(), torch.neg])
def test_a_part_of_another_parameter_cannot_be_said(second: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """No law says which numbers of another tensor a tensor has."""
    with pytest.raises(ValueError, match=r"second: it holds a part of first, .*test_writes\.py:\d+"):
        Manifest.of(Pair, second)


def test_random_numbers_that_no_scheme_draws_are_named_with_their_line() -> None:
    with pytest.raises(ValueError, match=r"weight: no scheme draws .*bernoulli.*test_writes\.py:\d+"):
        Manifest.of(Written, lambda w: w.bernoulli_(0.5))


def test_memory_that_nobody_wrote_is_named() -> None:
    with pytest.raises(ValueError, match="weight: it was never written"):
        Manifest.of(Written, id)


def test_a_rule_stands_for_what_cannot_be_recorded() -> None:
    rules = [{"match": "weight", "scheme": "ones"}]
    document = Manifest.of(Written, lambda w: w.bernoulli_(0.5), rules=rules).document()
    assert (document["rules"], document["tensors"]["weight"]) == (rules, {"shape": [6, 4], "module": "Written"})


def test_numbers_that_are_computed_from_random_ones_follow_the_seed() -> None:
    def make() -> torch.Tensor:
        return torch.exp(torch.rand(1000) * 2 - 1)

    manifest = Manifest.of(Made, make, seed=1)
    one = manifest.document()["tensors"]["weight"]["values"]
    manifest.seed = 2
    two = manifest.document()["tensors"]["weight"]["values"]
    manifest.seed = 1
    assert one == manifest.document()["tensors"]["weight"]["values"] != two
    assert sum(map(math.log, one)) / 1000 == pytest.approx(0.0, abs=0.1)
    assert math.exp(-1) <= min(one) < 0.5 < 2.5 < max(one) <= math.exp(1)


def test_too_many_computed_numbers_are_named_when_the_manifest_is_sent() -> None:
    manifest = Manifest.of(Made, lambda: torch.arange(70_000.0))
    with pytest.raises(ValueError, match=r"weight holds 70000 numbers that the model's code computes"):
        manifest.document()


def test_recording_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    with weightwell.recording() as recording:
        model = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5), nn.LayerNorm(5))
        nn.init.orthogonal_(model.get_parameter("0.weight"))
    assert torch.equal(torch.get_rng_state(), before)
    tensors = Manifest.from_recording(recording, model, seed=7).document()["tensors"]
    assert tensors["0.weight"] == {"shape": [4, 3], "module": "Linear", "scheme": "orthogonal", "gain": 1.0}
    assert tensors["2.weight"] == {"shape": [5], "module": "LayerNorm", "scheme": "ones"}


def test_after_a_recording_initializers_draw_again() -> None:
    with weightwell.recording():
        pass
    weight = torch.empty(4, 4)
    nn.init.orthogonal_(weight)
    torch.testing.assert_close(weight @ weight.T, torch.eye(4))


def test_another_thread_initializes_its_tensors_during_a_recording() -> None:
    weight = torch.zeros(4, 4)
    with weightwell.recording(), ThreadPoolExecutor(1) as thread:
        thread.submit(nn.init.orthogonal_, weight).result()
    torch.testing.assert_close(weight @ weight.T, torch.eye(4))


def test_after_an_error_in_a_recording_everything_is_as_before() -> None:
    before = nn.init.orthogonal_, nn.init.eye_, torch.tensor, torch.as_tensor
    with pytest.raises(RuntimeError, match="mistake"), weightwell.recording():
        raise RuntimeError("mistake")
    assert (nn.init.orthogonal_, nn.init.eye_, torch.tensor, torch.as_tensor) == before
    assert torch.rand(8).unique().numel() == 8  # type: ignore[no-untyped-call]


def test_numbers_that_are_not_finite_are_named() -> None:
    manifest = Manifest.of(Made, lambda: torch.full((3,), float("-inf")))
    with pytest.raises(ValueError, match="weight holds numbers that are not finite"):
        manifest.document()


def test_tensors_that_are_tensors_already_keep_what_is_known_of_them() -> None:
    before = torch.empty(3, device="meta")
    with pytest.raises(ValueError, match="weight: it was made before the recording began"):
        Manifest.of(Made, lambda: torch.as_tensor(before))
    assert fields(Made, lambda: torch.as_tensor(torch.randn(3))) == normal(0, 1)


def test_a_transposed_write_and_a_cast_keep_the_law() -> None:
    assert fields(Written, lambda w: w.T.normal_(std=0.5)) == normal(0, 0.5)
    assert fields(lambda: Made(lambda: torch.randn(3)).to(torch.bfloat16)) == normal(0, 1)


def test_a_table_says_which_line_gave_a_law() -> None:
    with weightwell.recording() as recording, torch.device("meta"):
        model = nn.Linear(3, 4)
        model.weight.data.normal_()
    weight, bias = recording.table(model)
    assert (weight.name, weight.shape, weight.law) == ("weight", (4, 3), "normal(mean=0, std=1)")
    assert weight.line.startswith(__file__)
    assert "torch/nn/modules/linear.py:" in bias.line
