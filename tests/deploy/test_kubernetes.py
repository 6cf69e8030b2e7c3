"""The manifests for Kubernetes: each against the schema of its kind, and every reference of one to another."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from weightwell_service.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))
RESOURCES = sorted((FOLDER / "base").glob("*.yaml"))
RESOURCES.remove(FOLDER / "base" / "kustomization.yaml")
VERSIONS = ("1.31", "1.37")  # the oldest and the newest that docs/deployment.md names

GIB = 2**30


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


BASE = {resource["kind"]: resource for resource in map(load, RESOURCES)}
POD = BASE["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
ENVIRONMENT = {each["name"]: each.get("value") for each in CONTAINER["env"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", RESOURCES, ids=name_of)
def test_a_resource_has_the_schema_of_its_kind(path: Path, version: str) -> None:
    assert kubernetes_validate.validate(load(path), version, strict=True) == version


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=name_of)
def test_a_kustomization_names_what_exists_and_its_whole_folder(path: Path) -> None:
    found = load(path)
    named = [*found.get("resources", []), *found.get("components", [])]
    assert all((path.parent / each).exists() for each in named)
    other = {"kustomization.yaml", "prometheus-adapter.yaml"}
    assert {each.name for each in path.parent.glob("*.yaml")} - other == {each for each in named if "/" not in each}


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=name_of)
def test_a_patch_is_for_a_resource_of_the_base(path: Path) -> None:
    targets = [patch["target"] for patch in load(path).get("patches", [])]
    assert all(BASE[target["kind"]]["metadata"]["name"] == target["name"] for target in targets)


def test_every_selector_finds_the_pods() -> None:
    selectors = [
        BASE["Deployment"]["spec"]["selector"]["matchLabels"],
        BASE["Service"]["spec"]["selector"],
        BASE["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        BASE["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert selectors == [POD["metadata"]["labels"]] * 5


def test_the_monitor_selects_the_service_and_its_port() -> None:
    monitor = load(FOLDER / "components/service-monitor/service-monitor.yaml")["spec"]
    pairs = load(FOLDER / "base/kustomization.yaml")["labels"][0]["pairs"]
    assert monitor["selector"]["matchLabels"] == pairs  # the labels that kustomize gives to the Service
    assert monitor["endpoints"][0]["port"] == BASE["Service"]["spec"]["ports"][0]["name"]


def test_every_port_is_that_of_the_image() -> None:
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == int(re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(), re.M)[0])
    probes = [CONTAINER[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")]
    policy = BASE["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"]
    assert {*probes, policy, BASE["Service"]["spec"]["ports"][0]["targetPort"]} == {port["name"]}


def test_the_autoscaler_scales_the_deployment() -> None:
    target = BASE["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = BASE["Deployment"]
    assert (target["apiVersion"], target["kind"]) == (deployment["apiVersion"], deployment["kind"])
    assert target["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # each apply would undo the autoscaler


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=name_of)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    known = {f"WEIGHTWELL_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bWEIGHTWELL_[A-Z_]*[A-Z]\b", path.read_text())) <= known


def test_the_memory_is_the_budget_and_a_gibibyte() -> None:
    limit = CONTAINER["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) * GIB == int(ENVIRONMENT["WEIGHTWELL_MAX_RESIDENT_BYTES"]) + GIB
    assert CONTAINER["resources"]["requests"]["memory"] == limit


def test_a_pod_has_time_to_drain_and_to_end_its_responses() -> None:
    seconds = sum(int(ENVIRONMENT[f"WEIGHTWELL_{name}"]) for name in ("DRAIN_SECONDS", "SHUTDOWN_TIMEOUT"))
    assert POD["spec"]["terminationGracePeriodSeconds"] >= seconds + 10


def test_the_drain_is_longer_than_readiness_takes_to_fail() -> None:
    probe = CONTAINER["readinessProbe"]
    assert int(ENVIRONMENT["WEIGHTWELL_DRAIN_SECONDS"]) >= 2 * probe["periodSeconds"] * probe["failureThreshold"]


def test_a_pod_is_restricted() -> None:
    user, group = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M)[0]
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["runAsGroup"]) == (True, int(user), int(group))
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert [each["name"] for each in CONTAINER["volumeMounts"]] == [each["name"] for each in POD["spec"]["volumes"]]


# kubectl -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def production() -> dict[str, Any]:
    """The resources of the overlay, by kind, as kubectl builds them."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(FOLDER / "overlays" / "production")]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {resource["kind"]: resource for resource in yaml.safe_load_all(built)}


def test_what_kubectl_builds_has_the_schemas_of_its_kinds(production: dict[str, Any]) -> None:
    built_in = [each for each in production.values() if each["kind"] != "ServiceMonitor"]
    assert [kubernetes_validate.validate(each, VERSIONS[0], strict=True) for each in built_in] == [VERSIONS[0]] * 6


def test_the_tokens_are_mounted_where_the_setting_says(production: dict[str, Any]) -> None:
    pod = production["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    mount = next(each for each in container["volumeMounts"] if each["name"] == "tokens")
    assert Path(environment["WEIGHTWELL_TOKENS_FILE"]).parent == Path(mount["mountPath"])
    assert {"name": "tokens", "secret": {"secretName": "weightwell-tokens", "defaultMode": 0o440}} in pod["volumes"]


def test_the_metric_of_the_autoscaler_is_that_of_the_adapter(production: dict[str, Any]) -> None:
    (metric,) = production["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (rule,) = load(FOLDER / "components/bytes/prometheus-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].startswith("weightwell_drawn_bytes_total{")
