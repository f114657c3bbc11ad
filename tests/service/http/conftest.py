from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.http.wire import PATIENCE_S
from tests.service.running import Running, running


@pytest.fixture(scope="module")
def hasty() -> Iterator[Running]:
    """A service with short timeouts."""
    with running(client_timeout=PATIENCE_S, keep_alive=PATIENCE_S, body_limit=2**20) as service:
        yield service
