"""The plugin of pytest, in test suites of its own."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from weightwell_service.repositories.library import BUILT_IN

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pytest.md"
CACHE = Path.home() / ".cache"  # pytester changes the home, and kernels would be compiled anew

# Of the process of a suite: it reaches only this machine.
LOOPBACK = """
import socket

connect = socket.socket.connect

def only_loopback(self, address):
    assert address[0] == "127.0.0.1", f"a connection to {address}"
    return connect(self, address)

socket.socket.connect = only_loopback
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty test suite without any plugin but this one, as if it were installed, and without a network."""
    installed = pytester.path / "installed"
    info = installed / "example-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    lines = "".join(f"{name} = {module}\n" for name, module in points.items())
    (info / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    path = [str(ROOT / "client"), str(ROOT / "service"), str(installed)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    pytester.makeconftest(LOOPBACK)
    return pytester


def run(suite: pytest.Pytester, *options: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-p", "no:xdist", "-p", "no:hypothesispytest", "-p", "no:schemathesis", *options)


def test_a_suite_and_the_example_of_the_page_load_models_without_a_network_and_everything_is_restored(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        """
        import os
        import huggingface_hub
        from huggingface_hub import constants, hf_hub_download, list_repo_files

        def state():
            modules = [vars(constants), vars(huggingface_hub.hf_api.api)]
            return [{name: value for name, value in each.items() if isinstance(value, (str, bool, frozenset))}
                    for each in modules], {k: v for k, v in os.environ.items() if k.lower().startswith(OWN)}

        OWN = ("hf_", "hugging", "transformers", "pytorch", "no_proxy")

        BEFORE = state()

        def test_model(hf_endpoint, tmp_path_factory):
            import torch, weightwell
            from transformers import AutoModelForCausalLM
            model = AutoModelForCausalLM.from_pretrained("tiny/gpt2", revision="seed-1")
            with weightwell.local(threads=1) as client, torch.device("meta"):
                expected = AutoModelForCausalLM.from_config(model.config)
                expected = client.init_module_(expected, seed=1, device="cpu")
            assert all(torch.equal(each, expected.get_parameter(name)) for name, each in model.named_parameters())

        def test_file(hf_endpoint, tmp_path_factory):
            assert os.environ["HF_ENDPOINT"] == hf_endpoint == constants.ENDPOINT
            assert "model.safetensors" in list_repo_files("acme/mine")
            path = hf_hub_download("acme/mine", "config.json", revision="seed-2")
            assert path.startswith(str(tmp_path_factory.getbasetemp()))

        def test_afterwards():
            from transformers.utils import hub
            assert state() == BEFORE
            assert hub.HF_MODULES_CACHE == os.path.join(constants.HF_HOME, "modules")
        """
    )
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    suite.makepyfile(test_page=example)  # in the same process, which has imported transformers
    (suite.path / "models" / "acme").mkdir(parents=True)
    (suite.path / "models" / "acme" / "mine").symlink_to(BUILT_IN / "tiny" / "bert")
    suite.makeini("[pytest]\nweightwell_repositories = models\n")
    run(suite).assert_outcomes(passed=4)


def test_the_environment_can_last_for_the_session(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import os
        import pytest

        @pytest.fixture(scope="session")
        def config(hf_endpoint):
            from huggingface_hub import hf_hub_download
            return hf_hub_download("tiny/vit", "config.json")

        def test_file(config):
            assert os.path.exists(config)
        """
    )
    suite.makeini("[pytest]\nweightwell_scope = session\n")
    run(suite).assert_outcomes(passed=1)


def test_a_suite_that_uses_no_fixture_imports_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import sys

        def test_modules(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("weightwell")
            heavy = {"weightwell", "weightwell_service", "weightwell_engine", "torch", "numpy", "fastapi", "httpx"}
            assert not heavy & sys.modules.keys()
        """
    )
    run(suite).assert_outcomes(passed=1)


def test_wrong_options_are_errors_that_say_what_is_allowed(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_hub(weightwell_hub): pass")
    suite.makeini("[pytest]\nweightwell_repositories = nowhere\n")
    result = run(suite)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*weightwell_repositories must be a folder of owner/name folders, got *nowhere"])
    suite.makeini("[pytest]\nweightwell_scope = test\n")
    run(suite).stderr.fnmatch_lines(["*weightwell_scope must be one of function, class, *; got 'test'"])
