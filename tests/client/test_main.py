"""The command: its output, its files and its exit codes."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from weightwell import __main__ as command

if TYPE_CHECKING:
    from tests.client.conftest import Server

Output = pytest.CaptureFixture[str]
Run = Callable[..., int]


@pytest.fixture
def run(fake: "Server", monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command against the server: ``run("gain", "relu")`` returns the exit code."""
    monkeypatch.setenv("WEIGHTWELL_URL", fake.url)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return lambda *argv: command.main(argv)


def test_a_gain_is_printed_to_its_last_digit(run: Run, fake: "Server", capsys: Output) -> None:
    fake.faults.append(
        fake.answer(200, b'{"source": "torch", "nonlinearity": "leaky_relu", "param": 0.2, "gain": 1.3867504905630728}')
    )
    assert run("gain", "leaky_relu", "--param", "0.2") == 0
    assert capsys.readouterr().out == "1.3867504905630728\n"
    assert fake.requests[0].fields == {"nonlinearity": "leaky_relu", "param": "0.2"}


def test_the_table_of_gains_is_printed_in_columns(run: Run, fake: "Server", capsys: Output) -> None:
    fake.faults.append(
        fake.answer(200, b'{"source": "torch", "gains": {"relu": {"gain": 1.4}, "sigmoid": {"gain": 1}}}')
    )
    assert run("gain") == 0
    assert capsys.readouterr().out == "relu     1.4\nsigmoid  1.0\n"


def test_gains_are_printed_with_all_their_fields_as_json(run: Run, fake: "Server", capsys: Output) -> None:
    row = {"source": "quadrature", "nonlinearity": "gelu", "parameters": {}, "gain": 1.5, "slope": 1.14}
    for answer in (row, {"source": "quadrature", "gains": {"gelu": row}}):
        fake.faults.append(fake.answer(200, json.dumps(answer).encode()))
    assert run("gain", "gelu", "--source", "quadrature", "--json") == 0
    assert json.loads(capsys.readouterr().out) == row
    assert run("gain", "--source", "quadrature", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"gelu": row}


def test_the_schemes_are_printed_as_python_would_call_them(run: Run, capsys: Output) -> None:
    assert run("schemes") == 0
    assert capsys.readouterr().out == "ones(mode=fan_in, val)\n    Fill with ones.\n"


def test_the_presets_are_printed_as_python_would_call_them(run: Run, capsys: Output) -> None:
    assert run("presets") == 0
    assert capsys.readouterr().out == "gpt2(layers, std=0.02)\n    As nanoGPT does.\n"


@pytest.mark.parametrize("verb", ["schemes", "presets"])
def test_a_catalogue_is_printed_as_json(run: Run, capsys: Output, verb: str) -> None:
    assert run(verb, "--json") == 0
    assert capsys.readouterr().out.startswith(f'{{\n  "{verb}"')


def test_the_help_lists_every_verb_with_a_sentence(capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    for verb in ("gain", "init", "save", "plan", "verify", "schemes", "presets"):
        assert re.search(rf"^    {verb}\s+[A-Z].+", told, re.MULTILINE), verb


@pytest.mark.parametrize("verb", ["gain", "init", "save", "plan", "verify", "schemes", "presets"])
def test_the_help_of_a_verb_describes_every_argument(capsys: Output, verb: str) -> None:
    with pytest.raises(SystemExit):
        command.main([verb, "--help"])
    entries = re.split(r"\n  (?=\S)", capsys.readouterr().out.partition("\n\n")[2])
    described = [entry for entry in entries[1:] if not entry.rstrip().endswith(":")]
    assert described
    assert all(re.search(r"\s{2,}\S", entry) for entry in described), described


def test_a_tensor_is_written_to_a_file(run: Run, fake: "Server", tmp_path: Path) -> None:
    path = tmp_path / "weight.safetensors"
    arguments = ("--seed", "42", "--dtype", "float64", "--name", "w", "--slice", "0:2,:", "-p", "a=-0.2", "-p", "m=x")
    assert run("init", "3,4", "kaiming_normal", "-o", str(path), *arguments) == 0
    assert safetensors.numpy.load_file(path)["w"].shape == (2, 4)
    assert fake.requests[0].fields == {
        "shape": "3,4",
        "scheme": "kaiming_normal",
        "seed": "42",
        "dtype": "float64",
        "name": "w",
        "slice": "0:2,0:4",
        "a": "-0.2",
        "m": "x",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("false", False), ("fan_out", "fan_out")],
)
def test_a_parameter_is_a_number_where_it_looks_like_one(text: str, value: object) -> None:
    assert command._parameter(f"a={text}") == ("a", value)
    assert type(command._parameter(f"a={text}")[1]) is type(value)


def test_a_tensor_goes_to_standard_output_where_that_is_no_terminal(
    run: Run, fake: "Server", capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run("init", "3", "ones") == 0
    assert run("init", "3", "ones", "-o", "-") == 0
    assert capfdbinary.readouterr().out == fake.file_of(fake.requests[0].fields) * 2


def test_a_terminal_is_spared_the_bytes(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("init", "3", "ones") == 2
    assert "give a file with -o" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [(422, 2), (400, 2), (413, 2), (404, 2), (401, 2), (500, 1), (503, 1)])
def test_a_refusal_is_one_line_and_its_exit_code_says_whose_fault_it_is(
    run: Run, fake: "Server", capsys: Output, status: int, code: int
) -> None:
    fake.faults.append(fake.refuse(status, detail="no\nway"))
    assert run("gain", "relu", "--wait", "0") == code
    assert capsys.readouterr().err == f"weightwell: no way (HTTP {status})\n"


def test_an_unreachable_server_is_one_line(run: Run, capsys: Output) -> None:
    assert run("gain", "relu", "--wait", "0", "--url", "http://127.0.0.1:1") == 1
    error = capsys.readouterr().err
    assert error.startswith("weightwell: no server answers at http://127.0.0.1:1 (")
    assert "start a server with `weightwell-service`" in error
    assert "WEIGHTWELL_URL" in error
    assert error.count("\n") == 1


def test_a_path_that_cannot_be_written_is_one_line(run: Run, tmp_path: Path, capsys: Output) -> None:
    assert run("init", "3", "ones", "-o", str(tmp_path / "nowhere" / "weight")) == 1
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["init", "3,x", "ones"],
        ["init", "3", "ones", "--sed", "1"],
        ["init", "3", "ones", "-p", "0.2"],
        ["init", "3", "ones", "-p", "a b=2"],
        ["init", "3", "ones", "-p", "seed=2"],
        ["init", "3", "ones", "--seed", "1.5"],
        ["gain", "relu", "--param", "x"],
    ],
)
def test_a_command_line_that_means_nothing_asks_nothing(
    run: Run, fake: "Server", capsys: Output, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: weightwell")
    assert fake.requests == []


@pytest.mark.parametrize("arguments", [["--url", "{}", "gain", "relu"], ["gain", "relu", "--url", "{}"]])
def test_the_address_is_said_before_the_verb_or_after_it(
    run: Run, fake: "Server", monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("WEIGHTWELL_URL", "http://127.0.0.1:1")
    assert run(*(argument.format(fake.url) for argument in arguments)) == 0
    assert len(fake.requests) == 1


def test_an_invalid_argument_has_exit_code_2(run: Run, fake: "Server", capsys: Output) -> None:
    assert run("init", "3", "ones", "--dtype", "half", "-o", os.devnull) == 2
    assert "dtype must be one of float32" in capsys.readouterr().err
    assert fake.requests == []


def test_an_interruption_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weightwell.client.Client.gain", interrupted)
    assert run("gain", "relu") == 130
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_gives_no_traceback(fake: "Server") -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:  # noqa: PTH123 - a descriptor has no path
        done = subprocess.run(
            [sys.executable, "-m", "weightwell", "init", "300000", "ones", "--url", fake.url],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "")


# Manifests and files, with a real server ------------------------------------------------------------------------------

MANIFEST = """{"seed": 3, "dtype": "bfloat16",
  "rules": [{"match": "*.bias", "scheme": "zeros"}, {"match": "*.unknown", "scheme": "ones"}],
  "tensors": {"fc.weight": {"shape": [3, 5], "scheme": "xavier_uniform"}, "fc.bias": {"shape": [3]}}}"""


@pytest.fixture
def real(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command against a real server, in a directory with a manifest and the file that it describes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTWELL_URL", server)
    (tmp_path / "model.json").write_text(MANIFEST)
    assert command.main(["save", "model.json", "-o", "model.safetensors"]) == 0
    return lambda *argv: command.main(argv)


def test_a_manifest_is_written_to_a_file(real: Run) -> None:
    assert real("save", "model.json", "-o", "again.safetensors", "--no-progress") == 0
    tensors = safetensors.torch.load_file("again.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"fc.weight": (3, 5), "fc.bias": (3,)}


def test_a_manifest_may_come_from_standard_input(
    real: Run, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(MANIFEST))
    assert real("save", "-") == 0
    assert capfdbinary.readouterr().out == Path("model.safetensors").read_bytes()


def test_a_plan_tells_laws_rules_and_the_url_and_draws_nothing(real: Run, capsys: Output) -> None:
    assert real("plan", "model.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fc.weight  [3, 5]  bfloat16  uniform in [")
    assert 'no tensor uses the rule {"match": "*.unknown", "scheme": "ones"}' in lines
    assert lines[-1].startswith("http://127.0.0.1:")


def test_a_plan_of_many_tensors_is_printed_whole(real: Run, capsys: Output) -> None:
    tensors = {f"layers.{index}": {"shape": [1], "scheme": "ones"} for index in range(300)}
    Path("model.json").write_text(json.dumps({"tensors": tensors}))
    assert real("plan", "model.json") == 0
    assert len(re.findall(r"^layers", capsys.readouterr().out, re.MULTILINE)) == 300


def test_a_plan_is_printed_as_json(real: Run, capsys: Output) -> None:
    assert real("plan", "model.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tensors"]["fc.bias"]["shape"] == [3]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tensors": 3}', '{"tensors": {"w": {"shape": [3]}}}'])
def test_an_invalid_manifest_has_exit_code_2(real: Run, capsys: Output, text: str) -> None:
    Path("model.json").write_text(text)
    assert real("save", "model.json", "-o", "other.safetensors") == 2
    assert capsys.readouterr().err.startswith("weightwell: ")
    assert not Path("other.safetensors").exists()


def test_a_manifest_that_is_no_json_is_named(real: Run, capsys: Output) -> None:
    Path("model.json").write_text("{")
    assert real("plan", "model.json") == 2
    assert capsys.readouterr().err.startswith("weightwell: model.json is not a valid manifest: Expecting")


def test_a_file_that_is_so_is_verified(real: Run, capsys: Output) -> None:
    assert real("verify", "model.safetensors") == 0
    size = Path("model.safetensors").stat().st_size
    assert capsys.readouterr().out == f"verified: all {size} bytes match (2 tensors)\n"


def test_a_file_that_is_not_so_has_an_exit_code_of_its_own(real: Run, capsys: Output) -> None:
    data = bytearray(Path("model.safetensors").read_bytes())
    data[-1] ^= 1
    Path("model.safetensors").write_bytes(data)
    assert real("verify", "model.safetensors") == 1
    assert capsys.readouterr().out.startswith("1 of 2 tensors differ; the first is fc.weight, from element [2, 4] on")


def test_a_file_without_a_spec_has_exit_code_2(real: Run, capsys: Output) -> None:
    safetensors.numpy.save_file({"w": np.zeros(3)}, "other.safetensors")
    assert real("verify", "other.safetensors") == 2
    assert "does not come from a Weightwell server" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_one_line(real: Run, capsys: Output) -> None:
    assert real("verify", "nowhere.safetensors") == 1
    assert "No such file" in capsys.readouterr().err


def test_an_unused_rule_is_a_warning_on_one_line(real: Run, capsys: Output) -> None:
    assert real("save", "model.json", "-o", "again.safetensors") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [line for line in lines if line.startswith("weightwell: no tensor uses the rule {")]
    assert '{"match": "*.unknown", "scheme": "ones"}' in lines[-1]
