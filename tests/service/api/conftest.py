from collections.abc import Iterator
from typing import Any

import pytest

from service.api.application import Application
from service.http import connection
from service.http.cycle import Cycle
from service.telemetry.access_log import AccessRecord
from tests.service.running import Running, running


@pytest.fixture(scope="module")
def keyed() -> Iterator[Running]:
    with running(api_keys=("right", "other")) as service:
        yield service


@pytest.fixture
def parsed(served: Running, monkeypatch: pytest.MonkeyPatch) -> list[Cycle]:
    """The requests that do not take the fast path."""
    assert served.app.state  # skips the test if the service is in another process
    made: list[Cycle] = []

    class Watched(Cycle):
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr(connection, "Cycle", Watched)
    return made


@pytest.fixture
def records(served: Running, monkeypatch: pytest.MonkeyPatch) -> list[tuple[AccessRecord, str]]:
    """What is recorded of requests, with the media types of the responses."""
    assert served.app.state
    kept: list[tuple[AccessRecord, str]] = []
    monkeypatch.setattr(Application, "record", lambda _, *each: kept.append(each))
    return kept
