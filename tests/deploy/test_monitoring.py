"""The alerts and the dashboard: their expressions are valid, and their metrics are those of a running service."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
ALERTS: Any = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
DASHBOARD: Any = json.loads((FOLDER / "dashboard.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = [each["expr"] for each in (*RULES, *TARGETS)]


@pytest.fixture(scope="module")
def present(http: httpx.Client) -> set[str]:
    """The names of the samples of a service that has served a file and refused a request."""
    assert http.get("/init?shape=4&scheme=normal").status_code == 200
    assert http.get("/init?shape=4&scheme=absent").status_code == 422
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {sample.name for family in families for sample in family.samples}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_valid_and_its_metrics_exist(expression: str, present: set[str]) -> None:
    promql_parser.parse(expression)
    named = set(re.findall(r"weightwell_\w+", expression))
    assert named
    assert named <= present


def test_every_alert_has_a_name_a_severity_and_a_summary() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}
    assert all(rule["annotations"]["summary"].endswith(".") for rule in RULES)


def test_the_panels_have_numbers_of_their_own_and_a_place_each() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
