from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.client.callers import Awaited, Caller, Connect, Plain
from tests.service.running import Running, running


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    """The service as it is by default."""
    with running() as service:
        yield service


@pytest.fixture(scope="session")
def url(served: Running) -> str:
    return f"http://127.0.0.1:{served.port}"


@pytest.fixture(params=[Plain, Awaited])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients, of the one kind and of the other."""
    with ExitStack() as stack:

        def make(url: str, **options: Any) -> Caller:
            caller: Caller = stack.enter_context(closing(request.param(url, **options)))
            return caller

        yield make


@pytest.fixture
def caller(connect: Connect, url: str) -> Caller:
    """Of the service as it is by default."""
    return connect(url)
