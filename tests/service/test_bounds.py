"""Numbers at and beyond their bounds."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.service.api.requests import (
    JSON,
    NPY,
    post,
)
from tests.service.pictures import npy
from tests.service.problems import problem
from tests.service.running import Running, running

TEN_TO_18 = 10**18
WALK = '{"from": [0, 0, 0], "to": [1, 1, 1], "steps": %s}'
LINE = '{"at": [0, 0, 0], "dimensions": %s, "low": %s, "high": %s, "steps": %s}'


@pytest.mark.parametrize(
    ("name", "least", "most", "over"),
    [
        ("n", 1, 20, 413),
        ("seed", 0, 2**64 - 1, 422),
        ("temperature", 0, 100, 422),
        ("columns", 1, 10_000, 422),
        ("scale", 1, 64, 422),
    ],
)
def test_bounds_of_the_query(capped_batch: Running, name: str, least: int, most: int, over: int) -> None:
    def status(value: object) -> int:
        answer = capped_batch.client.get(f"/sample?{name}={value}")
        if answer.status_code == 413:
            assert f"at most {most} " in problem(answer, 413)["detail"]
        elif answer.status_code != 200:
            assert name in problem(answer, 422)["detail"]
        return answer.status_code

    expected = {-1: 422, 0: 200 if least == 0 else 422, least: 200, most: 200, most + 1: over, 10**25: over}
    expected[TEN_TO_18] = 200 if most > TEN_TO_18 else over
    assert {value: status(value) for value in expected} == expected
    for value in ("1e400", "-1e400", "nan", "inf", "0x10", "１", "", "1_0", "1;2", "[1]", "true"):
        assert status(value) in ((200, 422) if value in ("1_0", "true") else (422,)), value


@pytest.fixture(scope="module")
def capped_batch() -> Iterator[Running]:
    with running(batch_limit=20) as service:
        yield service


@pytest.mark.parametrize(
    ("value", "status"),
    [(0, 422), (-1, 422), (1, 422), (2, 200), (20, 200), (21, 413), (TEN_TO_18, 413), ("1e400", 422), ("2.5", 422)],
)
def test_bounds_of_steps(capped_batch: Running, value: object, status: int) -> None:
    for path, body in (("/interpolate", WALK % value), ("/traverse", LINE % ("[0]", -1, 1, value))):
        answer = post(capped_batch.client, path, body, JSON, accept=JSON)
        assert answer.status_code == status
        if status == 422:
            assert "steps" in problem(answer, 422)["detail"]
        elif status == 413:
            assert "at most 20 " in problem(answer, 413)["detail"]


@pytest.mark.parametrize(
    ("value", "status"),
    [(-1, 200), (10**6, 200), (10**6 + 1, 422), (-(10**6) - 1, 422), (TEN_TO_18, 422), ("1e400", 422)],
)
def test_bounds_of_latents(client: httpx.Client, value: object, status: int) -> None:
    bodies = {
        "/decode": f"[0, 0, {value}]",
        "/interpolate": f'{{"from": [0, 0, {value}], "to": [0, 0, 0]}}',
        "/traverse": LINE % ("[0]", value, 10**6, 3),
    }
    for path, body in bodies.items():
        answer = post(client, path, body, JSON)
        assert answer.status_code == status
        said = "" if status == 200 else problem(answer, status)["detail"]
        assert status == 200 or any(bound in said for bound in ("1e+06", "1000000", "finite"))


@pytest.mark.parametrize(
    ("value", "status"), [("[0]", 200), ("[2]", 200), ("[3]", 422), ("[-1]", 422), (f"[{TEN_TO_18}]", 422)]
)
def test_bounds_of_dimensions(client: httpx.Client, value: str, status: int) -> None:
    assert post(client, "/traverse", LINE % (value, -1, 1, 2), JSON).status_code == status


def test_bounds_of_a_batch(capped_batch: Running) -> None:
    for count, status in ((20, 200), (21, 413)):
        assert capped_batch.client.post("/decode", json=[[0, 0, 0]] * count).status_code == status
        assert post(capped_batch.client, "/encode", npy(np.zeros((count, 28, 28))), NPY).status_code == status
