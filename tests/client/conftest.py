from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.client.clients import AnyClient, Async, Connect, Sync
from tests.service.running import Running, running


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    """The service with its default settings."""
    with running() as service:
        yield service


@pytest.fixture(scope="session")
def url(served: Running) -> str:
    return f"http://127.0.0.1:{served.port}"


@pytest.fixture(params=[Sync, Async])
def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Connect]:
    """Create clients, of each kind in turn."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # reading the CA certificates takes 20 ms per client
    with ExitStack() as stack:

        def create(url: str | None = None, **options: Any) -> AnyClient:
            client: AnyClient = stack.enter_context(closing(request.param(url, **options)))
            return client

        yield create


@pytest.fixture(scope="session", params=[Sync, Async])
def client(request: pytest.FixtureRequest, url: str) -> Iterator[AnyClient]:
    """A client of `served`, of each kind in turn."""
    with closing(request.param(url)) as client:
        yield client
