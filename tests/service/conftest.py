import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.settings import BUNDLED
from tests.service.running import Running, running
from tests.vae.reference import Reference

ELSEWHERE = os.environ.get("SERVICE_URL")
"""A service that runs already: with it, the tests of its contract alone are run, and against it."""


class Unseen:
    """The inside of a service elsewhere."""

    def __getattr__(self, name: str) -> Any:
        pytest.skip("It looks into the service's own process.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if ELSEWHERE:
        contract = [item for item in items if {"client", "served"} & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=[item for item in items if item not in contract])
        items[:] = contract


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    """The service as it is by default."""
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
