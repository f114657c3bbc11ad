"""Alerts and dashboard: each query asks for what the service tells, each rule fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.live import ROOT, live_server
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
    """Where each query stands → the query."""
    asked = {rule.get("alert") or f"{rule['record']} {rule.get('labels', '')}": rule["expr"] for rule in rules()}
    for panel in PANELS:
        for target in panel["targets"]:
            asked[f"{panel['title']} {target['refId']}"] = target["expr"]
    for note in DASHBOARD["annotations"]["list"]:
        asked[note["name"]] = note["expr"]
    return {place: query.replace("$__rate_interval", "1m") for place, query in asked.items()}


def parts(node: Any) -> Iterator[Any]:
    """A node of a parsed query, and all below it."""
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if (below := getattr(node, name, None)) is not None:
            yield from parts(below)
    for argument in getattr(node, "args", None) or []:
        yield from parts(argument)


def selectors(node: Any) -> list[Any]:
    return [part for part in parts(node) if isinstance(part, promql_parser.VectorSelector)]


@pytest.fixture(scope="module")
def told() -> dict[str, set[str]]:
    """What a service tells after it was asked for everything once: name of a series → names of its labels."""
    seven, as_png = (ROOT / "docs/seven.png").read_bytes(), {"content-type": "image/png"}
    as_json = {**as_png, "accept": "application/json"}
    with live_server("--body-limit", "10000") as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/encode", content=seven, headers=as_png).status_code == 200
        assert client.post("/reconstruct", content=seven, headers=as_json).status_code == 200
        assert client.post("/decode", json=[0.0, 0.0, 0.0]).status_code == 200
        assert client.post("/encode", content=bytes(10001), headers=as_png).status_code == 413
        scrape = client.get("/metrics").text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    told = {name: names | OF_THE_TARGET for name, names in labels.items()} | OF_PROMETHEUS
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    return told | {name: {"sha256", "figure", *OF_THE_TARGET} for name in recorded}


@pytest.mark.parametrize("place", queries())
def test_query_asks_for_what_there_is(place: str, told: dict[str, set[str]]) -> None:
    query = promql_parser.parse(queries()[place])
    assert selectors(query)
    for selector in selectors(query):
        assert selector.name in told, f"{selector.name} is in no scrape and recorded by no rule"
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= told[selector.name], f"{selector.name} has no label {asked - told[selector.name]}"
    for aggregate in (part for part in parts(query) if isinstance(part, promql_parser.AggregateExpr)):
        below = set().union(*(told[selector.name] for selector in selectors(aggregate)))
        if aggregate.modifier is not None:
            assert set(aggregate.modifier.labels) <= below, f"none below has {set(aggregate.modifier.labels) - below}"


def test_annotations_speak_of_labels_that_the_alert_has(told: dict[str, set[str]]) -> None:
    for rule in rules():
        for sentence in rule.get("annotations", {}).values():
            for label in re.findall(r"\$labels\.(\w+)", sentence):
                below = selectors(promql_parser.parse(rule["expr"]))
                assert label in set().union(*(told[selector.name] for selector in below)), (rule["alert"], label)


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


def test_every_alert_is_seen_firing_in_a_test() -> None:
    tested = [test for path in FOLDER.glob("*_test.yml") for test in yaml.safe_load(path.read_text())["tests"]]
    firing = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert firing == {rule["alert"] for rule in rules() if "alert" in rule}


def test_panels_lie_beside_each_other_and_say_what_they_show() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert max(right for right, _ in cells) < 24, f"{panel['title']} is wider than the dashboard"
        taken |= cells
    for panel in PANELS:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_what_the_dashboard_says_of_alerts_is_true() -> None:
    said = {name for panel in PANELS for name in re.findall(r"Vae[A-Z]\w+", panel["description"])}
    assert said
    assert said <= {rule.get("alert") for rule in rules()}


def test_grafana_finds_its_dashboards_where_they_are_mounted() -> None:
    (provider,) = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/vae.yaml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    mounts = dict(mount.split(":")[1::-1] for mount in compose["services"]["grafana"]["volumes"])
    assert (ROOT / mounts[provider["options"]["path"]] / "vae.json").exists()
    (source,) = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert Path(mounts["/etc/grafana/provisioning"]).name == "provisioning"
