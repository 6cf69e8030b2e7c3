"""torch.distributed.checkpoint loads a manifest as if it were a checkpoint of files."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

import weightwell
from tests.client.torch.ranks import MANIFEST, RANKS, WAYS
from weightwell import Manifest
from weightwell.models.shards import part_of
from weightwell.torch.dcp import WeightwellReader

ROOT = Path(__file__).parents[3]

# dcp.load says that it loads in a single process, each time.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture
def client(door: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(door) as client:
        yield client


def empty(manifest: Manifest, client: weightwell.Client) -> dict[str, torch.Tensor]:
    """A state dict for a manifest, without its numbers."""
    return {name: torch.full_like(each, 7) for name, each in client.init_state_dict(manifest).items()}


def check(state: dict[str, torch.Tensor], manifest: Manifest, client: weightwell.Client) -> None:
    """Check that a state dict is what the client returns."""
    expected = client.init_state_dict(manifest)
    assert [*state] == [*expected]
    assert all(torch.equal(each, expected[name]) for name, each in state.items())


# On ranks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(server: str) -> list[dict[str, dict[str, Any]]]:
    """What every rank found."""
    program = [sys.executable, "-m", "tests.client.torch.ranks", server]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["http", "local"])
@pytest.mark.parametrize("way", [way.__name__ for way in WAYS])
def test_the_shards_of_all_ranks_are_the_whole_and_no_rank_reads_more(
    ranks: list[dict[str, dict[str, Any]]], way: str, kind: str
) -> None:
    found = [each[f"{way} {kind}"] for each in ranks]
    assert [each["wrong"] for each in found] == [[]] * RANKS
    assert [each["received"] for each in found] == [each["held"] for each in found]


@contextmanager
def rank(number: int, size: int) -> Iterator[None]:
    """Be a rank of several, of which there are no others."""
    dist.init_process_group("fake", rank=number, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("number", range(6))
def test_uneven_parts_of_parts_are_those_of_the_tensors(number: int) -> None:
    """torch plans to load row 6 of 7 on rank 4 of 3 x 2, which holds no row, and not on rank 5, which holds it."""
    manifest = Manifest({"weight": {"shape": [7, 3], "scheme": "normal"}}, seed=1)
    with rank(number, 6), weightwell.local(threads=1) as client:
        mesh = init_device_mesh("cpu", (3, 2), mesh_dim_names=("dp", "tp"))
        placed = (_StridedShard(0, split_factor=2), Shard(0))
        bounds = part_of((7, 3), placed, (3, 2), divmod(number, 2)) or ()
        local = torch.zeros([stop - start for start, stop in bounds])
        held = DTensor.from_local(local, mesh, placed, run_check=False, shape=torch.Size([7, 3]), stride=(3, 1))
        load({"weight": held}, storage_reader=WeightwellReader(manifest, client), no_dist=True)
        whole = client.init_state_dict(manifest)["weight"]
        assert torch.equal(local, whole[tuple(slice(*each) for each in bounds)])


# In one process ------------------------------------------------------------------------------------------------------


def test_a_state_dict_has_the_numbers_of_the_manifest(client: weightwell.Client) -> None:
    manifest = Manifest(MANIFEST, seed=5)
    state = empty(manifest, client)
    load(state, storage_reader=WeightwellReader(manifest, client))
    check(state, manifest, client)


def test_a_model_s_state_dict_is_loaded_in_place_as_torchtitan_does(client: weightwell.Client) -> None:
    class Wrapper:
        """What torchtitan and the tutorials of torch hand to ``dcp.load``."""

        def __init__(self, model: nn.Module):
            self.model = model

        def state_dict(self) -> dict[str, Any]:
            return self.model.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.model.load_state_dict(state)

    def build() -> nn.Module:
        return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.BatchNorm1d(3))

    manifest = Manifest.of(build, seed=3)
    model = build()
    pointers = [each.data_ptr() for each in model.parameters()]
    load({"model": Wrapper(model)}, storage_reader=WeightwellReader(manifest, client, prefix="model."))
    check(model.state_dict(), manifest, client)
    assert [each.data_ptr() for each in model.parameters()] == pointers
    flat = build().state_dict()
    load(flat, storage_reader=WeightwellReader(manifest, client), no_dist=True)
    check(flat, manifest, client)


def test_names_are_mapped(client: weightwell.Client) -> None:
    manifest = Manifest({"a.weight": {"shape": [2, 3], "scheme": "normal"}, "b": {"alias": "a.weight"}})
    state = {"net.A.WEIGHT": torch.zeros(2, 3), "net.B": torch.zeros(2, 3)}
    load(state, storage_reader=WeightwellReader(manifest, client, prefix="net.", rename=str.upper))
    expected = client.init_state_dict(manifest)["a.weight"]
    assert torch.equal(state["net.A.WEIGHT"], expected)
    assert torch.equal(state["net.B"], expected)  # its memory is not shared with the other


def test_one_request_has_all_tensors(client: weightwell.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {f"layers.{index}.weight": {"shape": [2, 2], "scheme": "normal"} for index in range(1000)}
    manifest = Manifest(shapes)
    state = empty(manifest, client)
    asked: list[str] = []
    answer = client._door.answer

    def noted(call: Any, *others: Any) -> str:
        asked.append(call.label)
        return answer(call, *others)

    monkeypatch.setattr(client._door, "answer", noted)
    load(state, storage_reader=WeightwellReader(manifest, client))
    assert asked == ["1000 tensors"]
    check(state, manifest, client)


@pytest.mark.parametrize("generator", ["philox", "torch"])
def test_a_part_of_the_tensors_has_the_same_numbers(generator: str) -> None:
    """The numbers of generator=torch depend on all tensors before."""
    own: dict[str, Any] = {"scheme": "normal"}
    tensors = {"a": {"shape": [2, 3], **own}, "b": {"shape": [], "scheme": "ones"}, "c": {"shape": [4, 2], **own}}
    manifest = Manifest(tensors, generator=generator, seed=8)
    with weightwell.local(threads=1) as client:
        expected = client.init_state_dict(manifest)
        state = {"c": torch.zeros(4, 2)}
        load(state, storage_reader=WeightwellReader(manifest, client))
    assert torch.equal(state["c"], expected["c"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_values_are_converted_and_strides_kept(client: weightwell.Client, dtype: torch.dtype) -> None:
    manifest = Manifest({"w": {"shape": [4, 6], "scheme": "normal"}})
    state = {"w": torch.zeros(6, 4, dtype=dtype).t()}
    held, version = state["w"], state["w"]._version
    load(state, storage_reader=WeightwellReader(manifest, client))
    assert torch.equal(held, client.init_state_dict(manifest)["w"].to(dtype))
    assert held.stride() == (1, 4)
    assert held._version > version


def test_the_metadata_have_the_dtypes_that_rules_decide(client: weightwell.Client) -> None:
    rules = [{"match": "*.bias", "scheme": "zeros", "dtype": "float16"}]
    tensors = {"0.weight": {"shape": [4, 3], "module": "Linear"}, "0.bias": {"shape": [4], "module": "Linear"}}
    manifest = Manifest(tensors, rules=rules, preset="torch", dtype="bfloat16")
    found: Any = WeightwellReader(manifest, client).read_metadata().state_dict_metadata
    assert {name: each.properties.dtype for name, each in found.items()} == {
        "0.weight": torch.bfloat16,
        "0.bias": torch.float16,
    }
    assert [tuple(each.size) for each in found.values()] == [(4, 3), (4,)]


def test_several_slices_of_one_tensor_are_read(client: weightwell.Client) -> None:
    manifest = Manifest({"w": {"shape": [6, 2], "scheme": "normal"}})
    state = {"w": torch.zeros(6, 2)}
    reader, planner = WeightwellReader(manifest, client), DefaultLoadPlanner()
    planner.set_up_planner(state, reader.read_metadata())
    reader.read_data(LoadPlan([item("w", 0, 2), item("w", 4, 6)]), planner).wait()
    expected = client.init_state_dict(manifest)["w"].clone()
    expected[2:4] = 0
    assert torch.equal(state["w"], expected)


def item(name: str, start: int, stop: int, kind: LoadItemType = LoadItemType.TENSOR) -> ReadItem:
    """Some rows of a matrix with two columns."""
    offsets = torch.Size([start, 0])
    index = MetadataIndex(name, [0, 0])
    return ReadItem(kind, index, offsets, index, offsets, torch.Size([stop - start, 2]))


# Errors --------------------------------------------------------------------------------------------------------------


def test_what_is_no_tensor_is_refused() -> None:
    reader = WeightwellReader(Manifest({"w": {"shape": [6, 2], "scheme": "normal"}}))
    planner = DefaultLoadPlanner()
    planner.set_up_planner({"w": torch.zeros(6, 2)}, reader.read_metadata())
    with pytest.raises(ValueError, match="step is not a tensor, and a manifest has only tensors: load it from"):
        reader.read_data(LoadPlan([item("step", 0, 2, LoadItemType.BYTE_IO)]), planner)
    with pytest.raises(ValueError, match="the manifest has no tensor named 'v': prefix= and rename= map names"):
        reader.read_data(LoadPlan([item("v", 0, 2)]), planner)


def test_a_manifest_of_slices_is_refused() -> None:
    manifest = Manifest({"w": {"shape": [6, 2], "scheme": "normal"}}).shard(0, 2)
    with pytest.raises(ValueError, match="the manifest has the slice 0:3,0:2 of w: give the manifest of the whole"):
        WeightwellReader(manifest)


def test_two_tensors_with_one_name_are_refused() -> None:
    manifest = Manifest({name: {"shape": [2], "scheme": "ones"} for name in "ab"})
    with pytest.raises(ValueError, match="a different name for each tensor, got 'same' for b too"):
        WeightwellReader(manifest, rename=lambda _: "same")


def test_a_checkpoint_id_is_refused() -> None:
    reader = WeightwellReader(Manifest({"w": {"shape": [2], "scheme": "ones"}}))
    assert not reader.validate_checkpoint_id("/checkpoint")
    with pytest.raises(ValueError, match="loads its manifest, got checkpoint_id='/checkpoint': leave it out"):
        load({"w": torch.zeros(2)}, checkpoint_id="/checkpoint", storage_reader=reader)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(1).expand(2), "w is an expanded tensor"),
        (lambda: torch.zeros(3), "Size mismatch between saved"),
    ],
)
def test_a_tensor_that_cannot_be_filled_is_named(make: Callable[[], torch.Tensor], message: str) -> None:
    reader = WeightwellReader(Manifest({"w": {"shape": [2], "scheme": "ones"}}))
    with pytest.raises(CheckpointException, match=message):
        load({"w": make()}, storage_reader=reader)


def test_a_target_of_another_shape_is_refused() -> None:
    """torch does not narrow a tensor that is smaller than the slice."""
    reader = WeightwellReader(Manifest({"w": {"shape": [6, 2], "scheme": "normal"}}))
    planner = DefaultLoadPlanner()
    planner.set_up_planner({"w": torch.zeros(1, 2)}, reader.read_metadata())
    with pytest.raises(ValueError, match=r"w has shape \[1, 2\], and the slice of the manifest \[2, 2\]"):
        reader.read_data(LoadPlan([item("w", 0, 2)]), planner)


def test_a_tensor_without_memory_is_refused() -> None:
    reader = WeightwellReader(Manifest({"w": {"shape": [2], "scheme": "ones"}}))
    planner = DefaultLoadPlanner()
    planner.set_up_planner({}, reader.read_metadata())
    planner.state_dict = {"w": torch.zeros(2, device="meta")}
    index = MetadataIndex("w", [0])
    read = ReadItem(LoadItemType.TENSOR, index, torch.Size([0]), index, torch.Size([0]), torch.Size([2]))
    with pytest.raises(ValueError, match="w is on the meta device and has no memory"):
        reader.read_data(LoadPlan([read]), planner)
