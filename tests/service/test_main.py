import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr

from weightwell_service import __main__ as command
from weightwell_service import __version__
from weightwell_service.__main__ import main
from weightwell_service.repositories.library import BUILT_IN
from weightwell_service.settings import Settings

Served = dict[str, Any]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.upper().startswith("WEIGHTWELL_")]:
        monkeypatch.delenv(name)
    yield
    logging.captureWarnings(capture=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """Return the arguments of the server instead of serving."""
    calls: Served = {}

    def run(server: uvicorn.Server) -> None:
        calls.update(host=server.config.host, port=server.config.port, app=server.config.app)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(command, "check_address", lambda *_: None)  # the port may be in use
    several = SimpleNamespace  # of several processes, each makes its own application
    monkeypatch.setattr(
        command, "serve", lambda settings: calls.update(app=several(state=several(service=several(settings=settings))))
    )
    monkeypatch.setattr(command, "check_tls", lambda _: None)  # of the two settings, one is tried at a time
    monkeypatch.setattr(uvicorn.Config, "configure_logging", lambda _: None)  # which would outlive the test
    return calls


# Defaults, environment, flags ----------------------------------------------------------------------------------------


def test_without_flags_it_serves_this_machine_alone(served: Served) -> None:
    assert main([]) == 0
    assert (served["host"], served["port"]) == ("127.0.0.1", 8000)
    assert served["app"].state.service.settings.device == "cpu"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_for_the_log_stops_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115, PTH123  # closed below, which fails
    monkeypatch.setattr(sys, "stderr", full)
    assert main([]) == 0
    assert served["host"] == "127.0.0.1"
    assert main(["--port", "none"]) == 2
    with pytest.raises(OSError, match="No space left"):
        full.close()


@pytest.mark.usefixtures("served")
def test_the_start_logs_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().err == f"weightwell-service: version {__version__} draws on cpu\n"


TOKENS = Path(__file__).parent / "access" / "tokens.toml"

VALUES: dict[str, tuple[str, Any]] = {
    "host": ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - nothing listens
    "port": ("0", 0),
    "device": ("cpu", "cpu"),
    "workers": ("2", 2),
    "threads": ("3", 3),
    "max_bytes": ("1000", 1000),
    "max_resident_bytes": ("2000", 2000),
    "max_request_bytes": ("3000", 3000),
    "max_total_request_bytes": ("4000", 4000),
    "max_signal_operations": ("5000", 5000),
    "max_tensors": ("100", 100),
    "max_cpu_seconds": ("2.5", 2.5),
    "max_responses_per_address": ("3", 3),
    "bytes_per_day_per_address": ("4000", 4000),
    "saturation": ("0.5", 0.5),
    "max_connections": ("10", 10),
    "head_timeout": ("0.25", 0.25),
    "max_responses": ("4", 4),
    "torch_generator": ("off", "off"),
    "queue_timeout": ("1.5", 1.5),
    "drawing_timeout": ("2.5", 2.5),
    "stall_timeout": ("0.5", 0.5),
    "min_rate": ("1500", 1500.0),
    "keep_alive": ("7", 7),
    "shutdown_timeout": ("8", 8),
    "drain_seconds": ("2.5", 2.5),
    "repositories": (str(BUILT_IN), BUILT_IN),
    "max_shard_bytes": ("1000000", 1_000_000),
    "data_url": ("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
    "tokens_file": (str(TOKENS), TOKENS),
    "open_health": ("false", False),
    "open_metrics": ("true", True),
    "open_page": ("false", False),
    "cors_origins": ("https://a.example,http://b.example:8080", "https://a.example,http://b.example:8080"),
    "tls_certificate": ("chain.pem", Path("chain.pem")),
    "tls_key": ("key.pem", Path("key.pem")),
    "upstream": ("https://hub.example", "https://hub.example"),
    "upstream_token": ("hf_secret", SecretStr("hf_secret")),
    "upstream_timeout": ("2.5", 2.5),
    "upstream_max_file_bytes": ("5000", 5000),
    "upstream_max_header_bytes": ("6000", 6000),
    "access_log": ("false", False),
    "traces": ("true", True),
    "log_format": ("json", "json"),
}


def test_every_setting_is_tried() -> None:
    assert set(VALUES) == set(Settings.model_fields)


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_is_an_environment_variable(name: str, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = VALUES[name]
    monkeypatch.setenv(f"WEIGHTWELL_{name.upper()}", text)
    assert main([]) == 0
    assert getattr(served["app"].state.service.settings, name) == value


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_is_a_flag_that_is_stronger_than_the_environment(
    name: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = VALUES[name]
    monkeypatch.setenv(f"WEIGHTWELL_{name.upper()}", "cpu" if name == "device" else "1")
    flag = name.replace("_", "-")
    flags = {False: [f"--no-{flag}"], True: [f"--{flag}"]}
    assert main(flags[value] if isinstance(value, bool) else [f"--{flag}", text]) == 0
    assert getattr(served["app"].state.service.settings, name) == value


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("port", ""),
        ("threads", "0"),
        ("threads", "two"),
        ("max_bytes", "-1"),
        ("max_bytes", "1.5"),
        ("max_bytes", "16GiB"),
        ("stall_timeout", "0"),
        ("stall_timeout", "nan"),
        ("stall_timeout", "soon"),
    ],
)
@pytest.mark.usefixtures("served")
def test_a_value_that_cannot_be_is_one_line_and_status_2(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"WEIGHTWELL_{name.upper()}", text)
    assert main([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"weightwell-service: WEIGHTWELL_{name.upper()} must be ")
    assert line.endswith(f", got {text!r}")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "meta"])
def test_a_device_that_is_none_is_one_line_and_status_2(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", device]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"weightwell-service: device must be cpu, cuda or cuda:<index>, got {device!r}"


def test_an_address_that_is_taken_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"weightwell-service: cannot listen on 127.0.0.1 port {port}: ")


def test_a_wrong_device_is_reported_even_if_the_port_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--port", str(taken.getsockname()[1]), "--device", "gpu"]) == 2
    assert "device must be cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokens-file", "{}/none.toml"], "{}/none.toml: No such file or directory"),
        (["--tls-key", "{}/key.pem"], "WEIGHTWELL_TLS_CERTIFICATE and WEIGHTWELL_TLS_KEY belong together, got one"),
        (
            ["--tls-key", "{}/key.pem", "--tls-certificate", "{}/chain.pem"],
            "{}/chain.pem and {}/key.pem cannot be used",
        ),
        (["--repositories", "{}"], "{}/acme/model: "),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_file_that_cannot_be_used_is_one_line_and_status_2(
    flags: list[str], message: str, workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "acme" / "model").mkdir(parents=True)
    (tmp_path / "acme" / "model" / "manifest.json").write_text("{")
    assert main(["--port", "0", "--workers", workers, *(flag.format(tmp_path) for flag in flags)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"weightwell-service: {message.format(tmp_path, tmp_path)}")


@pytest.mark.usefixtures("served")
def test_the_parent_of_several_processes_makes_no_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "create_app", None)
    assert main(["--workers", "2"]) == 0


def test_an_unknown_flag_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--colour", "red"])
    assert caught.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in Settings.model_fields if f"--{name.replace('_', '-')}" not in text] == []


def test_the_module_is_the_command_and_refuses_an_absent_device() -> None:
    command = [sys.executable, "-m", "weightwell_service", "--device", "cuda:0"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "device cuda:0 does not exist" in line
    assert "--device cpu" in line


def test_nothing_is_read_from_the_environment_at_import() -> None:
    environment = {**os.environ, "WEIGHTWELL_PORT": "nonsense", "WEIGHTWELL_DEVICE": "nonsense"}
    command = [sys.executable, "-c", "import weightwell_service.app, weightwell_service.__main__"]
    assert subprocess.run(command, timeout=60, env=environment, check=False).returncode == 0
