"""``weightwell.signals``: statistics of every call of a module, and a model that is as it was before."""

import copy
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import weightwell

Batch = Any


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def linear(*rows: list[float]) -> nn.Linear:
    """A linear layer with these weights and no bias."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


class Residual(nn.Module):
    """A block of a residual network: convolutions, batch normalization and activations in place."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        if self.relu.inplace:
            branch += x
        else:
            branch = branch + x
        result: torch.Tensor = self.relu(branch)
        return result


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        Residual(4),
        Residual(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    )


class Tagger(nn.Module):
    """Token ids, an LSTM, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(5, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.embed(ids))
        logits: torch.Tensor = self.head(self.drop(hidden))
        return logits


def tagger() -> nn.Module:
    torch.manual_seed(0)
    return Tagger()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=16, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    return GPT2LMHeadModel(config)


IDS = torch.arange(16).reshape(2, 8) % 11
IMAGES = drawn(4, 3, 8, 8)

CASES: dict[str, tuple[Callable[[], nn.Module], Batch]] = {
    "resnet": (resnet, IMAGES),
    "tagger": (tagger, IDS),
    "in place first": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Tanh()), drawn(3, 4)),
}


@pytest.fixture(params=[*CASES, "gpt2"])
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Batch]:
    if request.param == "gpt2":
        return request.getfixturevalue("gpt2"), {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    build, batch = CASES[request.param]
    return build(), batch


# Numbers ---------------------------------------------------------------------------------------------------------


def test_every_number_of_a_small_network() -> None:
    model = nn.Sequential(linear([1, 2], [0, -1]), nn.ReLU(), linear([2, 0], [0, 2]))
    table = weightwell.signals(model, torch.tensor([[1.0, 1.0], [-1.0, 2.0]]))
    first, relu, last, whole = table
    # [[3, -1], [3, -2]]
    assert first["name"] == first["module"] == "0"
    assert (first["type"], first["shape"], first["dtype"], first["channel_axis"]) == ("Linear", (2, 2), "float32", 1)
    assert first["forward.mean"] == 0.75
    assert first["forward.std"] == pytest.approx(math.sqrt(5.75 - 0.75**2))
    assert first["forward.rms"] == pytest.approx(math.sqrt(5.75))
    assert first["forward.largest"] == 3
    assert first["forward.zeros"] == first["forward.not_finite"] == 0
    assert first["forward.channel_squared_mean"] == (9 + 1.5**2) / 2
    assert first["forward.channel_variance"] == 0.125
    # Gradients of size 1 at the end, 2 in front of the last layer, 0 where ReLU is off.
    assert relu["forward.zeros"] == 0.5
    assert (last["backward.rms"], relu["backward.rms"]) == (1, 2)
    assert first["backward.rms"] == first["backward.ratio"] == pytest.approx(math.sqrt(2))
    assert {**whole, "name": "", "module": "", "type": ""} == {**last, "name": "", "module": "", "type": ""}
    assert whole["name"] == "(model)"


def test_channels_of_convolutions_are_axis_1_also_after_their_activations() -> None:
    convolution = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(2)[:, :, None, None])
        convolution.bias.copy_(torch.tensor([1.0, 3.0]))  # type: ignore[union-attr]
    for row in weightwell.signals(nn.Sequential(convolution, nn.ReLU()), torch.zeros(2, 2, 3, 3)):
        assert row["channel_axis"] == 1
        assert row["forward.channel_squared_mean"] == 5
        assert row["forward.channel_variance"] == 0


@pytest.mark.parametrize(
    ("model", "batch", "axes"),
    [
        (nn.Sequential(nn.Conv1d(2, 3, 1), nn.Tanh()), drawn(2, 2, 5), [1, 1, 1]),
        (nn.Sequential(nn.Linear(5, 3), nn.Tanh()), drawn(2, 2, 5), [2, 2, 2]),
        (nn.Tanh(), drawn(2, 3, 4, 5), [1]),
        (nn.Tanh(), drawn(2, 3, 4), [2]),
        (nn.Sequential(nn.LayerNorm(5), nn.Tanh()), drawn(2, 3, 4, 5), [3, 3, 3]),  # channels last
        (nn.Sequential(nn.BatchNorm1d(5), nn.GRU(5, 2)), drawn(3, 5), [1, 1, 1, 1, 1]),
    ],
)
def test_the_channel_axis(model: nn.Module, batch: torch.Tensor, axes: list[int]) -> None:
    assert weightwell.signals(model, batch)["channel_axis"] == axes


@pytest.mark.parametrize("mode", [True, False])
def test_gradients_are_those_of_an_ordinary_backward_pass(case: tuple[nn.Module, Batch], mode: bool) -> None:
    model, batch = case
    model.train(mode)
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    table = weightwell.signals(model, batch, seed=3)

    # A copy that does not work in place, whose outputs keep their gradients.
    plain = copy.deepcopy(model)
    kept: list[torch.Tensor] = []
    for each in plain.modules():
        if isinstance(each, nn.ReLU):
            each.inplace = False
        each.register_forward_hook(lambda _module, _inputs, output: kept.extend(tensors(output)))
    answer = (
        plain(**batch) if isinstance(batch, dict) else plain(batch.clone().requires_grad_(batch.is_floating_point()))
    )
    for each_tensor in kept:
        each_tensor.retain_grad()
    (output,) = tensors(answer)
    torch.autograd.backward(output, signs(output, seed=3))
    for row, tensor in zip(table, kept, strict=True):
        expected = None if tensor.grad is None else pytest.approx(tensor.grad.square().mean().sqrt().item(), rel=1e-5)
        assert row.get("backward.rms") == expected, row["name"]
        assert row["forward.rms"] == pytest.approx(tensor.square().mean().sqrt().item(), rel=1e-5), row["name"]


def tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else ()
    return [tensor for value in values for tensor in tensors(value)]


def signs(like: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randint(0, 2, like.shape, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def test_gpt2_has_a_row_for_each_module_in_order(gpt2: nn.Module) -> None:
    table = weightwell.signals(gpt2, {"input_ids": IDS})
    assert table["name"][:4] == ["transformer.wte", "transformer.wpe", "transformer.drop", "transformer.h.0.ln_1"]
    assert table["name"][-3:] == ["transformer.last_hidden_state", "lm_head", "(model).logits"]
    assert len(set(table["name"])) == len(table)
    assert all(value is not None and value > 0 for value in table["backward.rms"])
    # N(0, 0.02) of GPT-2, in the sum of two embeddings.
    assert table["forward.rms"][2] == pytest.approx(0.02 * math.sqrt(2) / math.sqrt(0.9), rel=0.2)


def test_tensors_of_an_lstm_have_their_places() -> None:
    table = weightwell.signals(tagger().eval(), IDS)
    assert table["name"] == ["embed", "lstm[0]", "lstm[1][0]", "lstm[1][1]", "drop", "head", "(model)"]
    assert table["output"][1:4] == ["[0]", "[1][0]", "[1][1]"]
    assert table["backward.rms"][2] is None  # the last states are not used


def test_calls_of_a_module_are_numbered() -> None:
    relu = nn.ReLU()
    table = weightwell.signals(nn.Sequential(linear([1.0]), relu, linear([3.0]), relu), torch.ones(1, 1))
    assert table["name"] == ["0", "1", "2", "1 #2", "(model)"]
    assert table["call"] == [1, 1, 1, 2, 1]
    assert table["forward.mean"] == [1, 1, 3, 3, 3]
    assert table["backward.rms"] == [3, 3, 1, 1, 1]


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@dataclass
class Found:
    hidden: torch.Tensor
    more: dict[str, Any]


class Several(nn.Module):
    def forward(self, left: torch.Tensor, *, right: torch.Tensor) -> Found:
        return Found(left * 2, {"pair": Pair(left, right), "ids": torch.arange(3), "list": [right * 4, None, "text"]})


def test_batches_and_outputs_can_be_mappings_tuples_and_dataclasses() -> None:
    table = weightwell.signals(Several(), {"left": torch.ones(2), "right": torch.ones(2)})
    assert table["output"] == [".hidden", ".more.pair.left", ".more.pair.right", ".more.list[0]"]
    assert table["forward.mean"] == [2, 1, 1, 4]
    bilinear = nn.Bilinear(2, 2, 3)
    assert len(weightwell.signals(bilinear, (torch.ones(1, 2), torch.ones(1, 2)))) == 1


def test_gradients_can_start_at_one_output() -> None:
    table = weightwell.signals(
        Several(),
        {"left": torch.ones(2), "right": torch.ones(2)},
        output=lambda found: found.more["list"][0],
    )
    assert table["backward.rms"] == [None, None, 4, 1]


@pytest.mark.parametrize(
    ("modules", "names"),
    [
        ("lstm", ["lstm[0]", "lstm[1][0]", "lstm[1][1]"]),
        (["e*", "head"], ["embed", "head"]),
        (nn.Linear, ["head"]),
        ([nn.Dropout, "h*"], ["drop", "head"]),
    ],
)
def test_modules_are_selected_by_globs_and_types(modules: Any, names: list[str]) -> None:
    assert weightwell.signals(tagger(), IDS, modules=modules)["name"] == names


# What is not finite ----------------------------------------------------------------------------------------------


def test_the_first_value_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(40)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    table = weightwell.signals(model, drawn(4, 256))
    # Each layer multiplies by 16: float32 ends at 2^128, after some 31 layers.
    assert table.first_not_finite.forward == "31"
    assert table["forward.rms"][30] == pytest.approx(16.0**31, rel=0.5)
    assert "first value that is not finite: 31" in str(table)


def test_the_first_gradient_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(*(linear([1e20]) for _ in range(4)))
    table = weightwell.signals(model, torch.full((1, 1), 1e-45))
    assert table.first_not_finite.forward is None
    assert table.first_not_finite.backward == "1"
    assert "first gradient that is not finite: 1" in table.notes


def test_a_finite_network_has_no_notes() -> None:
    assert weightwell.signals(nn.Linear(2, 2), torch.ones(1, 2)).notes == ()


# As it was before ------------------------------------------------------------------------------------------------


class Before:
    """What a measurement must not change."""

    def __init__(self, model: nn.Module):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.model = model
        self.tensors = {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        self.objects = {name: id(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        self.required = [parameter.requires_grad for parameter in model.parameters()]
        self.modes = [each.training for each in model.modules()]
        self.random = torch.get_rng_state()

    def check(self) -> None:
        now = dict((*self.model.named_parameters(), *self.model.named_buffers()))
        assert {name: id(tensor) for name, tensor in now.items()} == self.objects
        for name, tensor in now.items():
            assert torch.equal(tensor, self.tensors[name]), name
        assert [parameter.requires_grad for parameter in self.model.parameters()] == self.required
        assert all(
            torch.equal(each.grad, torch.ones_like(each)) for each in self.model.parameters() if each.grad is not None
        )
        assert all(each.grad is not None for each in self.model.parameters())
        assert [each.training for each in self.model.modules()] == self.modes
        assert torch.equal(torch.get_rng_state(), self.random)
        assert not any(each._forward_hooks or each._backward_hooks for each in self.model.modules())


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_and_the_generator_are_as_before(case: tuple[nn.Module, Batch], mode: bool) -> None:
    model, batch = case
    before = Before(model.train(mode))
    copies = copy.deepcopy(batch)
    weightwell.signals(model, batch)
    before.check()
    for given, was in zip(tensors_of(batch), tensors_of(copies), strict=True):
        assert torch.equal(given, was)


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    return list(batch.values()) if isinstance(batch, dict) else [batch]


class Failing(nn.Module):
    def forward(self, _x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a model of its own")


def test_they_are_as_before_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), Failing())
    before = Before(model)
    with pytest.raises(RuntimeError, match="a model of its own"):
        weightwell.signals(model, drawn(4, 3))
    before.check()


def test_tensors_that_are_no_parameters_keep_their_gradients() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)]
            self.hidden[0].grad = torch.full((3,), 5.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.hidden[0] * self.hidden[1]

    model = Hidden()
    weightwell.signals(model, drawn(2, 3))
    assert torch.equal(model.hidden[0].grad, torch.full((3,), 5.0))  # type: ignore[arg-type]
    assert model.hidden[1].grad is None


def test_random_numbers_of_the_model_are_seeded() -> None:
    model = tagger().train()
    assert weightwell.signals(model, IDS, seed=1).rows == weightwell.signals(model, IDS, seed=1).rows
    assert (
        weightwell.signals(model, IDS, seed=1)["forward.zeros"]
        != weightwell.signals(model, IDS, seed=2)["forward.zeros"]
    )


# Circumstances ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_contexts_without_gradients_change_nothing(case: tuple[nn.Module, Batch], context: Any) -> None:
    model, batch = case
    expected = weightwell.signals(model, batch).rows
    with context():
        within = {key: value.clone() for key, value in batch.items()} if isinstance(batch, dict) else batch.clone()
        assert weightwell.signals(model, within).rows == expected
        assert not torch.is_grad_enabled()


def test_frozen_parameters_change_nothing(case: tuple[nn.Module, Batch]) -> None:
    model, batch = case
    expected = weightwell.signals(model, batch).rows
    model = copy.deepcopy(model).requires_grad_(requires_grad=False)
    assert weightwell.signals(model, batch).rows == expected
    assert not any(parameter.requires_grad for parameter in model.parameters())


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool | None):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Dropout(0.2)) for _ in range(3)
        )
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x) if self.reentrant is None else checkpoint(part, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing(*, reentrant: bool) -> None:
    expected = weightwell.signals(Checkpointed(reentrant=None), drawn(5, 4)).rows
    assert weightwell.signals(Checkpointed(reentrant=reentrant), drawn(5, 4)).rows == expected


def test_checkpointing_of_transformers(gpt2: nn.Module) -> None:
    model: Any = copy.deepcopy(gpt2).train()
    expected = weightwell.signals(model, {"input_ids": IDS, "use_cache": False}).rows
    model.activation_checkpointing_enable()
    assert weightwell.signals(model, {"input_ids": IDS, "use_cache": False}).rows == expected


@pytest.fixture
def alone() -> Iterator[None]:
    """The only rank of a job."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


def sharded(model: nn.Sequential) -> nn.Module:
    for part in (model[0], model):
        fully_shard(part)
    return model


@pytest.mark.parametrize("wrapped", [nn.parallel.DistributedDataParallel, sharded])
@pytest.mark.usefixtures("alone")
def test_wrappers_of_distributed_training_change_nothing(wrapped: Callable[[nn.Sequential], nn.Module]) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    model, x = wrapped(build()), drawn(5, 4)
    expected = weightwell.signals(build(), x)
    found = {row["name"].removeprefix("module."): row for row in weightwell.signals(model, x).rows}
    for row in expected.rows:
        assert found[row["name"]]["forward.rms"] == row["forward.rms"]
        assert found[row["name"]]["backward.rms"] == pytest.approx(row["backward.rms"])
    assert all(each.requires_grad and each.grad is None for each in model.parameters())
    model(x).sum().backward()
    assert all(each.grad is not None for each in model.parameters())


def test_autocast_of_the_caller_applies() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        table = weightwell.signals(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), drawn(2, 4))
    assert table["dtype"][0] == "bfloat16"
    assert all(value > 0 for value in table["backward.rms"])


def test_float16_has_statistics_beyond_its_own_range() -> None:
    table = weightwell.signals(linear([300.0, 300.0]).half(), torch.full((1, 2), 100.0, dtype=torch.float16))
    assert table["forward.rms"] == [60000]


def test_without_the_backward_pass_nothing_is_kept() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def after(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        seen.append(weakref.ref(output))
        alive.append(sum(each() is not None for each in seen))

    for layer in model:
        layer.register_forward_hook(after)
    table = weightwell.signals(model, drawn(2, 4), backward=False)
    assert max(alive) == 2  # the input and the output of a layer
    assert set(table["backward.rms"]) == {None}
    assert "backward" not in str(table)


def test_weights_get_no_gradients_and_keep_no_inputs() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    saved: list[tuple[int, ...]] = []

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        weightwell.signals(model, drawn(2, 4))
    assert (2, 4) not in saved


def test_a_compiled_model_is_measured_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    table = weightwell.signals(torch.compile(model, backend="eager"), drawn(2, 4))  # type: ignore[arg-type]
    assert table["forward.rms"] == weightwell.signals(model, drawn(2, 4))["forward.rms"] + table["forward.rms"][-1:]


def test_an_encoder_of_torch_runs_its_layers_in_evaluation_mode() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    table = weightwell.signals(nn.TransformerEncoder(layer, 2).eval(), drawn(2, 3, 8))
    assert {"layers.0.linear1", "layers.1.norm2"} <= set(table["name"])


# Refusals --------------------------------------------------------------------------------------------------------


def meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(2, 2)


def made_for_inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("model", "batch", "options", "error", "message"),
    [
        (len, drawn(1, 2), {}, TypeError, "model must be a torch.nn.Module, got builtin_function"),
        (nn.Linear(2, 2), [[1.0]], {}, TypeError, "."),
        (nn.Linear(2, 2), "text", {}, TypeError, "batch must be a tensor, a tuple .*, got str"),
        (meta(), drawn(1, 2), {}, ValueError, r"weight is on the meta device .*init_module_\(model, device='cpu'\)"),
        (nn.Linear(2, 2), drawn(1, 2).to("meta"), {}, ValueError, "the batch has a tensor on the meta device"),
        (nn.LazyLinear(2), drawn(1, 2), {}, ValueError, "weight has no shape yet: call the model once"),
        (made_for_inference(), drawn(1, 2), {}, ValueError, "weight was made in torch.inference_mode"),
        (nn.Linear(2, 2), drawn(1, 2), {"modules": "x*"}, ValueError, r"no module is selected by modules='x\*'; .*''"),
        (nn.Linear(2, 2), drawn(1, 2), {"modules": [3]}, TypeError, "modules must be a glob of names, a type, or"),
    ],
)
def test_refusals_say_what_to_do(model: Any, batch: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        weightwell.signals(model, batch, **options)


def test_gradients_stop_where_a_model_stops_them() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = linear([2.0]), linear([3.0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                hidden = self.first(x)
            result: torch.Tensor = self.second(hidden)
            return result

    assert weightwell.signals(Detached(), torch.ones(1, 1))["backward.rms"] == [None, 1, 1]
