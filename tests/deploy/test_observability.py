"""Alerts and dashboard: queries use metrics and labels that exist, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.live import ROOT
from tests.service.running import running
from tests.tools import tool

pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy/observability"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())
DASHBOARD = json.loads((FOLDER / "grafana/dashboards/vae.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}
OF_THE_TARGET = {"job", "instance"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def queries() -> dict[str, str]:
    """Each query by the alert, record, panel or annotation that has it."""
    found = {rule.get("alert") or f"{rule['record']} {rule.get('labels', '')}": rule["expr"] for rule in rules()}
    for panel in PANELS:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for note in DASHBOARD["annotations"]["list"]:
        found[note["name"]] = note["expr"]
    return {place: query.replace("$__rate_interval", "1m") for place, query in found.items()}


def parts(node: Any) -> Iterator[Any]:
    """A node of a parsed query and all of its descendants."""
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if (below := getattr(node, name, None)) is not None:
            yield from parts(below)
    for argument in getattr(node, "args", None) or []:
        yield from parts(argument)


def selectors(node: Any) -> list[Any]:
    return [part for part in parts(node) if isinstance(part, promql_parser.VectorSelector)]


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """Name of each series that a service or a rule has → its label names."""
    seven, as_png = (ROOT / "docs/seven.png").read_bytes(), {"content-type": "image/png"}
    as_json = {**as_png, "accept": "application/json"}
    with running(body_limit=10000) as service:
        client = service.client
        assert client.post("/encode", content=seven, headers=as_png).status_code == 200
        assert client.post("/reconstruct", content=seven, headers=as_json).status_code == 200
        assert client.post("/decode", json=[0.0, 0.0, 0.0]).status_code == 200
        assert client.post("/encode", content=bytes(10001), headers=as_png).status_code == 413
        scrape = client.get("/metrics").text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    scraped = {name: names | OF_THE_TARGET for name, names in labels.items()} | OF_PROMETHEUS
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    return scraped | {name: {"sha256", "figure", *OF_THE_TARGET} for name in recorded}


@pytest.mark.parametrize("place", queries())
def test_query_uses_existing_series_and_labels(place: str, series: dict[str, set[str]]) -> None:
    query = promql_parser.parse(queries()[place])
    assert selectors(query)
    for selector in selectors(query):
        assert selector.name in series, f"{selector.name} is in no scrape and recorded by no rule"
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= series[selector.name], f"{selector.name} has no label {used - series[selector.name]}"
    for aggregate in (part for part in parts(query) if isinstance(part, promql_parser.AggregateExpr)):
        below = set().union(*(series[selector.name] for selector in selectors(aggregate)))
        if aggregate.modifier is not None:
            assert set(aggregate.modifier.labels) <= below, f"no operand has {set(aggregate.modifier.labels) - below}"


def test_annotations_use_labels_of_the_alert(series: dict[str, set[str]]) -> None:
    for rule in rules():
        for sentence in rule.get("annotations", {}).values():
            for label in re.findall(r"\$labels\.(\w+)", sentence):
                below = selectors(promql_parser.parse(rule["expr"]))
                assert label in set().union(*(series[selector.name] for selector in below)), (rule["alert"], label)


def promtool(*arguments: str) -> str:
    found = tool("promtool", "prometheus")
    run = subprocess.run([found, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_configuration_and_rules_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", "rules.yml")


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*_test.yml")))
def test_rules_fire_when_they_should(file: str) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def test_every_alert_fires_in_a_test() -> None:
    tested = [test for path in FOLDER.glob("*_test.yml") for test in yaml.safe_load(path.read_text())["tests"]]
    firing = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert firing == {rule["alert"] for rule in rules() if "alert" in rule}


def test_panels_do_not_overlap_and_have_descriptions_and_units() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        position = panel["gridPos"]
        cells = {
            (position["x"] + right, position["y"] + down)
            for right in range(position["w"])
            for down in range(position["h"])
        }
        assert not cells & taken, f"{panel['title']} overlaps another panel"
        assert max(right for right, _ in cells) < 24, f"{panel['title']} is wider than the dashboard"
        taken |= cells
    for panel in PANELS:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_the_dashboard_names_existing_alerts() -> None:
    named = {name for panel in PANELS for name in re.findall(r"Vae[A-Z]\w+", panel["description"])}
    assert named
    assert named <= {rule.get("alert") for rule in rules()}


def test_grafana_s_dashboards_are_mounted() -> None:
    (provider,) = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/vae.yaml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    mounts = dict(mount.split(":")[1::-1] for mount in compose["services"]["grafana"]["volumes"])
    assert (ROOT / mounts[provider["options"]["path"]] / "vae.json").exists()
    (source,) = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert Path(mounts["/etc/grafana/provisioning"]).name == "provisioning"
