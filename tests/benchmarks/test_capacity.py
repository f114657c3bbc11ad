"""The settings of the deployment against the tables of docs/capacity.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from service.processes.server import THREADS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PODS = ROOT / "deploy" / "kubernetes"


def rows(head: str) -> Iterator[list[str]]:
    """Of the table that begins with `head`."""
    _, _, table = (ROOT / "docs" / "capacity.md").read_text().partition(f"\n| {head} ")
    for line in table.partition("\n\n")[0].splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def mib(quantity: str) -> float:
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]


def test_pods_have_the_memory_that_was_measured() -> None:
    pod = yaml.safe_load((PODS / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    measured = {
        (what, int(at_once)): (float(idle), float(peak)) for what, at_once, idle, peak in rows("requests | at once")
    }
    _, usual = measured["/decode on 128 connections", 128]
    idle, peak = measured["a picture of 16 million pixels", 1]
    assert 1 < mib(resources["requests"]["memory"]) / usual < 1.25
    settings = dict(line.split("=", 1) for line in (PODS / "settings.env").read_text().split())
    bodies = int(settings["VAE_QUEUE_LIMIT"]) * int(settings["VAE_BODY_LIMIT"]) / 2**20
    assert int(settings["VAE_IMAGE_PIXEL_LIMIT"]) == 16e6
    most = usual + THREADS * (peak - idle) + bodies
    assert most + mib(pod["volumes"][0]["emptyDir"]["sizeLimit"]) < mib(resources["limits"]["memory"])


def test_the_autoscaler_targets_the_planned_utilisation() -> None:
    (metric,) = yaml.safe_load((PODS / "autoscaler.yaml").read_text())["spec"]["metrics"]
    in_flight = {utilisation: float(mean) for utilisation, mean in rows("utilisation | `vae_requests_in_flight`, mean")}
    assert float(metric["pods"]["target"]["averageValue"]) == pytest.approx(in_flight["0.70"], rel=0.25)
