"""``weightwell.coordinate_check``: the standard parametrization grows with the width, muP does not."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import weightwell

WIDTHS = [32, 64, 128, 256]
INPUT = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(0, 10, (32,), generator=torch.Generator().manual_seed(1))
BASE = 32  # the width at which both parametrizations are the same


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def standard(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


class Mup(nn.Module):
    """An MLP in the maximal update parametrization, for Adam."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = BASE / width
        self.first, self.hidden, self.last = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 10)
        nn.init.normal_(self.hidden.weight, std=width**-0.5)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.hidden(functional.relu(self.first(x))))
        result: torch.Tensor = self.last(hidden * self.scale)
        return result

    def optimizer(self) -> torch.optim.Optimizer:
        hidden = self.hidden.weight
        others = [parameter for parameter in self.parameters() if parameter is not hidden]
        return torch.optim.Adam([{"params": [hidden], "lr": 1e-2 * self.scale}, {"params": others, "lr": 1e-2}])


def checked(build: Callable[[int], nn.Module], batch: Any = (INPUT, TARGET), **options: Any) -> Any:
    return weightwell.coordinate_check(build, options.pop("widths", WIDTHS), batch, **options)


def verdicts(check: weightwell.CoordinateCheck) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in check}


def test_the_standard_parametrization_with_adam_grows() -> None:
    check = checked(standard, optimizer="adam", lr=1e-2, nseeds=2)
    assert verdicts(check) == {
        "0": "stable", "1": "stable", "2": "grows", "3": "grows", "4": "grows", "(model)": "grows"
    }  # fmt: skip
    assert not check.passed
    assert str(check).endswith("failed: 4 of 6 are not stable, first 2")
    # After one step, the change of a layer is the sum of as many aligned numbers as it has inputs.
    assert check["slope.largest"][4] == pytest.approx(1.0, abs=0.35)


def test_mup_is_stable() -> None:
    check = checked(Mup, optimizer=Mup.optimizer, nseeds=2)
    assert set(verdicts(check).values()) == {"stable"}
    assert check.passed
    assert str(check).endswith("passed: no size depends on the width")


def test_signals_that_vanish_with_the_width_are_not_stable() -> None:
    class Narrowing(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.layer, self.width = nn.Linear(16, 10), width

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.layer(x) / self.width
            return result

    check = checked(Narrowing, lr=1e-3)
    assert verdicts(check) == {"layer": "stable", "(model)": "vanishes"}
    assert check["slope.final"][1] == pytest.approx(-1, abs=0.01)


def test_sizes_have_the_numbers_of_each_width_seed_and_step() -> None:
    class Known(nn.Module):
        """An output of +-3 width."""

        def __init__(self, width: int):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([3.0 * width, -3.0 * width]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    ones = torch.ones(1, 2)
    check = checked(Known, (ones, ones), widths=[2, 4, 8], nsteps=1, nseeds=2, lr=0.25)
    rows = [row for row in check.sizes if row["width"] == 2 and row["seed"] == 1]
    # The gradient of the mean of (w - 1)^2 is w - 1, over two numbers.
    assert [(row["step"], row["size"], row["std"]) for row in rows] == [(0, 6, 6), (1, 4.5, 4.5)]
    assert check["slope.initial"] == [pytest.approx(1)]
    assert (check["size.narrowest"], check["size.widest"]) == ([4.5], [18])
    assert len(check.sizes) == 3 * 2 * 2


def test_zeros_after_the_last_step_and_values_that_are_not_finite_are_named() -> None:
    class Zero(nn.Module):
        def __init__(self, _width: int):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    assert verdicts(checked(Zero, (torch.zeros(2, 2), torch.ones(2, 2)))) == {"(model)": "zero"}
    check = checked(Zero, (torch.full((2, 2), math.inf), torch.ones(2, 2)))
    assert verdicts(check) == {"(model)": "not finite"}
    assert check["slope.final"] == [None]


def test_a_readout_that_begins_at_zero_is_no_failure() -> None:
    class Readout(nn.Module):
        def __init__(self, _width: int):
            super().__init__()
            self.layer = nn.Linear(16, 10, bias=False)
            nn.init.zeros_(self.layer.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.layer(x)
            return result

    check = checked(Readout)
    assert check["slope.initial"] == [None, None]
    assert check.passed


def test_models_of_transformers_bring_their_loss() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def gpt2(width: int) -> nn.Module:
        return GPT2LMHeadModel(
            GPT2Config(n_layer=1, n_head=2, n_embd=width, vocab_size=20, n_positions=8, bos_token_id=1, eos_token_id=2)
        )

    ids = torch.arange(8)[None]
    check = checked(
        gpt2, {"input_ids": ids, "labels": ids}, widths=[16, 32, 64], optimizer="adam", modules=["*mlp", "lm_head"]
    )
    assert check["name"] == ["transformer.h.0.mlp", "lm_head"]
    assert verdicts(check)["lm_head"] == "grows"


def test_losses_can_be_given() -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.nll_loss(output.log_softmax(-1), target)

    assert checked(standard, loss=loss).rows == checked(standard).rows
    given = checked(
        lambda width: nn.Linear(2, width), {"input": INPUT[:, :2]}, loss=lambda output: output.square().mean()
    )
    assert given.passed


def test_a_check_is_reproducible_and_leaves_the_generator_as_it_was() -> None:
    state = torch.get_rng_state()
    first = checked(standard)
    torch.manual_seed(5)
    with torch.no_grad():
        assert checked(standard).rows == first.rows
    torch.set_rng_state(state)
    checked(standard)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_of_torch_is_that_of_the_check() -> None:
    seeds = []

    def build(width: int) -> nn.Module:
        seeds.append(torch.initial_seed())
        return standard(width)

    checked(build, widths=[4, 8], nseeds=2)
    assert seeds == [0, 1, 0, 1]


def test_a_plot_has_a_line_for_each_module() -> None:
    import matplotlib as mpl
    from matplotlib import pyplot

    check = checked(standard)
    with mpl.rc_context({"backend": "agg"}):
        axes: Any = check.plot("2", "4", label="sp", step=0, linestyle=":")
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["sp 2", "sp 4"]
        assert list(axes.get_lines()[0].get_xdata()) == WIDTHS
        assert axes.get_ylabel() == "mean absolute value after 0 steps"
        assert len(check.plot().get_lines()) == 6
        with pytest.raises(KeyError, match="no row 'x'; the rows are 0, 1, 2"):
            check.plot("x")
        pyplot.close("all")


def other_modules(width: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(width)))


@pytest.mark.parametrize(
    ("build", "batch", "options", "error", "message"),
    [
        (standard, (INPUT, TARGET), {"widths": [8]}, ValueError, r"two or more different positive integers, got \[8\]"),
        (standard, (INPUT, TARGET), {"widths": [8, 0]}, ValueError, "positive integers"),
        (standard, (INPUT, TARGET), {"nsteps": 0}, ValueError, "nsteps and nseeds must be at least 1, got 0 and 1"),
        (standard, (INPUT, TARGET), {"optimizer": "adm"}, ValueError, "sgd, adam, adamw, or a function, .*mean adam"),
        (standard, (INPUT, TARGET), {"optimizer": torch.optim.SGD, "lr": 1.0}, ValueError, "set the rate in the fun"),
        (standard, INPUT, {}, TypeError, r"batch must be \(input, target\), .*got Tensor"),
        (standard, {"input": INPUT}, {}, ValueError, "the model returned no loss: put labels into the batch"),
        (lambda width: width, (INPUT, TARGET), {}, TypeError, "build must return a torch.nn.Module, got int for width"),
        (other_modules, (INPUT, INPUT), {"widths": [1, 2]}, ValueError, "width 2 has other outputs than .* width 1: 1"),
    ],
)
def test_refusals_say_what_is_allowed(
    build: Any, batch: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        checked(build, batch, **options)
