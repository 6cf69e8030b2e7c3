"""Real models, drawn by the service and filled by the client: they load, and they train."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn

import weightwell
from weightwell import Manifest


@pytest.fixture
def client(door: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(door) as client:
        yield client


@pytest.fixture
def remote(server: str) -> Iterator[weightwell.Client]:
    """A client of a server, whose files have addresses."""
    with weightwell.Client(server) as client:
        yield client


# Models --------------------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """A block of a ResNet-50 (He et al. 2015, figure 5): 1x1, 3x3 and 1x1 convolutions, and a shortcut."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        convolutions = [(inputs, width, 1), (width, width, 3), (width, 4 * width, 1)]
        self.body = nn.Sequential(*(self.convolution(*sizes) for sizes in convolutions))
        self.shortcut = self.convolution(inputs, 4 * width, 1)

    @staticmethod
    def convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
        """A convolution and its normalization."""
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def resnet() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 7, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, Bottleneck(8, 4), Bottleneck(16, 8), nn.Flatten(), nn.Linear(32, 10))


def gpt2() -> nn.Module:
    sizes: Any = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 48, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **TOKENS))


def llama() -> nn.Module:
    sizes: Any = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 48}
    config = transformers.LlamaConfig(num_hidden_layers=2, tie_word_embeddings=True, **sizes, **TOKENS)
    return transformers.LlamaForCausalLM(config)


TOKENS: Any = {"bos_token_id": 0, "eos_token_id": 0}
MODELS = pytest.mark.parametrize(
    ("build", "rules"),
    [(resnet, "torch"), (gpt2, {"name": "gpt2", "layers": 2}), (llama, "llama")],
    ids=["ResNet-50", "GPT-2", "Llama"],
)


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether two state dicts have the same names, dtypes and numbers, in the same order."""
    same = [a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True)]
    return [*found] == [*expected] and all(same)


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


# Filling -------------------------------------------------------------------------------------------------------------


@MODELS
def test_a_state_dict_loads_strictly(client: weightwell.Client, build: Callable[[], nn.Module], rules: Any) -> None:
    model = build()
    state = client.init_state_dict(Manifest.from_module(on_meta(build), rules, seed=1))
    model.load_state_dict(state, strict=True)
    assert equal(model.state_dict(), state)


@MODELS
def test_a_model_is_filled_with_its_state_dict_wherever_it_is(
    client: weightwell.Client, build: Callable[[], nn.Module], rules: Any
) -> None:
    here = client.init_module_(build(), rules, seed=1)
    meta = on_meta(build)
    there = client.init_module_(meta, rules, seed=1, device="cpu", reset_buffers=getattr(meta, "_init_weights", None))
    state = client.init_state_dict(Manifest.from_module(here, rules, seed=1))
    assert equal(here.state_dict(), state)
    assert equal(there.state_dict(), state)
    for name, buffer in build().named_buffers():
        if name not in state:
            assert torch.equal(there.get_buffer(name), buffer)


@pytest.mark.parametrize(("build", "rules"), [(gpt2, {"name": "gpt2", "layers": 2}), (llama, "llama")])
def test_tied_embeddings_stay_tied(client: weightwell.Client, build: Callable[[], nn.Module], rules: Any) -> None:
    meta: Any = on_meta(build)
    client.init_module_(meta, rules, device="cpu", reset_buffers=meta._init_weights)
    assert meta.get_input_embeddings().weight is meta.get_output_embeddings().weight


@MODELS
def test_a_file_of_a_model_loads_into_it(
    client: weightwell.Client, tmp_path: Path, build: Callable[[], nn.Module], rules: Any
) -> None:
    model = build()
    client.save(tmp_path / "model.safetensors", Manifest.from_module(model, rules, seed=1))
    safetensors.torch.load_model(model, tmp_path / "model.safetensors", strict=True)
    assert equal(model.state_dict(), client.init_module_(build(), rules, seed=1).state_dict())


def test_both_clients_do_the_same(door: str, client: weightwell.Client, tmp_path: Path) -> None:
    manifest = Manifest.from_module(resnet(), seed=1)

    async def asynchronous() -> tuple[nn.Module, dict[str, Tensor], weightwell.Plan]:
        async with weightwell.AsyncClient(door) as other:
            await other.save(tmp_path / "async", manifest)
            state = await other.init_state_dict(manifest)
            return await other.init_module_(resnet(), seed=1), state, await other.plan(manifest)

    model, state, plan = asyncio.run(asynchronous())
    client.save(tmp_path / "sync", manifest)
    assert equal(model.state_dict(), client.init_module_(resnet(), seed=1).state_dict())
    assert equal(state, client.init_state_dict(manifest))
    assert plan == client.plan(manifest)
    assert (tmp_path / "async").read_bytes() == (tmp_path / "sync").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("file",), "missing 1 required positional argument: 'what'"),
        (("file", (3,)), r"expected a shape and a scheme, .*; got \(3,\) and no scheme"),
        (("file", Manifest({}), "ones"), "a scheme needs a shape, got 'ones' and a Manifest"),
        ((Manifest({}), "file"), r"the path comes first: write save\('model.safetensors', manifest\)"),
        (({"tensors": {}}, "file"), r"expected a path or a binary file first, .* got \{'tensors'"),
        (((3, 4), "file", "ones"), r"expected a path or a binary file first, .* got \(3, 4\)"),
    ],
)
def test_what_is_saved_comes_after_the_path(
    client: weightwell.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=message):
        client.save(*arguments)
    assert list(tmp_path.iterdir()) == []


SINGLE = {"shape": [6, 4], "scheme": "kaiming_normal", "seed": "7", "slice": "0:2,:", "name": "w", "a": 0.2}


def test_a_file_is_described_by_a_shape_a_manifest_a_module_or_the_json_of_either(
    client: weightwell.Client, tmp_path: Path
) -> None:
    module = nn.Linear(4, 3)
    manifest = Manifest.from_module(module, preset="torch", seed=7)
    paths = (tmp_path / name for name in "abcdefg")
    same: list[list[Any]] = [
        [((6, 4), "kaiming_normal"), {"seed": 7, "slice": "0:2,:", "name": "w", "a": 0.2}, (SINGLE,), {}],
        [(manifest,), {}, (module,), {"preset": "torch", "seed": 7}],
        [(manifest,), {}, (manifest.document(),), {}],
    ]
    for one, one_fields, other, other_fields in same:
        here, there = next(paths), next(paths)
        client.save(here, *one, **one_fields)
        client.save(there, *other, **other_fields)
        assert here.read_bytes() == there.read_bytes()
        assert client.plan(*one, **one_fields) == client.plan(*other, **other_fields)
        assert client.plan(*other, **other_fields).nbytes == here.stat().st_size


def test_the_plan_of_a_tensor_is_that_of_its_file(remote: weightwell.Client, http: Any) -> None:
    plan = remote.plan((6, 4), "kaiming_normal", seed=7, name="w")
    assert plan.url is not None
    answer = http.get(plan.url)
    assert (len(answer.content), answer.headers["etag"]) == (plan.nbytes, plan.etag)
    assert plan.tensors["w"]["fan_in"] == 4
    assert plan.unused == ()


def test_a_state_dict_is_described_by_a_manifest_a_module_or_its_json(client: weightwell.Client) -> None:
    module = nn.Linear(4, 3)
    expected = client.init_module_(nn.Linear(4, 3), seed=7).state_dict()
    manifest = Manifest.from_module(module, seed=7)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for state in (
        client.init_state_dict(manifest),
        client.init_state_dict(manifest.document()),
        client.init_state_dict(module, seed=7),
    ):
        assert equal(state, expected)
    assert equal(before, module.state_dict())
    drawn = client.init((6, 4), "kaiming_normal", seed=7, slice="0:2,:", name="w", a=0.2)
    assert equal(client.init_state_dict(SINGLE), {"w": drawn})


@pytest.mark.parametrize("said", [{"seed": 1}, {"preset": "torch"}, {"generator": "torch"}])
def test_what_a_manifest_says_is_said_there(client: weightwell.Client, said: Any) -> None:
    with pytest.raises(ValueError, match="is part of the manifest"):
        client.init_module_(resnet(), Manifest.from_module(resnet()), **said)


def test_without_rules_a_module_has_the_bits_of_torch(client: weightwell.Client) -> None:
    def build() -> nn.Module:
        layers = [nn.Embedding(9, 8, padding_idx=0), nn.LSTM(8, 8, 2), nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8)]
        return nn.Sequential(*layers, nn.PReLU(), nn.Bilinear(8, 8, 4), nn.Linear(4, 3))

    torch.manual_seed(7)
    expected = build()
    assert equal(client.init_module_(build(), seed=7, generator="torch").state_dict(), expected.state_dict())


def test_types_of_modules_have_their_schemes(client: weightwell.Client) -> None:
    convolution, linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
    schemes = {nn.Linear: {"weight": "eye", "bias": "ones"}, nn.Conv2d: {"scheme": "kaiming_normal", "mode": "fan_out"}}
    client.init_module_(nn.Sequential(convolution, nn.BatchNorm2d(8), linear), schemes)
    assert torch.equal(linear.weight, torch.eye(4, 8))
    assert torch.equal(linear.bias, torch.ones(4))
    expected = client.init((8, 3, 3, 3), "kaiming_normal", mode="fan_out", name="0.weight")
    assert torch.equal(convolution.weight, expected)


def test_the_shards_of_a_manifest_are_parts_of_the_whole(client: weightwell.Client) -> None:
    manifest = Manifest.from_module(llama(), "llama")
    whole = client.init_state_dict(manifest)
    parts = [client.init_state_dict(manifest.shard(rank, 3)) for rank in range(3)]
    assert equal({name: torch.cat([part[name] for part in parts]) for name in whole}, whole)


def test_a_tensor_that_no_rule_meets_is_named_and_nothing_is_written(client: weightwell.Client) -> None:
    model = resnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(weightwell.InvalidRequest, match=r"tensors.0.weight: .* add a rule, such as"):
        client.init_module_(model, [{"match": "1.*", "scheme": "zeros"}])
    assert equal(model.state_dict(), before)


def test_a_module_without_tensors_is_filled_with_nothing(client: weightwell.Client) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten())
    assert client.init_module_(model) is model


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_tied_names_have_one_tensor(client: weightwell.Client, framework: Any) -> None:
    manifest = Manifest({"a": {"shape": 3, "scheme": "ones", "dtype": "bfloat16"}, "b": {"alias": "a"}})
    state = client.init_state_dict(manifest, framework=framework)
    assert [*state] == ["a", "b"]
    assert state["a"] is state["b"]


# Plans ---------------------------------------------------------------------------------------------------------------


def test_a_plan_describes_the_tensors(client: weightwell.Client) -> None:
    tensors: dict[str, Any] = {"fc.weight": {"shape": (10, 512), "module": "Linear"}, "tied": {"alias": "fc.weight"}}
    unused = {"match": "nothing", "scheme": "ones"}
    plan = client.plan(Manifest(tensors, rules=[unused], preset="torch"))
    assert plan.unused == (unused,)
    assert plan.tensors["fc.weight"]["fan_in"] == 512
    assert plan.tensors["tied"] == {"alias": "fc.weight"}
    assert "fc.weight  [10, 512]  float32  uniform in [-0.0442, 0.0442]" in str(plan)
    assert plan.refusal is None
    assert (plan.url is None) == (plan.url_note is not None)


def test_the_url_of_a_plan_is_the_file(remote: weightwell.Client, tmp_path: Path, http: Any) -> None:
    manifest = Manifest.from_module(llama(), "llama", dtype="bfloat16")
    plan = remote.plan(manifest)
    remote.save(tmp_path / "model.safetensors", manifest)
    assert plan.url is not None
    answer = http.get(plan.url)
    assert answer.content == (tmp_path / "model.safetensors").read_bytes()
    assert (len(answer.content), answer.headers["etag"]) == (plan.nbytes, plan.etag)


# Training ------------------------------------------------------------------------------------------------------------

SEEDS, STEPS = 100, 120


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More threads than one only get in each other's way in models this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spirals() -> tuple[Tensor, Tensor]:
    """Three arms of a spiral, which no line separates: points ``(150, 2)`` and the arm of each."""
    arms = torch.arange(3).repeat_interleave(50)
    radius = torch.linspace(0.1, 1, 50).repeat(3)
    angle = 4 * radius + arms * 2 * torch.pi / 3
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), arms


def classifier() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))


def by_torch(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return classifier()


def curves(make: Callable[[int], nn.Module]) -> Tensor:
    """The losses ``(STEPS, SEEDS)`` of models that are trained side by side."""
    parameters, _ = torch.func.stack_module_state([make(seed) for seed in range(SEEDS)])
    skeleton, (points, arms) = on_meta(classifier), spirals()
    optimizer = torch.optim.Adam(parameters.values(), lr=0.01)

    def loss(state: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(skeleton, state, points), arms)

    curve = []
    for _ in range(STEPS):
        each = torch.vmap(loss)(parameters)
        optimizer.zero_grad()
        each.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append(each.detach())
    return torch.stack(curve)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The most standard errors that there are between the means of two sets of curves, at any of four steps."""
    steps = slice(STEPS // 4 - 1, None, STEPS // 4)
    a, b = ours[steps].log(), theirs[steps].log()
    return float(((a.mean(1) - b.mean(1)).abs() / ((a.var(1) + b.var(1)) / SEEDS).sqrt()).max())


@pytest.mark.usefixtures("one_thread")
def test_a_model_trains_as_one_that_torch_initialized() -> None:
    # Both doors return the same bits (test_doors.py), so one of them is enough.
    theirs = curves(by_torch)
    assert theirs[-1].mean() < 0.1 * theirs[0].mean()  # there is something to learn, and it is learnt
    with weightwell.local(threads=1) as client:
        ours = curves(lambda seed: client.init_module_(classifier(), seed=seed))
        other = curves(lambda seed: client.init_module_(classifier(), {nn.Linear: "xavier_normal"}, seed=seed))
    assert distance(ours, theirs) < 3
    assert distance(other, theirs) > 6  # different curves are distinguished
