"""Callers who know each answer beforehand: from the service in this process."""

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

PAUSE_S = 0.2
"""After a refusal."""


@dataclass(frozen=True)
class Question:
    """A request, and the only right answer."""

    path: str
    body: bytes | None
    media_type: str
    answer: bytes

    def ask(self, client: httpx.Client) -> httpx.Response:
        """Ask it."""
        if self.body is None:
            return client.get(self.path)
        return client.post(self.path, content=self.body, headers={"content-type": self.media_type})


@dataclass
class Callers:
    """What a number of callers came across."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """That right answers took."""

    @property
    def wrong(self) -> int:
        """Answers that should never be."""
        return sum(count for outcome, count in self.outcomes.items() if outcome.startswith("wrong"))

    def report(self) -> str:
        """In one line."""
        p50, p99, most = np.percentile(self.seconds or [np.nan], (50, 99, 100))
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        return f"{counts}; p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, longest {most:.1f} s"


def questions(images: NDArray[np.uint8]) -> list[Question]:
    """Questions of every kind, answered by the service as it is."""
    z = np.random.default_rng(0).standard_normal((len(images), 3), np.float32)
    asked: list[tuple[str, bytes | None, str]] = []
    for index, image in enumerate(images):
        asked.append(("/encode", png(image), "image/png"))
        asked.append(("/reconstruct", npy(images[: index + 1]), "application/x-npy"))
        asked.append(("/decode", npy(z[: index + 1]), "application/x-npy"))
        asked.append((f"/sample?n={index + 1}&seed={index}", None, ""))
    with running(log_level="warning") as service:
        return [
            Question(*request, answer=Question(*request, answer=b"").ask(service.client).raise_for_status().content)
            for request in asked
        ]


@contextmanager
def calling(urls: tuple[str, ...], asked: list[Question], callers: int) -> Iterator[Callers]:
    """So many callers, each with its connection to one of `urls`, who ask one question after the other."""
    result = Callers()
    over = threading.Event()

    def call(number: int) -> None:
        with httpx.Client(base_url=urls[number % len(urls)], timeout=90, trust_env=False) as client:
            for question in itertools.islice(itertools.cycle(asked), 7 * number, None):
                begun = time.perf_counter()
                outcome = _outcome(client, question)
                if outcome == "right":
                    result.seconds.append(time.perf_counter() - begun)
                else:
                    time.sleep(PAUSE_S)
                result.outcomes[outcome] += 1
                if over.is_set():
                    return

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _outcome(client: httpx.Client, question: Question) -> str:
    try:
        answer = question.ask(client)
    except httpx.TransportError as error:
        return f"without an answer ({type(error).__name__})"
    if answer.status_code == 200:
        return "right" if answer.content == question.answer else "wrong: other bytes"
    if answer.status_code == 503 and answer.headers["content-type"] == MEDIA_TYPE and "retry-after" in answer.headers:
        detail: Any = answer.json()["detail"]
        return f"told to try again ({detail.partition(';')[0]})"
    if answer.status_code == 504 and answer.headers["content-type"] == MEDIA_TYPE:
        return "told that it took too long"
    return f"wrong: {answer.status_code} {answer.text[:80]}"
