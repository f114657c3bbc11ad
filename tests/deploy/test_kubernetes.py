"""The manifests match the API's schemas and the settings of the service."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from service.app import create_app
from service.processes.supervisor import STUCK_AFTER_S
from service.settings import PREFIX, Settings, read_settings
from tests.live import ROOT
from tests.tools import tool

FOLDER = ROOT / "deploy/kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS = {(each := yaml.safe_load((FOLDER / name).read_text()))["kind"]: each for name in KUSTOMIZATION["resources"]}
POD = OBJECTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
OLDEST = "1.30"
"""The first version in which preStop `sleep` is on by default."""
NOT_OF_THE_API = {"ServiceMonitor"}
Objects = dict[str, dict[str, Any]]


def environment() -> dict[str, str]:
    """The variables of the ConfigMap."""
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    (file,) = generator["envs"]
    return dict(line.split("=", 1) for line in (FOLDER / file).read_text().split())


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a pod."""
    for name, value in {**environment(), "VAE_API_KEYS": "a key"}.items():
        monkeypatch.setenv(name, value)
    return read_settings([])


@pytest.mark.parametrize("kind", sorted(OBJECTS.keys() - NOT_OF_THE_API))
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_object_matches_its_schema(kind: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


def test_the_monitor_uses_fields_of_the_operator() -> None:
    """Its schema is part of the Prometheus Operator; these are the fields in use."""
    monitor = OBJECTS["ServiceMonitor"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"].keys() == {"selector", "endpoints"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint.keys() == {"port", "path", "interval"}
    assert re.fullmatch(r"\d+s", endpoint["interval"])
    assert endpoint["port"] in {port["name"] for port in OBJECTS["Service"]["spec"]["ports"]}


def built(folder: Path) -> Objects:
    """The output of kustomize for a folder: kind → object."""
    command = [tool("kubectl", "kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


def assert_valid(objects: Objects) -> None:
    for kind in objects.keys() - NOT_OF_THE_API:
        kubernetes_validate.validate(objects[kind], OLDEST, strict=True)


def test_kustomize_builds_the_base() -> None:
    objects = built(FOLDER)
    assert objects.keys() == {*OBJECTS, "ConfigMap"}
    assert_valid(objects)
    assert objects["ConfigMap"]["data"] == environment()
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    (image,) = KUSTOMIZATION["images"]
    assert container["image"] == f"{image['name']}:{image['newTag']}"
    name = objects["ConfigMap"]["metadata"]["name"]
    assert name.startswith("vae-settings-")
    assert container["envFrom"] == [{"configMapRef": {"name": name}}]


def test_tracing_sets_and_allows_the_collector(tmp_path: Path) -> None:
    base = os.path.relpath(FOLDER, tmp_path.resolve())
    overlay = {"resources": [base], "components": [f"{base}/tracing"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    objects = built(tmp_path)
    assert_valid(objects)
    settings = objects["ConfigMap"]["data"]
    assert settings.items() > environment().items()
    assert settings["VAE_TRACING"] == "true"
    collector = httpx.URL(settings["OTEL_EXPORTER_OTLP_ENDPOINT"])
    to_collector, to_names = objects["NetworkPolicy"]["spec"]["egress"]
    assert to_collector["ports"] == [{"port": collector.port}]
    assert {port["port"] for port in to_names["ports"]} == {53}
    assert objects["NetworkPolicy"]["spec"]["ingress"] == OBJECTS["NetworkPolicy"]["spec"]["ingress"]


def test_every_manifest_is_listed() -> None:
    expected = {*KUSTOMIZATION["resources"], "kustomization.yaml", "adapter.yaml"}
    assert expected == {path.name for path in FOLDER.glob("*.yaml")}


def test_every_variable_is_a_valid_setting(settings: Settings) -> None:
    named = {*environment(), *(variable["name"] for variable in CONTAINER["env"])}
    assert named <= {PREFIX + name.upper() for name in Settings.model_fields}
    assert settings.host == "0.0.0.0"
    assert [key.get_secret_value() for key in settings.api_keys] == ["a key"]


def test_settings_and_keys_reach_the_container() -> None:
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert CONTAINER["envFrom"] == [{"configMapRef": {"name": generator["name"]}}]
    (keys,) = CONTAINER["env"]
    assert keys["valueFrom"]["secretKeyRef"] == {"name": "vae-api-keys", "key": "VAE_API_KEYS"}  # not optional
    # a Service named vae would set VAE_PORT and others, with which the service does not start
    assert POD["spec"]["enableServiceLinks"] is False


def test_ports_match(settings: Settings) -> None:
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": settings.port}]
    (port,) = OBJECTS["Service"]["spec"]["ports"]
    assert (port["name"], port["targetPort"]) == ("http", "http")
    (rule,) = OBJECTS["NetworkPolicy"]["spec"]["ingress"]
    assert rule["ports"] == [{"port": "http"}]
    (endpoint,) = OBJECTS["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["port"] == "http"


def test_probes_use_routes_of_the_service() -> None:
    routes = {getattr(route, "path", "") for route in create_app(read_settings([])).api.routes}
    probes = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    assert {probe["port"] for probe in probes.values()} == {"http"}
    (endpoint,) = OBJECTS["ServiceMonitor"]["spec"]["endpoints"]
    assert {*(probe["path"] for probe in probes.values()), endpoint["path"]} <= routes


def test_the_grace_period_covers_the_drain(settings: Settings) -> None:
    wait = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    probe = CONTAINER["readinessProbe"]
    assert wait >= probe["periodSeconds"] * probe["failureThreshold"], "proxies still send it requests"
    assert POD["spec"]["terminationGracePeriodSeconds"] > wait + settings.drain_time + STUCK_AFTER_S


def test_the_supervisor_replaces_a_stuck_worker_before_the_liveness_probe_fails() -> None:
    probe = CONTAINER["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > STUCK_AFTER_S, "the supervisor must be first"


def test_selectors_find_the_pods() -> None:
    labels = POD["metadata"]["labels"].items()
    for kind, path in (
        ("Deployment", ("selector", "matchLabels")),
        ("Service", ("selector",)),
        ("PodDisruptionBudget", ("selector", "matchLabels")),
        ("NetworkPolicy", ("podSelector", "matchLabels")),
    ):
        selector: Any = OBJECTS[kind]["spec"]
        for step in path:
            selector = selector[step]
        assert selector, kind
        assert selector.items() <= labels, kind
    monitored = OBJECTS["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= OBJECTS["Service"]["metadata"]["labels"].items()
    for spread in POD["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels
    target = OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", OBJECTS["Deployment"]["metadata"]["name"])
    assert "replicas" not in OBJECTS["Deployment"]["spec"], "each apply would undo the autoscaler"


def test_the_autoscaler_uses_the_metric_of_the_adapter() -> None:
    (metric,) = OBJECTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (rule,) = yaml.safe_load((FOLDER / "adapter.yaml").read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"] == "vae_requests_in_flight"
    assert rule["seriesQuery"].startswith("vae_requests_in_flight{")


def test_pods_have_no_privileges() -> None:
    pod, own = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"]) == (True, 10001)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["spec"]["automountServiceAccountToken"] is False
    (mount,) = CONTAINER["volumeMounts"]
    assert mount["mountPath"] == "/tmp"
    assert OBJECTS["NetworkPolicy"]["spec"]["egress"] == []
    assert {"requests", "limits"} == CONTAINER["resources"].keys()
