import os
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from service.settings import BUNDLED
from tests.live import LiveServer, live_server
from tests.service.pictures import png
from tests.service.running import Running, running
from tests.vae.reference import Reference

ELSEWHERE = os.environ.get("SERVICE_URL")
"""URL of a running service: only the tests of its contract are run, against it."""


class Unseen:
    """Stands for the app of a service in another process; a test that uses it is skipped."""

    def __getattr__(self, name: str) -> Any:
        pytest.skip("This test inspects the process of the service.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if ELSEWHERE:
        contract = [item for item in items if {"client", "served"} & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=[item for item in items if item not in contract])
        items[:] = contract


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    """The service with its default settings."""
    if ELSEWHERE:
        app: Any = Unseen()
        with httpx.Client(base_url=ELSEWHERE, timeout=30, trust_env=False) as client:
            yield Running(app, client, client.base_url.port or 80)
    else:
        with running() as service:
            yield service


@pytest.fixture(scope="session")
def client(served: Running) -> httpx.Client:
    return served.client


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference.read(BUNDLED)


@pytest.fixture(scope="session")
def live() -> Iterator[LiveServer]:
    """The service in a process of its own, whose memory can be measured."""
    with live_server() as server:
        for _ in range(3):  # allocate what is kept
            httpx.post(
                f"{server.url}/encode", content=png(np.zeros((28, 28), np.uint8)), headers={"content-type": "image/png"}
            )
        yield server
