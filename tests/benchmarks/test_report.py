import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.figures import InvalidLoad, against, rate_of
from benchmarks.rows import Row


def measured(ours: int, noop: int, errors: int = 0) -> dict[str, Any]:
    """A round of one load a contender, one second long."""
    return {
        "loads": {
            name: {"decode/32": {"requests": requests, "seconds": 1.0, "p50_ms": 2.0, "p99_ms": 3.0, "errors": errors}}
            for name, requests in (("ours", ours), ("noop", noop))
        }
    }


RATIO = Row("ratio", against(rate_of("ours"), rate_of("noop")), goal=1.4, stretch=2)


def test_ratios_are_those_of_a_round() -> None:
    assert RATIO.values([measured(3000, 1000), {"loads": {}}, measured(1000, 500)]) == [3, 2]


@pytest.mark.parametrize(("value", "reached"), [(1.3, "no"), (1.4, "yes"), (2, "stretch")])
def test_goals_from_below(value: float, reached: str) -> None:
    assert RATIO.reached(value) == reached


@pytest.mark.parametrize(("value", "reached"), [(1.6, "no"), (1.5, "yes"), (1.2, "stretch")])
def test_goals_from_above(value: float, reached: str) -> None:
    assert Row("ratio", RATIO.figure, goal=1.5, stretch=1.2, at_most=True).reached(value) == reached


def test_a_load_with_failures_is_invalid() -> None:
    with pytest.raises(InvalidLoad, match="1 of 3000 requests failed"):
        RATIO.values([measured(3000, 1000, errors=1)])


def test_the_page_tells_medians_and_goals(tmp_path: Path) -> None:
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
    assert "| … against FastAPI doing nothing | 3 | 2 to 9 | ≥ 1.4 | ≥ 2 | stretch |" in page
    assert "| vae-serve | 3,000 | 2,000 to 9,000 | 2 | 3 | 0 |" in page
    assert "- ray, round 1: it did not start" in page
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")
