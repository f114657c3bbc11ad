"""The simulation against closed forms, the load against a service, and the page against what was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import yaml

from benchmarks import capacity_load, capacity_page, capacity_plan
from benchmarks.calls import CALLS
from benchmarks.capacity_simulation import RollOut, Service, Simulation
from service.server import THREADS
from tests.live import live_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "capacity.md").read_text()
RESULTS = json.loads((ROOT / "benchmarks" / "capacity.json").read_text())
ONE_BY_ONE = Service(rows=(1,), busy=(0.001,), compute=(0.001,), batch_limit=1, queue_limit=10**9)
BATCHES = Service(rows=(1, 64), busy=(0.001, 0.008), compute=(0.001, 0.008), wake=0.0001, queue_limit=100)


@pytest.mark.parametrize("utilisation", [0.3, 0.7])
@pytest.mark.parametrize("workers", [1, 4])
def test_without_batches_it_is_a_queue_of_m_d_1(utilisation: float, workers: int) -> None:
    """Pollaczek (1930), Khinchine (1932); a Poisson process shared out at random is one again for each worker."""
    outcome = Simulation(ONE_BY_ONE, utilisation * 1000 * workers, workers, choices=1).run(120 / workers)
    expected = 0.001 * (1 + utilisation / (2 * (1 - utilisation)))
    assert np.mean(outcome.seconds) == pytest.approx(expected, rel=0.03)


def test_a_worker_with_too_much_answers_at_its_best_rate_and_refuses_the_rest() -> None:
    outcome = Simulation(BATCHES, 2 * BATCHES.best_rate, 1, choices=1).run(4)
    assert outcome.refused / outcome.requests == pytest.approx(0.5, abs=0.02)
    assert outcome.percentile(100) < 3 * BATCHES(64), "its queue holds less than two batches"
    assert not outcome.lost


def test_an_idle_worker_wakes_and_computes_what_has_come_meanwhile() -> None:
    outcome = Simulation(BATCHES, 1, 1, choices=1).run(50)
    assert outcome.percentile(50) == pytest.approx(0.0011)


def test_requests_that_come_while_others_are_read_join_them_and_are_answered_in_turn() -> None:
    """Of a batch's eight milliseconds three are for reading, and three for answering."""
    service = Service(rows=(1, 64), busy=(0.008, 0.008), compute=(0.002, 0.002))
    simulation = Simulation(service, rate=1, workers=1, choices=1)
    gaps = iter([1.0, 0.001, 0.004])
    simulation._random = Mock(expovariate=lambda rate: next(gaps, 9), random=lambda: 0.5)
    first, joins, next_batch = 0.0065, 0.007, 0.011
    assert simulation.run(5).seconds == pytest.approx([joins, first, next_batch])


def test_the_better_of_two_waits_less_than_a_random_one() -> None:
    rate = 0.8 * 10 * BATCHES.best_rate
    random, two = (Simulation(BATCHES, rate, 10, choices).run(0.5).percentile(99) for choices in (1, 2))
    assert two < 0.9 * random


@pytest.mark.parametrize(("wait", "answered"), [(0.5, True), (0.2, True), (0, False)])
def test_a_roll_out_loses_what_the_load_balancer_sends_to_who_has_gone(wait: float, answered: bool) -> None:
    plan = RollOut(begin=1, start=0.3, heard=0.2, wait=wait)
    rate = 0.5 * 4 * BATCHES.best_rate
    outcome = Simulation(BATCHES, rate, 4, choices=1).run(4, plan)
    failed = outcome.lost + outcome.refused
    # until it hears, the load balancer has one worker more, and sends one request of five to the old one
    assert failed == 0 if answered else failed == pytest.approx(4 * plan.heard * rate / 5, rel=0.1)
    assert outcome.ended == pytest.approx(1 + 4 * 0.5 + wait, abs=0.05)


def test_the_load_comes_as_often_as_it_should_and_sees_what_fails() -> None:
    with live_server() as server:
        load = capacity_load.send(server.port, CALLS["decode"], 200, 1, watch=True)
        assert load.rate == len(load.seconds) == pytest.approx(200, rel=0.3)
        assert load.in_flight
        assert load.failed == 0
        nowhere = capacity_load.send(server.port, replace(CALLS["decode"], path="/nowhere"), 50, 0.5)
        assert nowhere.failed == len(nowhere.seconds) > 0


def test_the_pages_tables_are_those_of_the_module() -> None:
    assert capacity_page.render(PAGE, RESULTS) == PAGE
    assert {name for _, name, _ in capacity_page.BLOCK.findall(PAGE)} == capacity_page.TABLES.keys()


def test_what_was_simulated_is_what_the_simulation_gives() -> None:
    service, simulation = capacity_plan.service_of(RESULTS), RESULTS["simulation"]
    for load, told in zip(RESULTS["poisson"], simulation["validation"], strict=True):
        assert capacity_plan.told(service, load["rate"], 1, 1, 20) == pytest.approx(told)
    planned = [row for row in simulation["waiting"] if row["utilisation"] == capacity_plan.PLANNED]
    assert [row["policy"] for row in planned] == [*capacity_plan.POLICIES]
    rate = capacity_plan.PLANNED * capacity_plan.WORKERS * service.best_rate
    for row, choices in zip(planned, capacity_plan.POLICIES.values(), strict=True):
        told = {name: row[name] for name in ("p50_s", "p99_s", "in_flight", "refused")}
        assert capacity_plan.told(service, rate, capacity_plan.WORKERS, choices, 2) == pytest.approx(told)
    last = simulation["roll_out"][-1]
    assert capacity_plan.rolled_out(service, RESULTS["bench"]["start_s"], last["wait_s"]) == pytest.approx(last)


def test_figures_stand_in_tables_alone() -> None:
    text = capacity_page.BLOCK.sub("", PAGE)
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|10[³⁵⁷]", "", text, flags=re.DOTALL)
    assert not re.findall(r".*\d.*", prose)


def test_pods_have_the_memory_that_was_measured() -> None:
    deployment = yaml.safe_load((capacity_plan.PODS / "deployment.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    usual, picture = (RESULTS["memory"][row] for row in (0, 3))
    assert 1 < mib(resources["requests"]["memory"]) / usual["peak_mib"] < 1.25
    settings = dict(flag.split("=") for flag in capacity_plan.pod_flags())
    bodies = int(settings["--queue-limit"]) * int(settings["--body-limit"]) / 2**20
    most = usual["peak_mib"] + THREADS * (picture["peak_mib"] - picture["idle_mib"]) + bodies
    assert (picture["what"], picture["at_once"]) == ("a picture of 16 million pixels", 1)
    assert int(settings["--image-pixel-limit"]) == 16e6
    assert most + mib(pod["volumes"][0]["emptyDir"]["sizeLimit"]) < mib(resources["limits"]["memory"])


def mib(quantity: str) -> float:
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]


def test_the_autoscaler_aims_at_the_planned_utilisation() -> None:
    autoscaler = yaml.safe_load((capacity_plan.PODS / "autoscaler.yaml").read_text())
    (metric,) = autoscaler["spec"]["metrics"]
    target = float(metric["pods"]["target"]["averageValue"])
    best = capacity_plan.service_of(RESULTS).best_rate
    told = {load["rate"] / best: load["told_in_flight"] for load in RESULTS["poisson"]}
    planned = min(told, key=lambda share: abs(share - capacity_plan.PLANNED))
    assert target == pytest.approx(told[planned], rel=0.25)
