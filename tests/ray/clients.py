"""Clients that compare each response with that of the service in this process."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from service.errors import MEDIA_TYPE
from tests.service.pictures import npy, png
from tests.service.running import running

RETRY_DELAY_S = 0.2
"""Seconds to wait after a request that failed."""


@dataclass(frozen=True)
class Case:
    """A request and the response that it must get."""

    path: str
    body: bytes | None
    media_type: str
    expected: bytes

    def send(self, client: httpx.Client) -> httpx.Response:
        if self.body is None:
            return client.get(self.path)
        return client.post(self.path, content=self.body, headers={"content-type": self.media_type})


@dataclass
class Results:
    """What a number of clients have seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Durations of the requests that got the right response."""

    @property
    def wrong(self) -> int:
        """Number of responses that must never occur."""
        return sum(count for outcome, count in self.outcomes.items() if outcome.startswith("wrong"))

    def report(self) -> str:
        """A summary in one line."""
        p50, p99, most = np.percentile(self.seconds or [np.nan], (50, 99, 100))
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        return f"{counts}; p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, longest {most:.1f} s"


def cases(images: NDArray[np.uint8]) -> list[Case]:
    """Return requests of every kind, each with the response of a service in this process."""
    z = np.random.default_rng(0).standard_normal((len(images), 3), np.float32)
    requests: list[tuple[str, bytes | None, str]] = []
    for index, image in enumerate(images):
        requests.append(("/encode", png(image), "image/png"))
        requests.append(("/reconstruct", npy(images[: index + 1]), "application/x-npy"))
        requests.append(("/score", npy(images[: index + 1]), "application/x-npy"))
        requests.append(("/decode", npy(z[: index + 1]), "application/x-npy"))
        requests.append((f"/sample?n={index + 1}&seed={index}", None, ""))
    with running(log_level="warning") as service:
        return [
            Case(*request, expected=Case(*request, expected=b"").send(service.client).raise_for_status().content)
            for request in requests
        ]


@contextmanager
def load(urls: tuple[str, ...], cases: list[Case], clients: int) -> Iterator[Results]:
    """Run so many clients, each with a connection to one of `urls`, that send one request after the other."""
    results = Results()
    stop = threading.Event()

    def run(number: int) -> None:
        with httpx.Client(base_url=urls[number % len(urls)], timeout=90, trust_env=False) as client:
            for case in itertools.islice(itertools.cycle(cases), 7 * number, None):
                start = time.perf_counter()
                outcome = _outcome(client, case)
                if outcome == "right":
                    results.seconds.append(time.perf_counter() - start)
                else:
                    time.sleep(RETRY_DELAY_S)
                results.outcomes[outcome] += 1
                if stop.is_set():
                    return

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _outcome(client: httpx.Client, case: Case) -> str:
    try:
        response = case.send(client)
    except httpx.TransportError as error:
        return f"no response ({type(error).__name__})"
    if response.status_code == 200:
        return "right" if response.content == case.expected else "wrong: other bytes"
    is_problem = response.headers["content-type"] == MEDIA_TYPE
    if response.status_code == 503 and is_problem and "retry-after" in response.headers:
        detail: Any = response.json()["detail"]
        return f"503 with Retry-After ({detail.partition(';')[0]})"
    if response.status_code == 504 and is_problem:
        return "504"
    return f"wrong: {response.status_code} {response.text[:80]}"
