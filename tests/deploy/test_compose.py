"""compose.yaml matches its schema and the settings; the proxy works with the service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.processes.supervisor import STUCK_AFTER_S
from service.settings import PREFIX, Settings, read_settings
from tests.live import ROOT, free_port
from tests.service.running import running
from tests.tools import tool

pytestmark = pytest.mark.slow

FILE = ROOT / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CADDYFILE = (ROOT / "deploy/proxy/Caddyfile").read_text()


def test_file_matches_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES["vae"]["environment"]
    assert environment.keys() <= {PREFIX + name.upper() for name in Settings.model_fields}
    for name, value in environment.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    settings = read_settings([])
    assert settings.api_keys == ()
    assert f"dynamic a vae {settings.port}" in CADDYFILE
    assert SERVICES["vae"]["expose"] == [str(settings.port)]
    (scraped,) = yaml.safe_load((ROOT / "deploy/observability/prometheus.yml").read_text())["scrape_configs"]
    assert scraped["dns_sd_configs"][0]["names"] == ["vae"]
    assert scraped["dns_sd_configs"][0]["port"] == settings.port
    grace = float(SERVICES["vae"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_time + STUCK_AFTER_S


def test_limits_and_memory_are_those_of_the_pod() -> None:
    """tests/benchmarks/test_capacity.py checks the pod's."""
    lines = (ROOT / "deploy/kubernetes/settings.env").read_text().split()
    limits = dict(line.split("=") for line in lines if "_LIMIT=" in line)
    own = SERVICES["vae"]["environment"]
    assert {name: value for name, value in own.items() if name.endswith("_LIMIT")} == limits
    pod = yaml.safe_load((ROOT / "deploy/kubernetes/deployment.yaml").read_text())["spec"]["template"]["spec"]
    (gibibytes,) = re.findall(r"^\$\{MEMORY:-(\d+)g\}$", SERVICES["vae"]["mem_limit"])
    assert f"{gibibytes}Gi" == pod["containers"][0]["resources"]["limits"]["memory"]
    (volume,) = pod["volumes"]
    (tmpfs,) = SERVICES["vae"]["tmpfs"]
    assert f"size={volume['emptyDir']['sizeLimit'].removesuffix('i').lower()}," in tmpfs


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_read_only_and_have_no_capabilities(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else [])
    assert "privileged" not in service


def test_only_the_proxy_is_reachable_from_outside() -> None:
    assert "ports" not in SERVICES["vae"]
    assert SERVICES["vae"]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["profiles"] == ["observability"]
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"]), name


def test_mounted_paths_exist() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    for source, _, *mode in (mount.split(":") for mount in mounts):
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], source
        else:
            assert source in COMPOSE["volumes"], source


def test_image_has_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert SERVICES["vae"]["image"] == f"vae-service:{version}"
    kustomization = yaml.safe_load((ROOT / "deploy/kubernetes/kustomization.yaml").read_text())
    assert kustomization["images"] == [{"name": "vae-service", "newTag": version}]
    assert f"ARG VERSION={version}" in (ROOT / "Dockerfile").read_text()


def caddy() -> str:
    return tool("caddy", "caddy")


@contextmanager
def proxied(folder: Path, upstream: int) -> Iterator[httpx.Client]:
    """A client of compose.yaml's proxy for the service on local port `upstream`."""
    port, file = free_port(), folder / "Caddyfile"
    assert CADDYFILE.count("dynamic a vae 8000") == 1
    file.write_text(CADDYFILE.replace("dynamic a vae 8000", f"dynamic a localhost {upstream}"))
    environment = {**os.environ, "SITE": f":{port}", "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [caddy(), "run", "--config", str(file)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    client.get("/livez")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def test_proxy_forwards_everything_except_the_metrics(tmp_path: Path) -> None:
    picture = {"content-type": "image/png", "x-request-id": "from-outside"}
    seven = (ROOT / "docs/seven.png").read_bytes()
    with running() as service, proxied(tmp_path, service.port) as client:
        proxied_response = client.post("/encode", content=seven, headers=picture).raise_for_status()
        direct = service.client.post("/encode", content=seven, headers=picture).raise_for_status()
        assert proxied_response.json() == direct.json()
        assert proxied_response.headers["x-request-id"] == "from-outside"
        assert client.post("/decode", json=[0.0, 0.0, 0.0]).content.startswith(b"\x89PNG")
        assert "<html" in client.get("/").text
        assert client.post("/encode", content=b"no picture", headers=picture).status_code == 400
        assert service.client.get("/metrics").status_code == 200
        assert client.get("/metrics").status_code == 404


def test_a_host_name_turns_tls_on() -> None:
    def adapted(site: str) -> str:
        command = [caddy(), "adapt", "--config", str(ROOT / "deploy/proxy/Caddyfile")]
        return subprocess.run(
            command, env={**os.environ, "SITE": site}, check=True, capture_output=True, text=True
        ).stdout

    assert '":443"' in adapted("vae.example.org")
    assert "vae.example.org" in adapted("vae.example.org")
    assert '":443"' not in adapted(":80")
    assert SERVICES["proxy"]["environment"] == {"SITE": "${SITE:-:80}"}
