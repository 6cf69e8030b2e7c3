"""Names: a model has the same names, and so the same numbers, inside any wrapper."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper, offload_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.testing._internal.distributed.fake_pg import FakeStore

import weightwell
from weightwell import Manifest, canonical_name, register_wrapper
from weightwell.models import names
from weightwell.models.filling import filling_of
from weightwell.models.modules import slots_of
from weightwell.spec import ManifestSpec

CPU = torch.device("cpu")

# Said by torch of itself, where torch.compile is used first.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


class Block(nn.Module):
    """A module with a submodule and a buffer that have names of wrappers."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(4, 4)
        self.model = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Use everything."""
        result: torch.Tensor = self.norm(self.model(self.module(inputs)))
        return result


class Holder(nn.Module):
    """A user's wrapper."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner


class LoudHolder(Holder):
    """A wrapper that has a tensor as well."""

    def __init__(self, inner: nn.Module):
        super().__init__(inner)
        self.weight = nn.Parameter(torch.zeros(1))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), Block(), nn.Linear(4, 2))


def with_checkpoints(model: nn.Sequential) -> nn.Module:
    """Activation checkpointing of a block, and of a layer in it."""
    block: Any = model[1]
    block.module = checkpoint_wrapper(block.module)
    model[1] = offload_wrapper(checkpoint_wrapper(block))
    return model


def with_compiled_block(model: nn.Sequential) -> nn.Module:
    model[1] = torch.compile(model[1])  # type: ignore[assignment]
    return model


def nested(model: nn.Sequential) -> Any:
    return torch.compile(DistributedDataParallel(with_checkpoints(model)))


def no_shard(model: nn.Sequential) -> nn.Module:
    model[1] = FullyShardedDataParallel(model[1], use_orig_params=True, device_id=CPU)
    return FullyShardedDataParallel(model, use_orig_params=True, device_id=CPU)


WRAPPERS: dict[str, Callable[[nn.Sequential], Any]] = {
    "checkpoint_wrapper": with_checkpoints,
    "torch.compile": torch.compile,
    "torch.compile of a block": with_compiled_block,
    "DDP": DistributedDataParallel,
    "DataParallel": DataParallel,
    "AveragedModel": AveragedModel,
    "FSDP1": no_shard,
    "FSDP2": fully_shard,
    "compile of DDP of checkpoints": nested,
}


@pytest.fixture
def alone() -> Iterator[None]:
    """The only rank of a job."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


@pytest.fixture
def last_of_two() -> Iterator[None]:
    """The second of two ranks; the first is imagined."""
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.fixture
def client(door: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(door) as client:
        yield client


@pytest.fixture
def wrappers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(names, "_WRAPPERS", dict(names._WRAPPERS))


def held(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a model by their canonical names; those of a wrapper's own are not."""
    found = {}
    for slot in slots_of(model):
        tensor: Any = slot.tensor.detach()
        found[slot.name] = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return {name: tensor for name, tensor in found.items() if name != "n_averaged"}


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return [*found] == [*expected] and all(map(torch.equal, found.values(), expected.values()))


# The same bits -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`", "ignore:When using ``NO_SHARD``")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_model_has_the_numbers_of_the_model(
    client: weightwell.Client, wrap: Callable[[nn.Sequential], Any]
) -> None:
    expected = client.init_module_(network(), seed=1).state_dict()
    model = wrap(network())
    assert client.init_module_(model, seed=1) is model
    assert equal(held(model), expected)
    assert Manifest.from_module(model).tensors == Manifest.from_module(network()).tensors


@pytest.mark.parametrize("wrap", [with_checkpoints, torch.compile, with_compiled_block, DataParallel, AveragedModel])
def test_a_wrapped_model_on_the_meta_device_has_the_numbers_of_the_model(
    client: weightwell.Client, wrap: Callable[[nn.Module], Any]
) -> None:
    expected = client.init_module_(network(), seed=1).state_dict()
    with torch.device("meta"):
        model = wrap(network())
    resets = (lambda module: module.n_averaged.zero_()) if wrap is AveragedModel else None
    client.init_module_(model, seed=1, device="cpu", reset_buffers=resets)
    assert equal(held(model), expected)


@pytest.mark.usefixtures("last_of_two")
def test_checkpointed_blocks_are_sharded_by_fsdp_as_others(client: weightwell.Client) -> None:
    with torch.device("meta"):
        model, plain = with_checkpoints(network()), network()
    for each in (model, plain):
        sharded: Any = fully_shard(each)
        client.init_module_(sharded, seed=1, device="cpu")
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.to_local(), theirs.to_local())  # type: ignore[attr-defined]


@pytest.mark.usefixtures("wrappers")
def test_a_wrapper_of_ones_own_is_registered_by_its_type_or_its_name(client: weightwell.Client) -> None:
    expected = client.init_module_(network(), seed=1).state_dict()
    for wrapper in (Holder, f"{Holder.__module__}.Holder"):
        names._WRAPPERS.pop(f"{Holder.__module__}.Holder", None)
        assert [*held(Holder(nn.Linear(2, 2)))] == ["inner.weight", "inner.bias"]
        register_wrapper(wrapper, "inner")
        assert equal(held(client.init_module_(Holder(network()), seed=1)), expected)


def test_what_is_wrapped_has_the_name_of_a_submodule() -> None:
    with pytest.raises(ValueError, match=r"attribute must be the name of a submodule, .* got 'module\.'"):
        register_wrapper(Holder, "module.")


# Wrappers by type, not by name ---------------------------------------------------------------------------------------


def test_a_submodule_that_is_named_like_a_wrappers_keeps_its_name() -> None:
    assert [*Manifest.from_module(Block()).tensors][:4] == [
        "module.weight",
        "module.bias",
        "model.weight",
        "model.bias",
    ]


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("0.weight", "0.weight"),
        ("_orig_mod.0._checkpoint_wrapped_module.weight", "0.weight"),
        ("_fsdp_wrapped_module.1._fsdp_wrapped_module.module.weight", "1.module.weight"),
        ("module.0.weight", "module.0.weight"),
    ],
)
def test_without_a_module_only_parts_with_an_underscore_are_removed(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


def test_with_its_module_a_name_loses_the_names_of_wrappers() -> None:
    compiled: Any = torch.compile(with_checkpoints(network()))
    model = DataParallel(compiled)
    expected = [name for name, _ in network().named_parameters()]
    assert [canonical_name(name, model) for name, _ in model.named_parameters()] == expected
    assert [canonical_name(slot.torch_name, model) for slot in slots_of(model)] == [*network().state_dict()]


def test_the_names_of_a_type_are_those_before_torch_made_another_type_of_it() -> None:
    class Mine(Block):
        """A user's block; FSDP creates a new type for it."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        model: Any = fully_shard(Mine())
        rules = [{"match": "scale", "scheme": "ones"}]
        tensors = Manifest.from_module(model, rules, preset="torch").tensors
    finally:
        dist.destroy_process_group()
    assert tensors["scale"]["module"] == "Mine"


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("wrappers")
def test_two_tensors_of_one_canonical_name_are_refused() -> None:
    register_wrapper(LoudHolder, "inner")
    with pytest.raises(ValueError, match=r"^weight and inner\.weight are both named weight without the names of wrap"):
        Manifest.from_module(LoudHolder(nn.Linear(2, 2)))


def test_a_manifest_with_the_names_of_a_wrapper_says_the_canonical_ones() -> None:
    model = DataParallel(nn.Sequential(nn.Linear(3, 2)))
    manifest = Manifest({"module.0.weight": {"shape": [2, 3], "scheme": "ones"}})
    with pytest.raises(ValueError, match=r"'module\.0\.weight' contains the name of a wrapper; .* is '0\.weight'"):
        filling_of(model, ManifestSpec.of(manifest.document()))


@pytest.mark.usefixtures("last_of_two")
@pytest.mark.parametrize("use_orig_params", [True, False])
def test_flat_shards_of_fsdp1_are_refused_with_the_cure(use_orig_params: bool) -> None:
    model = network()
    model[1] = FullyShardedDataParallel(model[1], use_orig_params=use_orig_params, device_id=CPU)
    with pytest.raises(ValueError, match=r"the parameters of 1 are shards of one flat .*\.summon_full_params\(model\)"):
        Manifest.from_module(model)


@pytest.mark.usefixtures("last_of_two")
@pytest.mark.parametrize("use_orig_params", [True, False])
def test_a_model_is_filled_where_fsdp1_has_summoned_its_parameters(
    client: weightwell.Client, use_orig_params: bool
) -> None:
    expected = client.init_module_(network(), seed=1).state_dict()
    model = FullyShardedDataParallel(network(), use_orig_params=use_orig_params, device_id=CPU)
    with FullyShardedDataParallel.summon_full_params(model):
        client.init_module_(model, seed=1)
        assert equal(held(model), expected)


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`", "ignore:When using ``NO_SHARD``")
def test_what_is_filled_where_fsdp1_has_summoned_it_stays(client: weightwell.Client) -> None:
    expected = client.init_module_(network(), seed=1).state_dict()
    model = FullyShardedDataParallel(network(), use_orig_params=False, device_id=CPU)
    with FullyShardedDataParallel.summon_full_params(model):
        client.init_module_(model, seed=1)
    with FullyShardedDataParallel.summon_full_params(model):
        assert equal(held(model), expected)


# Prefixes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["encoder", "encoder."])
def test_a_prefix_is_the_beginning_of_all_names(prefix: str) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    tensors = Manifest.from_module(DataParallel(model), prefix=prefix).tensors
    assert [*tensors] == ["encoder.0.weight", "encoder.1.weight"]
    assert tensors["encoder.1.weight"] == {"alias": "encoder.0.weight"}


def test_a_module_with_a_prefix_has_the_numbers_of_a_submodule(client: weightwell.Client) -> None:
    whole = client.init_module_(nn.ModuleDict({"encoder": network()}), seed=1)
    part = client.init_module_(network(), seed=1, prefix="encoder")
    assert equal(held(part), whole["encoder"].state_dict())


def test_a_manifest_with_a_prefix_fills_its_module(client: weightwell.Client) -> None:
    manifest = Manifest.from_module(network(), seed=1, prefix="encoder")
    part = client.init_module_(network(), manifest, prefix="encoder")
    assert equal(held(part), client.init_module_(network(), seed=1, prefix="encoder").state_dict())


def test_rules_see_whole_names(client: weightwell.Client) -> None:
    rules = [{"match": "encoder.weight", "scheme": "ones"}, {"match": "encoder.bias", "scheme": "zeros"}]
    layer = client.init_module_(nn.Linear(2, 2), rules, prefix="encoder")
    assert torch.equal(layer.weight, torch.ones(2, 2))


def test_a_prefix_is_a_string() -> None:
    with pytest.raises(TypeError, match="prefix must be the beginning of names, such as 'encoder', got 3"):
        Manifest.from_module(nn.Linear(2, 2), prefix=3)  # type: ignore[arg-type]


# Adapters ------------------------------------------------------------------------------------------------------------


class BaseTunerLayer(nn.Module):
    """A layer with an adapter, as peft builds it."""

    def __init__(self, base_layer: nn.Linear):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base_layer.out_features, bias=False)})


class BaseTuner(nn.Module):
    """What puts adapters into a model."""

    def __init__(self, model: nn.Sequential):
        super().__init__()
        model[0] = BaseTunerLayer(model[0])  # type: ignore[arg-type]
        self.model = model


class PeftModel(nn.Module):
    """The outermost wrapper."""

    def __init__(self, model: nn.Sequential):
        super().__init__()
        self.base_model = BaseTuner(model)


for _type, _place in {PeftModel: "peft_model", BaseTuner: "tuners.tuners_utils"}.items():
    _type.__module__ = f"peft.{_place}"
BaseTunerLayer.__module__ = BaseTuner.__module__


def test_a_model_with_adapters_has_the_numbers_of_the_model(client: weightwell.Client) -> None:
    expected = client.init_module_(network(), seed=1).state_dict()
    found = held(client.init_module_(PeftModel(network()), seed=1))
    adapters = {name for name in found if "lora" in name}
    assert adapters == {"0.lora_A.default.weight", "0.lora_B.default.weight"}
    assert equal({name: tensor for name, tensor in found.items() if name not in adapters}, expected)


def test_adapters_are_filled_alone_by_a_manifest_that_names_them(client: weightwell.Client) -> None:
    model = PeftModel(network())
    before = {name: tensor.clone() for name, tensor in held(model).items()}
    manifest = Manifest.from_module(model, "lora", seed=1)
    manifest.tensors = {name: each for name, each in manifest.tensors.items() if ".lora_" in name}
    client.init_module_(model, manifest)
    found = held(model)
    assert [name for name in found if not torch.equal(found[name], before[name])] == [*manifest.tensors]
    expected = client.init((2, 6), "kaiming_uniform", a=5**0.5, seed=1, name="0.lora_A.default.weight")
    assert torch.equal(found["0.lora_A.default.weight"], expected)
    assert not found["0.lora_B.default.weight"].any()
