from collections.abc import Iterator

import httpx
import pytest

from service.settings import BUNDLED
from tests.service.running import Running, running
from tests.vae.reference import Reference


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    """The service as it is by default."""
    with running() as service:
        yield service


@pytest.fixture(scope="session")
def client(served: Running) -> httpx.Client:
    return served.client


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference.read(BUNDLED)
