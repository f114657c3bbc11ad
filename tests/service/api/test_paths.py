"""GET /interpolate and /traverse: what POST takes as a document, as a query."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.service.problems import problem

PATH = {"from": [-1, 0.5, 1e-3], "to": [1, 1, 0]}
GRID = {"at": [0, 0.5, -2], "dimensions": [2, 0]}


def query(document: dict[str, Any]) -> dict[str, str]:
    return {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in document.items()
    }


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/interpolate", PATH),
        ("/interpolate", {**PATH, "steps": 5, "method": "spherical"}),
        ("/traverse", GRID),
        ("/traverse", {"at": [1, 2, 3], "dimensions": [1], "low": -1.5, "high": 2, "steps": 4}),
    ],
)
@pytest.mark.parametrize("accept", ["image/png", "application/json", "application/x-npy"])
def test_it_is_the_answer_to_post(client: httpx.Client, path: str, document: dict[str, Any], accept: str) -> None:
    for png in ({}, {"scale": "2", "columns": "3"}):
        posted = client.post(path, params=png, json=document, headers={"accept": accept})
        got = client.get(path, params=query(document) | png, headers={"accept": accept})
        assert got.status_code == posted.status_code == 200
        assert got.headers["content-type"] == posted.headers["content-type"] == accept
        assert got.content == posted.content


@pytest.mark.parametrize(
    ("path", "asked", "pointer", "detail"),
    [
        ("/interpolate", {"to": "0,0,0"}, "/from", "from: Field required."),
        ("/interpolate", {**query(PATH), "from": "1,2"}, "/from", "from has 2 numbers; 3 are expected."),
        ("/interpolate", {**query(PATH), "to": ""}, "/to/0", "to.0: Input should be a valid number"),
        ("/interpolate", {**query(PATH), "to": "0,NaN,0"}, "/to/1", "to.1: Input should be a finite number"),
        ("/interpolate", {**query(PATH), "to": "0,0,1e7"}, "/to/2", "to.2: Input should be less than or equal"),
        ("/interpolate", {**query(PATH), "start": "0,0,0"}, "/start", "start: This route has no such parameter."),
        ("/interpolate", {**query(PATH), "steps": "1"}, "/steps", "steps: "),
        ("/traverse", {"at": "0,0,0"}, "/dimensions", "dimensions: Field required."),
        ("/traverse", {**query(GRID), "at": "0"}, "/at", "at has 1 numbers; 3 are expected."),
        ("/traverse", {**query(GRID), "dimensions": "0,3"}, "/dimensions/1", "dimensions.1 is 3; distinct ones"),
        ("/traverse", {**query(GRID), "dimensions": "0,1,2"}, "/dimensions", "dimensions: List should have at most 2"),
        ("/traverse", {**query(GRID), "dimensions": "-1"}, "/dimensions/0", "dimensions.0: "),
        ("/traverse", {**query(GRID), "low": "inf"}, "/low", "low: "),
    ],
)
def test_wrong_queries(client: httpx.Client, path: str, asked: dict[str, str], pointer: str, detail: str) -> None:
    (error,) = problem(client.get(path, params=asked), 422)["errors"]
    assert (error["in"], error["pointer"]) == ("query", pointer)
    assert error["detail"].startswith(detail)
