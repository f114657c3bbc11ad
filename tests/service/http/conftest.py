from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.http.wire import TIMEOUT_S
from tests.service.running import Running, running


@pytest.fixture(scope="module")
def impatient() -> Iterator[Running]:
    """A service with short timeouts."""
    with running(client_timeout=TIMEOUT_S, keep_alive=TIMEOUT_S, body_limit=2**20) as service:
        yield service
