"""Reparametrized tensors are drawn under their plain names, and their originals are set to match."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.testing._internal.distributed.fake_pg import FakeStore

import weightwell
from weightwell import Manifest

Wrap = Callable[..., Any]

# Said by torch of its older weight norm.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


@pytest.fixture
def client(door: str) -> Iterator[weightwell.Client]:
    with weightwell.Client(door) as client:
        yield client


def network(device: str = "cpu") -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(3, 6, 5, device=device), nn.Linear(6, 4, device=device))


def parts(layer: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("parametrizations.weight."): tensor for name, tensor in layer.state_dict().items()}


def pruned(layer: nn.Module) -> nn.Module:
    pruned: nn.Module = prune.l1_unstructured(layer, "weight", 7)  # type: ignore[no-untyped-call]
    return pruned


class Symmetric(nn.Module):
    """The example of torch's tutorial: what is below the diagonal is not used."""

    def forward(self, matrix: Tensor) -> Tensor:
        """Return a symmetric matrix."""
        return matrix.triu() + matrix.triu(1).T

    def right_inverse(self, matrix: Tensor) -> Tensor:
        """Return the upper triangle."""
        return matrix.triu()


class Factors(nn.Module):
    """A square matrix as a product with another matrix, in another shape: two originals."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return what is made of halves."""
        return torch.cat([left, right])

    def right_inverse(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return the halves."""
        half = len(matrix) // 2
        return matrix[:half], matrix[half:]


class Doubled(nn.Module):
    """A parametrization with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, tensor: Tensor) -> Tensor:
        """Return a multiple."""
        return self.factor * tensor

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """Return what it is a multiple of."""
        return tensor / self.factor


class Squared(nn.Module):
    """Without a right inverse."""

    def forward(self, tensor: Tensor) -> Tensor:
        """Return squares."""
        return tensor.square()


# Names and numbers ---------------------------------------------------------------------------------------------------

KINDS: dict[str, Wrap] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm of the whole": lambda layer: parametrizations.weight_norm(layer, dim=None),  # type: ignore[arg-type]
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "older weight_norm": old_weight_norm,
    "older spectral_norm": old_spectral_norm,
    "pruning": pruned,
}


@pytest.mark.parametrize("wrap", KINDS.values(), ids=KINDS)
def test_names_are_those_of_the_module_before(wrap: Wrap) -> None:
    model = network()
    wrap(model[1])
    expected = Manifest.from_module(network()).tensors
    found = Manifest.from_module(model).tensors
    assert [*found] == [*expected]
    assert {**found["1.weight"], "scheme": None} == {**expected["1.weight"], "scheme": None}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["weight_norm", "weight_norm of the whole", "older weight_norm"])
def test_a_weight_norm_is_filled_with_the_weight(
    client: weightwell.Client, kind: str, dtype: torch.dtype, device: str
) -> None:
    expected: Any = client.init_module_(network().to(dtype), seed=1)
    model: Any = network(device).to(dtype)
    for layer in model:
        KINDS[kind](layer)
    client.init_module_(model, seed=1, device="cpu")
    for layer, plain in zip(model, expected, strict=True):
        magnitude, direction = [tensor for name, tensor in parts(layer).items() if name != "bias"]
        assert torch.equal(direction, plain.weight)
        dim = -1 if kind == "weight_norm of the whole" else 0
        assert torch.equal(magnitude, torch.norm_except_dim(plain.weight.detach(), 2, dim))
        torch.testing.assert_close(layer.weight, plain.weight)
        assert torch.equal(layer.bias, plain.bias)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", ["spectral_norm", "older spectral_norm"])
def test_a_spectral_norm_divides_the_weight_that_was_drawn(client: weightwell.Client, kind: str, device: str) -> None:
    expected: Any = client.init_module_(network(), seed=1)
    model: Any = network(device)
    for layer in model:
        KINDS[kind](layer)
    client.init_module_(model.eval(), seed=1, device="cpu")
    for layer, plain in zip(model, expected, strict=True):
        original = getattr(layer, "weight_orig", None)
        assert torch.equal(parts(layer)["original"] if original is None else original, plain.weight)
        norm = torch.linalg.matrix_norm(plain.weight.flatten(1), 2)
        torch.testing.assert_close(layer.weight, plain.weight / norm, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["spectral_norm", "older spectral_norm"])
def test_the_vectors_of_a_spectral_norm_do_not_depend_on_their_old_values(client: weightwell.Client, kind: str) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = client.init_module_(nn.Sequential(KINDS[kind](nn.Linear(5, 4))), seed=1)
        found.append([tensor for name, tensor in model.state_dict().items() if name.endswith(("_u", "_v"))])
    assert [len(vector) for vector in found[0]] == [4, 5]
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("options", [{}, {"orthogonal_map": "householder", "use_trivialization": False}])
def test_an_orthogonal_map_is_filled_with_an_orthogonal_matrix(
    client: weightwell.Client, shape: tuple[int, int], options: dict[str, Any]
) -> None:
    layer: Any = parametrizations.orthogonal(nn.Linear(shape[1], shape[0]), **options)
    client.init_module_(nn.Sequential(layer), seed=1)
    torch.testing.assert_close(layer.weight, client.init(shape, "orthogonal", seed=1, name="0.weight"))


def test_an_orthogonal_map_is_completed_alike_and_leaves_torchs_random_numbers_alone(client: weightwell.Client) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        layer = parametrizations.orthogonal(nn.Linear(3, 5))
        before = torch.random.get_rng_state()
        client.init_module_(nn.Sequential(layer), seed=1)
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(parts(layer))
    assert found[0]["0.base"].shape == (5, 5)
    assert all(map(torch.equal, found[0].values(), found[1].values()))


def test_a_pruned_weight_is_drawn_and_masked_as_before(client: weightwell.Client) -> None:
    expected: Any = client.init_module_(network(), seed=1)
    model: Any = network()
    layer: Any = pruned(model[1])
    mask = layer.weight_mask.clone()
    client.init_module_(model, seed=1)
    assert torch.equal(layer.weight_orig, expected[1].weight)
    assert torch.equal(layer.weight_mask, mask)
    assert torch.equal(layer.weight, mask * expected[1].weight)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_parametrization_of_several_originals_is_filled(client: weightwell.Client, device: str) -> None:
    expected: Any = client.init_module_(network(), seed=1)
    model: Any = network(device)
    parametrize.register_parametrization(model[1], "weight", Factors())
    client.init_module_(model, seed=1, device="cpu")
    assert torch.equal(model[1].weight, expected[1].weight)
    assert [*parts(model[1])] == ["bias", "original0", "original1"]
    assert all(isinstance(parameter, nn.Parameter) for parameter in model.parameters())


def test_a_chain_of_parametrizations_is_filled_after_their_own_parameters(client: weightwell.Client) -> None:
    expected: Any = client.init_module_(network(), seed=1)
    model: Any = network()
    parametrize.register_parametrization(model[1], "weight", Factors())
    parametrize.register_parametrization(model[1], "weight", Doubled())
    rules = [{"match": "*.factor", "scheme": "constant", "val": 4.0}]
    client.init_module_(model, rules, preset="torch", seed=1)
    assert torch.equal(model[1].parametrizations.weight.original0, expected[1].weight[:2] / 4)
    assert torch.equal(model[1].weight, expected[1].weight)


def test_a_parametrized_bias_and_weight_are_both_filled(client: weightwell.Client) -> None:
    expected: Any = client.init_module_(network(), seed=1)
    model: Any = network()
    for leaf in ("weight", "bias"):
        parametrize.register_parametrization(model[1], leaf, Factors())
    client.init_module_(model, seed=1)
    assert torch.equal(model[1].weight, expected[1].weight)
    assert torch.equal(model[1].bias, expected[1].bias)


def test_a_parametrized_layer_that_is_used_twice_is_drawn_once(client: weightwell.Client) -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 3))
    model = nn.Sequential(layer, layer)
    assert Manifest.from_module(model).tensors["1.weight"] == {"alias": "0.weight"}
    client.init_module_(model, seed=1)
    expected: Any = client.init_module_(nn.Sequential(nn.Linear(3, 3)), seed=1)
    assert torch.equal(parts(layer)["original1"], expected[0].weight)


def test_a_type_of_module_means_its_parametrized_modules_as_well(client: weightwell.Client) -> None:
    model: Any = network()
    parametrizations.weight_norm(model[1])
    client.init_module_(model, {nn.Linear: "orthogonal"}, seed=1)
    expected = client.init((4, 6), "orthogonal", seed=1, name="1.weight")
    assert torch.equal(model[1].parametrizations.weight.original1, expected)


@pytest.mark.parametrize("kind", ["weight_norm", "older weight_norm"])
def test_originals_keep_their_memory(client: weightwell.Client, kind: str) -> None:
    layer = KINDS[kind](nn.Linear(3, 3))
    before = [parameter.data_ptr() for parameter in layer.parameters()]
    client.init_module_(layer, seed=1)
    assert [parameter.data_ptr() for parameter in layer.parameters()] == before


def test_what_was_frozen_on_the_meta_device_stays_frozen(client: weightwell.Client) -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 3, device="meta"))
    layer.requires_grad_(False)
    client.init_module_(layer, seed=1, device="cpu")
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in layer.parameters())


def test_a_manifest_may_name_the_originals_instead(client: weightwell.Client) -> None:
    layer: Any = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", Squared())
    client.init_module_(layer, Manifest({"parametrizations.weight.original": {"shape": [2, 3], "scheme": "ones"}}))
    assert torch.equal(layer.weight, torch.ones(2, 3))


# What is refused -----------------------------------------------------------------------------------------------------


def without_inverse(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Squared())


def cayley(layer: nn.Module) -> nn.Module:
    return parametrizations.orthogonal(layer, orthogonal_map="cayley", use_trivialization=False)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            without_inverse,
            r"0\.weight is computed by Squared: Squared has no right_inverse: define one, or fill the mod",
        ),
        (cayley, r"0\.weight is computed by _Orthogonal: it has no right_inverse \(It is not possible"),
    ],
)
def test_a_parametrization_without_a_right_inverse_is_refused_before_anything_is_written(
    client: weightwell.Client, wrap: Wrap, message: str
) -> None:
    model = nn.Sequential(wrap(nn.Linear(3, 3)), nn.Linear(3, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        client.init_module_(model, seed=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("wrap", "rule"),
    [
        (parametrizations.orthogonal, {"scheme": "normal"}),
        (lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()), {"scheme": "normal"}),
        (parametrizations.weight_norm, {"scheme": "zeros"}),
        (old_weight_norm, {"scheme": "zeros"}),
    ],
)
def test_a_parametrization_that_cannot_produce_the_value_is_refused(
    client: weightwell.Client, wrap: Wrap, rule: dict[str, str]
) -> None:
    rules = [{"match": "*.weight", **rule}, {"match": "*.bias", "scheme": "zeros"}]
    with pytest.raises(
        ValueError, match=r"0\.weight is computed by .*, which cannot produce the drawn value: it computes "
    ):
        client.init_module_(nn.Sequential(wrap(nn.Linear(3, 3))), rules, seed=1)


def test_a_symmetric_weight_is_filled_with_a_symmetric_matrix(client: weightwell.Client) -> None:
    layer: Any = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
    client.init_module_(layer, {nn.Linear: "eye"}, seed=1)
    assert torch.equal(layer.weight, torch.eye(3))


def test_a_tensor_and_its_originals_are_not_both_filled(client: weightwell.Client) -> None:
    layer = parametrizations.spectral_norm(nn.Linear(3, 2))
    names = ("weight", "parametrizations.weight.original")
    with pytest.raises(ValueError, match="the manifest has both weight and a tensor that it is computed from"):
        client.init_module_(layer, Manifest({name: {"shape": [2, 3], "scheme": "ones"} for name in names}))


def test_an_original_that_is_tied_to_another_weight_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    parametrizations.weight_norm(model[1])
    with pytest.raises(
        ValueError, match=r"1\.weight is computed by _WeightNorm from a tensor that is tied to 0\.weight"
    ):
        Manifest.from_module(model)


def test_originals_that_are_sharded_are_refused_with_the_cure(client: weightwell.Client) -> None:
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        model: Any = fully_shard(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4))))
        with pytest.raises(ValueError, match=r"0\.weight is computed by _WeightNorm: .* before it is sharded"):
            client.init_module_(model, seed=1)
    finally:
        dist.destroy_process_group()


def test_a_tensor_that_cannot_be_computed_is_named() -> None:
    class Broken(Squared):
        """What fails once it is used."""

        def forward(self, _: Tensor) -> Tensor:
            """Fail."""
            raise RuntimeError("no such kernel")

    layer = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Broken(), unsafe=True)
    with pytest.raises(ValueError, match=r"0\.weight is computed by Broken, which fails: no such kernel"):
        Manifest.from_module(nn.Sequential(layer))


def test_missing_originals_on_the_meta_device_are_named(client: weightwell.Client) -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 2, device="meta"))
    with pytest.raises(ValueError, match=r"original0 is on the meta device, but not in the manifest"):
        client.init_module_(layer, Manifest({"bias": {"shape": [2], "scheme": "ones"}}), device="cpu")
