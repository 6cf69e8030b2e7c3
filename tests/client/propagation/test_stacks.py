"""Signals through stacks: the question, the check of the answer, and its table."""

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import weightwell
from weightwell import __main__ as command
from weightwell.propagation.stacks import Question, Signal

if TYPE_CHECKING:
    from tests.client.conftest import Server


def place(**fields: Any) -> dict[str, Any]:
    names = ("mean", "std", "rms", "largest", "zeros", "saturated", "channel_squared_mean", "channel_variance")
    forward = dict.fromkeys(names, 0.25)
    return {"q": 2.0, "correlation": 0.5, "forward": forward, "backward": {"rms": 1.0, "ratio": 1.0}, **fields}


THEORY = {"q": 2.0, "correlation": 0.5, "mean": 0.0, "std": 1.0, "rms": 1.0, "backward_rms": 1.0, "chi_1": 1.0}


def layer(number: int, **fields: Any) -> dict[str, Any]:
    return place(
        layer=number,
        kind="linear",
        width=8,
        activation="silu",
        param=None,
        normalization="none",
        residual="none",
        weight={"name": f"layers.{number}.weight", "scheme": "kaiming_normal"},
        bias=None,
        spread=place(),
        theory={**THEORY, "reason": None},
        **fields,
    )


ANSWER: dict[str, Any] = {
    "dtype": "float32",
    "batch": 4,
    "seeds": [0, "18446744073709551615"],
    "correlation": 0.5,
    "input": place(),
    "layers": [layer(1), layer(2)],
    "first_not_finite": {"forward": 2, "backward": None},
    "theory": {
        "weight_variance": 2.0,
        "verdict": "critical",
        "chi_1": 1.0,
        "q": 2.0,
        "at_fixed_point": True,
        "fixed_points": [{"q": 2.0, "slope": 1.144, "stability": "unstable"}],
        "every_q_is_fixed": False,
        "xi_q": None,
        "xi_c": 12.1,
        "reason": None,
    },
}
FIELDS = {"depth": 2, "width": np.int64(8), "activation": "swish", "scheme": "he_normal", "batch": 4,
          "seeds": (0, 2**64 - 1), "correlation": np.float64(0.5), "dtype": "float32"}  # fmt: skip


def test_equal_layers_are_asked_for_in_a_query_and_a_list_in_a_body() -> None:
    request = Question.of(None, FIELDS).request
    assert request.method == "GET"
    assert request.fields["seeds"] == "0,18446744073709551615"
    assert request.fields["width"] == "8"
    request = Question.of([{"width": np.int64(3)}], {"batch": 2}).request
    assert (request.method, request.fields) == ("POST", {"layers": [{"width": 3}], "batch": 2})


@pytest.mark.parametrize("layers", ["[]", {"width": 3}, [3], [("width", 3)]])
def test_layers_that_are_no_list_of_dicts_are_a_mistake(layers: Any) -> None:
    with pytest.raises(TypeError, match="dict"):
        Question.of(layers, {})


def test_an_answer_to_the_question_is_accepted() -> None:
    signal = Question.of(None, FIELDS).read(ANSWER)
    assert signal == Signal.of(ANSWER)
    listed = Question.of([{"width": 8, "activation": "silu", "repeat": 2}], {"seeds": [0, str(2**64 - 1)]})
    assert listed.read(ANSWER).layers == ANSWER["layers"]


@pytest.mark.parametrize(
    "asked",
    [
        {"depth": 3},
        {"width": 9},
        {"activation": "tanh"},
        {"scheme": "orthogonal"},
        {"residual": "pre-norm"},
        {"seeds": [0]},
        {"batch": 5},
        {"dtype": "float16"},
        {"correlation": 0.4},
    ],
)
def test_an_answer_to_another_question_is_not_accepted(asked: dict[str, Any]) -> None:
    with pytest.raises(weightwell.UnexpectedResponse):
        Question.of(None, {**FIELDS, **asked}).read(ANSWER)
    with pytest.raises(weightwell.UnexpectedResponse):
        Question.of([{"width": 8}, {"width": 7}], {}).read(ANSWER)


def test_the_table_has_what_is_measured_beside_what_is_predicted() -> None:
    signal = Signal.of(ANSWER)
    text = str(signal)
    assert text.splitlines()[0].split()[:2] == ["layer", "forward.mean"]
    assert "first value that is not finite: layer 2" in text
    assert "theory: critical, chi_1 = 1 at the fixed point q = 2" in text
    assert "fixed point of the variance: q = 2, slope 1.144: unstable" in text
    assert "depth scales in layers: xi_c = 12.1" in text
    assert signal["theory.q"] == signal["q"] == [2.0, 2.0]
    assert signal["spread.forward.rms"] == [0.25, 0.25]
    assert (signal.input, signal.theory) == (ANSWER["input"], ANSWER["theory"])
    assert "<td>1</td>" in signal._repr_html_()


def test_what_theory_does_not_have_is_left_out() -> None:
    answer = copy.deepcopy(ANSWER)
    for each in answer["layers"]:
        each["theory"] = {**dict.fromkeys(THEORY), "reason": "batch normalization"}
        each["spread"] = None
    answer["theory"] = dict.fromkeys(ANSWER["theory"]) | {"reason": "batch normalization"}
    answer["first_not_finite"]["forward"] = None
    signal = Signal.of(answer)
    assert "theory.rms" not in str(signal).splitlines()[0]
    assert signal.notes == ("theory: batch normalization",)
    assert signal["spread.q"] == [None, None]


def test_a_plot_has_theory_as_dashed_lines() -> None:
    pytest.importorskip("matplotlib").use("agg")
    axes = Signal.of(ANSWER).plot()
    assert [line.get_linestyle() for line in axes.get_lines()] == ["-", "-", "--", "--"]
    assert [line.get_linestyle() for line in Signal.of(ANSWER).plot("q").get_lines()] == ["-"]


def test_the_command_prints_the_table(
    fake: "Server", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEIGHTWELL_URL", fake.url)
    fake.faults += [fake.answer(200, json.dumps(ANSWER).encode())] * 2
    arguments = ["signal", "he_normal", "--depth", "2", "--width", "8", "--activation", "silu", "-p", "bias=normal"]
    assert command.main([*arguments, "--seeds", f"0,{2**64 - 1}"]) == 0
    assert capsys.readouterr().out == f"{Signal.of(ANSWER)}\n"
    assert fake.requests[0].fields == {
        "scheme": "he_normal",
        "depth": "2",
        "width": "8",
        "activation": "silu",
        "seeds": f"0,{2**64 - 1}",
        "bias": "normal",
    }
    assert command.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ANSWER
