"""A DTensor requests the part of its rank. The ranks are simulated in one process without communication."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

import weightwell
from weightwell import Manifest
from weightwell.models.filling import filling_of
from weightwell.models.shards import bounds_of_shard, local_of, part_of, with_local
from weightwell.slices import bounds_of
from weightwell.spec import ManifestSpec

MESHES = st.tuples(st.integers(1, 3), st.integers(1, 3))
SHAPES = st.tuples(st.integers(0, 11), st.integers(0, 11))


def placements(mesh: tuple[int, int]) -> list[tuple[Any, Any]]:
    """How a matrix can be placed on a mesh of two dimensions so that everybody holds a slice of it."""
    plain = [Replicate(), Shard(0), Shard(1)]
    return [*product(plain, plain), *[(_StridedShard(dim, split_factor=mesh[1]), Shard(dim)) for dim in (0, 1)]]


@given(st.tuples(st.integers(1, 3), st.integers(1, 3)), MESHES, st.data())
def test_even_parts_are_where_torch_says_that_they_are(
    counts: tuple[int, int], mesh: tuple[int, int], data: st.DataObject
) -> None:
    """Where a strided dimension is uneven, torch computes other parts than the ones that FSDP makes."""
    shape = (counts[0] * mesh[0] * mesh[1], counts[1] * mesh[0] * mesh[1])
    placed = data.draw(st.sampled_from(placements(mesh)))
    for coordinate in product(*map(range, mesh)):
        local, offsets = _compute_local_shape_and_global_offset(shape, mesh, list(coordinate), placed)
        expected = tuple((offset, offset + size) for offset, size in zip(offsets, local, strict=True))
        assert part_of(shape, placed, mesh, coordinate) == expected


@given(SHAPES, st.integers(1, 4), st.integers(1, 4))
def test_uneven_parts_of_parts_are_those_that_fsdp_makes(shape: tuple[int, int], dp: int, tp: int) -> None:
    whole = torch.arange(shape[0] * shape[1]).reshape(shape)
    placed = (_StridedShard(0, split_factor=tp), Shard(0))
    for row, column in product(range(dp), range(tp)):
        bounds = part_of(shape, placed, (dp, tp), (row, column)) or ()
        outer = [*whole.chunk(tp), *[whole[:0]] * tp][column]
        inner = [*outer.chunk(dp), *[whole[:0]] * dp][row]
        assert torch.equal(whole[tuple(slice(*each) for each in bounds)], inner)


@given(SHAPES, MESHES, st.data())
def test_the_parts_cover_the_whole_once_for_each_replica(
    shape: tuple[int, int], mesh: tuple[int, int], data: st.DataObject
) -> None:
    placed = data.draw(st.sampled_from(placements(mesh)))
    count = torch.zeros(shape)
    for coordinate in product(*map(range, mesh)):
        count[tuple(slice(*each) for each in part_of(shape, placed, mesh, coordinate) or ())] += 1
    replicas = [size for size, each in zip(mesh, placed, strict=True) if each == Replicate()]
    assert bool((count == torch.tensor(replicas).prod()).all())


@pytest.mark.parametrize(
    "placed",
    [
        (Partial(), Shard(0)),
        (Shard(0), _StridedShard(0, split_factor=2)),
        (_StridedShard(0, split_factor=2), Shard(1)),
        (_StridedShard(0, split_factor=3), Shard(0)),
    ],
)
def test_a_part_that_is_no_slice_is_none(placed: Any) -> None:
    assert part_of((8, 8), placed, (2, 2), (0, 0)) is None


# On a rank -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """What the last of four ranks sees: a mesh of two by two, in which it is at (1, 1)."""
    dist.init_process_group("fake", rank=3, world_size=4, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    finally:
        dist.destroy_process_group()


def network() -> nn.Sequential:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 6))


def parallel(mesh: DeviceMesh) -> nn.Module:
    return parallelize_module(network(), mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})


BUILDS = pytest.mark.parametrize(
    ("build", "slices"),
    [
        (lambda mesh: fully_shard(network(), mesh=mesh), ["5:10,0:6", "5:10", "3:6,0:10", "3:6"]),
        (parallel, ["5:10,0:6", "5:10", "0:6,5:10", None]),
        (lambda mesh: fully_shard(parallel(mesh), mesh=mesh["dp"]), ["8:10,0:6", "8:10", "3:6,5:10", "3:6"]),
    ],
    ids=["FSDP", "TP", "FSDP+TP"],
)


@BUILDS
def test_a_rank_asks_for_its_slices_of_the_whole(
    mesh: DeviceMesh, build: Callable[[DeviceMesh], nn.Module], slices: list[str | None]
) -> None:
    tensors = Manifest.from_module(build(mesh)).tensors
    assert [each.get("slice") for each in tensors.values()] == slices
    assert [each["shape"] for each in tensors.values()] == [[10, 6], [10], [6, 10], [6]]


@BUILDS
def test_a_rank_is_filled_with_its_slices_of_the_whole(
    mesh: DeviceMesh, build: Callable[[DeviceMesh], nn.Module], slices: list[str | None], door: str
) -> None:
    with weightwell.Client(door) as client:
        whole = client.init_state_dict(Manifest.from_module(network(), seed=1))
        model = client.init_module_(build(mesh), seed=1, device="cpu")
    for (name, parameter), part in zip(model.named_parameters(), slices, strict=True):
        bounds = bounds_of(part or "...", tuple(parameter.shape))
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.to_local(), whole[name][tuple(slice(*each) for each in bounds)])


@BUILDS
def test_tensors_that_exist_are_filled_and_changed_in_the_rank_s_slices(
    mesh: DeviceMesh, build: Callable[[DeviceMesh], nn.Module], slices: list[str | None], door: str
) -> None:
    model = build(mesh).to_empty(device="cpu")
    with weightwell.Client(door) as client:
        for (name, parameter), part in zip(model.named_parameters(), slices, strict=True):
            here = tuple(slice(*each) for each in bounds_of(part or "...", tuple(parameter.shape)))
            assert isinstance(parameter, DTensor)
            whole = client.init(parameter.shape, "normal", seed=1, name=name)
            version = parameter._version
            assert client.init_(parameter, "normal", seed=1, name=name) is parameter
            assert parameter._version > version
            assert torch.equal(parameter.to_local(), whole[here])
            client.noise(parameter, seed=2, name=name)
            assert torch.equal(parameter.to_local(), client.noise(whole, seed=2, name=name)[here])
            assert client.init(parameter.shape, "normal", seed=3, name=name, out=parameter) is parameter
            assert torch.equal(parameter.to_local(), client.init(parameter.shape, "normal", seed=3, name=name)[here])


@pytest.mark.parametrize(("shape", "part"), [((10, 6), "0:5"), ((5, 6), None), ((20, 6), "5:10")])
def test_a_shard_is_not_filled_with_another_part(mesh: DeviceMesh, shape: tuple[int, int], part: str | None) -> None:
    shard: Any = DTensor.from_local(torch.zeros(5, 6), mesh["dp"], [Shard(0)])
    with weightwell.local() as client:
        with pytest.raises(ValueError, match=r"out is the shard 5:10,0:6 of a tensor of shape \[10, 6\], and"):
            client.init(shape, "normal", slice=part, out=shard)
        client.init((10, 6), "normal", slice="5:10", out=shard)
        assert torch.equal(shard.to_local(), client.init((10, 6), "normal")[5:10])


def test_a_tensor_that_is_still_to_be_summed_is_named(mesh: DeviceMesh) -> None:
    partial = DTensor.from_local(torch.zeros(3, 2), mesh, [Partial(), Shard(0)])
    with pytest.raises(ValueError, match=r"part of w, which is placed as .* is not a slice"):
        bounds_of_shard("w", partial)


def test_the_local_tensor_shares_its_memory(mesh: DeviceMesh) -> None:
    local = torch.zeros(3, 2)
    dtensor: Any = nn.Parameter(DTensor.from_local(local, mesh, [Replicate(), Shard(0)]))
    assert local_of(dtensor).data_ptr() == local.data_ptr()
    other = with_local(dtensor, torch.ones(3, 2))
    assert isinstance(other, DTensor)
    assert (other.shape, other.placements, other.stride()) == (dtensor.shape, dtensor.placements, dtensor.stride())


def test_another_ranks_shard_is_refused(mesh: DeviceMesh) -> None:
    model: Any = fully_shard(network(), mesh=mesh["dp"])
    manifest = Manifest.from_module(network()).shard(0, 2)
    with pytest.raises(
        ValueError, match=r"0\.weight is 5:10,0:6 of the whole on this rank, but the manifest has another slice"
    ):
        filling_of(model, ManifestSpec.of(manifest.document()), device="cpu")
