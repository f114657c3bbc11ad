import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.harness.pages import HERE
from benchmarks.report import Row, metrics_of


def measured(ours: int, noop: int, errors: int = 0) -> dict[str, Any]:
    """A round of one load a contender, one second long."""
    return {
        "loads": {
            name: {"decode/32": {"requests": requests, "seconds": 1.0, "p50_ms": 2.0, "p99_ms": 3.0, "errors": errors}}
            for name, requests in (("ours", ours), ("noop", noop))
        }
    }


RATIO = Row("ratio", "ours decode/32", "noop decode/32", goal=1.4, stretch=2)


def test_ratios_are_those_of_a_round() -> None:
    assert RATIO.values([metrics_of(measured(3000, 1000)), {}, metrics_of(measured(1000, 500))]) == [3, 2]


@pytest.mark.parametrize(("value", "reached"), [(1.3, "no"), (1.4, "yes"), (2, "stretch")])
def test_goals_from_below(value: float, reached: str) -> None:
    assert RATIO.reached(value) == reached


@pytest.mark.parametrize(("value", "reached"), [(1.6, "no"), (1.5, "yes"), (1.2, "stretch")])
def test_goals_from_above(value: float, reached: str) -> None:
    assert Row("ratio", RATIO.metric, goal=1.5, stretch=1.2, at_most=True).reached(value) == reached


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    page = (HERE / "serving.md").read_text()
    assert report.render(json.loads((HERE / "results.json").read_text())) == page


def test_the_page_has_medians_and_goals(tmp_path: Path) -> None:
    results = {
        "date": "2026-01-01",
        "machine": "a machine",
        "versions": {"wrk": "4.1.0"},
        "cores": [0, 1],
        "load_average": 0.0,
        "seconds": 4,
        "failures": ["ray, round 1: it did not start"],
        "rounds": [measured(3000, 1000), measured(2000, 1000), measured(9000, 1000)],
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    report.write(tmp_path)
    page = (tmp_path / "serving.md").read_text()
    assert "| … against FastAPI doing nothing | 3 | 2 to 9 | ≥ 2.7 | ≥ 3.5 | yes |" in page
    assert "| vae-serve | 3,000 | 2,000 to 9,000 | 2 | 3 | 0 |" in page
    assert "- ray, round 1: it did not start" in page
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")


def test_a_load_with_failures_makes_its_metrics_invalid(tmp_path: Path) -> None:
    rounds = [metrics_of(measured(3000, 1000)), metrics_of(measured(3000, 1000, errors=1))]
    row = next(row for row in report.GOALS if row.against == "noop decode/32")
    assert report._goal(row, rounds)[1:] == ["invalid: requests failed", "", "≥ 2.7", "≥ 3.5", ""]
    report.draw(rounds, tmp_path / "chart.png")
