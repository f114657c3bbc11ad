import os
import tempfile
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from tests.service.running import Running, running

FEW = 40
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", FEW))
"""Examples per property; `make soak` sets more."""

set_hypothesis_home_dir(tempfile.gettempdir())
settings.register_profile(
    "service",
    derandomize=EXAMPLES == FEW,  # the same inputs in each run
    print_blob=True,
    database=None,
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("service")


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    with running() as service:
        yield service


@pytest.fixture(scope="session")
def client(served: Running) -> httpx.Client:
    return served.client
