"""The service on a local Ray cluster of node processes, set up as deploy/ray/README.md describes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEPLOY = ROOT / "deploy" / "ray"
HOST = "127.0.0.1"
GCS, DASHBOARD, RAY_CLIENT, HEAD_PROXY, WORKER_PROXY, AGENTS = 9401, 9402, 9403, 9411, 9412, 9421
START_LIMIT_S = 120
Json = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """Node processes of one CPU each, enough for one replica."""

    folder: Path
    environment: dict[str, str]
    services: tuple[str, ...]
    """Base URL of each node's proxy."""
    nodes: tuple[subprocess.Popen[bytes], ...]
    """The head first."""

    def deploy(self, replicas: int | None = None, scaling: Json | None = None, **settings: object) -> None:
        """Run `serve deploy` with deploy/ray/serve.yaml, with `replicas` or changed autoscaling; returns at once."""
        config = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
        config["http_options"]["port"] = HEAD_PROXY
        (application,) = config["applications"]
        application["args"] = {name: str(value) for name, value in settings.items()}
        (deployment,) = application["deployments"]
        if replicas:
            del deployment["autoscaling_config"]
            deployment["num_replicas"] = replicas
        else:
            deployment["autoscaling_config"].update(scaling or {})
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(config))
        self.run("serve", "deploy", str(file), "--address", f"http://{HOST}:{DASHBOARD}")

    def run(self, command: str, *arguments: str) -> None:
        """Run one of Ray's commands."""
        subprocess.run([BIN / command, *arguments], env=self.environment, cwd=ROOT, check=True, capture_output=True)

    def application(self) -> Json:
        """Return the application's status from Serve's REST API."""
        key = {"authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        response = httpx.get(f"http://{HOST}:{DASHBOARD}/api/serve/applications/", headers=key, timeout=30)
        application: Json = response.raise_for_status().json()["applications"].get("vae", {})
        return application

    def replicas(self) -> dict[int, str]:
        """Return the running replicas: pid → node."""
        deployment = self.application().get("deployments", {}).get("vae", {})
        running = [replica for replica in deployment.get("replicas", ()) if replica["state"] == "RUNNING"]
        return {replica["pid"]: replica["node_id"] for replica in running}

    def wait_for(self, replicas: int) -> None:
        """Wait until exactly so many replicas of the last deployment run, and as many proxies reach them."""
        wait_until(lambda: self.application().get("status") == "RUNNING" and len(self.replicas()) == replicas)
        for url in self.services[:replicas]:
            wait_until(lambda url=url: httpx.get(f"{url}/readyz").is_success)  # type: ignore[misc]

    def actors(self, name: str) -> set[str]:
        """Return the nodes that have actors of a class whose name contains `name`."""
        return {each["node_id"] for each in _listed("actors", self.environment) if name in each["class_name"]}

    def lose(self, node: int) -> None:
        """Kill a node and all of its processes, as when its machine loses power."""
        os.killpg(self.nodes[node].pid, signal.SIGKILL)

    def handled(self, pid: int, request: str) -> int:
        """Return how often `request` is in the access log of a replica."""
        logs = (self.folder / "session_latest" / "logs").glob(f"worker-*-{pid}.err")
        return sum(log.read_text().count(f" {request} ") for log in logs)


@contextmanager
def cluster(nodes: int) -> Iterator[Cluster]:
    """Start a cluster without the service, and stop all of its processes afterwards."""
    defaults = dict(line.split("=", 1) for line in (DEPLOY / "node.env").read_text().splitlines() if line[0] != "#")
    environment = {
        **os.environ,
        **defaults,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(WORKER_PROXY),  # two proxies on one machine need two ports
    }
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        common = ["--block", "--num-cpus=1", f"--object-store-memory={100 * 2**20}", f"--node-ip-address={HOST}"]
        head = ["--head", f"--port={GCS}", f"--temp-dir={folder}", f"--ray-client-server-port={RAY_CLIENT}"]
        head += [f"--dashboard-host={HOST}", f"--dashboard-port={DASHBOARD}"]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for index in range(nodes):
                place = [f"--address={HOST}:{GCS}"] if index else head
                flags = [*place, f"--dashboard-agent-listen-port={AGENTS + index}", *common]
                processes.append(_start(flags, environment, Path(folder) / f"node-{index}.log"))
                wait_until(lambda index=index: len(_listed("nodes", environment)) > index)  # type: ignore[misc]
            ports = (HEAD_PROXY, WORKER_PROXY)[:nodes]
            services = tuple(f"http://{HOST}:{port}" for port in ports)
            yield Cluster(Path(folder), environment, services, tuple(processes))
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
            for process in processes:
                process.wait(60)
            wait_until(lambda: not any(_is_open(port) for port in (GCS, DASHBOARD, HEAD_PROXY, WORKER_PROXY)))


def wait_until(condition: Callable[[], bool], limit: float = START_LIMIT_S) -> None:
    """Check `condition` twice a second; an HTTP error counts as not met."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"The condition was not met within {limit:g} s.")


def _start(flags: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        command = [str(BIN / "ray"), "start", *flags]
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


def _listed(what: str, environment: dict[str, str]) -> list[Json]:
    """Return the nodes or actors that are alive."""
    key = {"authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    response = httpx.get(f"http://{HOST}:{DASHBOARD}/api/v0/{what}", headers=key, timeout=30).raise_for_status()
    return [each for each in response.json()["data"]["result"]["result"] if each["state"] == "ALIVE"]
