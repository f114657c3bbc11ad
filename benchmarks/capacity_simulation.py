"""Processes behind a load balancer, event by event: what a request waits, and whether it is answered."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any

import numpy as np

WARM_UP = 0.1
"""Share of the time whose requests are not counted: the queues are empty at the start."""


@dataclass(frozen=True)
class Service:
    """What a worker takes, in seconds."""

    rows: Sequence[float]
    busy: Sequence[float]
    """With a batch of so many rows, from reading its requests to answering them; in between a straight line."""
    compute: Sequence[float]
    """What the model takes of that. One half of the rest is before it, for reading, the other after it."""
    wake: float = 0.0
    """What a request to an idle worker takes beyond that, to its caller and back."""
    batch_limit: int = 64
    queue_limit: int = 1024

    def __call__(self, rows: int) -> float:
        """Seconds with a batch."""
        return float(np.interp(rows, self.rows, self.busy))

    def around(self, rows: int) -> float:
        """Seconds for reading the requests of a batch; as many for answering them."""
        return (self(rows) - float(np.interp(rows, self.rows, self.compute))) / 2

    @property
    def best_rate(self) -> float:
        """Requests a second of a worker whose every batch is full."""
        return self.batch_limit / self(self.batch_limit)


@dataclass(frozen=True)
class RollOut:
    """Each worker in turn is replaced by another; times in seconds."""

    begin: float
    start: float
    """From the beginning of a new worker until it is ready."""
    heard: float
    """Until the load balancer knows that a worker has become ready, or is going."""
    wait: float
    """From the decision that a worker goes until it is told to stop: it answers as ever meanwhile."""


@dataclass
class Outcome:
    """What became of the requests; `seconds` from coming to answer."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    """With 503: no place in the queue, or draining."""
    lost: int = 0
    """Sent to a worker that had ended."""
    ended: float = 0.0
    """When the last old worker did."""

    @property
    def requests(self) -> int:
        """All of them."""
        return len(self.seconds) + self.refused + self.lost

    def percentile(self, share: float) -> float:
        """Seconds in which so many per cent were answered."""
        return float(np.percentile(self.seconds, share))


class State(Enum):
    """Of a worker."""

    SERVING = 0
    DRAINING = 1
    ENDED = 2


class Worker:
    """A queue, and the batch that is computed."""

    def __init__(self) -> None:
        self.state = State.SERVING
        self.queue: deque[float] = deque()  # when each request came
        self.batch: list[float] = []
        self.turns = False

    @property
    def in_flight(self) -> int:
        """Requests let in and not yet answered."""
        return len(self.queue) + len(self.batch)


class Simulation:
    """Requests come by a Poisson process; each goes to the worker with the fewest in flight of `choices` drawn ones.

    One choice is a random worker, two are two choices, all of them the least in flight.
    """

    def __init__(self, service: Service, rate: float, workers: int, choices: int, seed: int = 0) -> None:
        self._service = service
        self._busy, self._around = (
            [0.0, *map(each, range(1, service.batch_limit + 1))] for each in (service, service.around)
        )
        self._rate = rate
        self._known = [Worker() for _ in range(workers)]  # to the load balancer
        self._choices = choices
        self._random = Random(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._counted_from = 0.0
        self._outcome = Outcome()

    def run(self, seconds: float, roll_out: RollOut | None = None) -> Outcome:
        """Let so much time pass."""
        self._counted_from = WARM_UP * seconds
        self._at(0, self._arrive)
        if roll_out:
            step = roll_out.start + roll_out.heard
            for place in range(len(self._known)):
                self._at(roll_out.begin + (place + 1) * step, self._replace, place, roll_out)
        while self._events and self._events[0][0] < seconds:
            self._now, _, happen, arguments = heapq.heappop(self._events)
            happen(*arguments)
        return self._outcome

    def _at(self, time: float, happen: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), happen, arguments))

    def _arrive(self) -> None:
        self._at(self._now + self._random.expovariate(self._rate), self._arrive)
        counts = self._now >= self._counted_from
        worker = self._choose()
        if worker.state is State.ENDED:
            self._outcome.lost += counts
        elif worker.state is State.DRAINING or worker.in_flight >= self._service.queue_limit:
            self._outcome.refused += counts
        else:
            worker.queue.append(self._now)
            if not worker.turns:
                worker.turns = True
                self._at(self._now + self._service.wake, self._read, worker)

    def _choose(self) -> Worker:
        if self._choices >= len(self._known):
            return min(self._known, key=lambda worker: worker.in_flight)
        drawn = (self._known[int(self._random.random() * len(self._known))] for _ in range(self._choices))
        return min(drawn, key=lambda worker: worker.in_flight)

    def _read(self, worker: Worker) -> None:
        """Take what has come into the batch; what comes while that is read comes into it too."""
        before = len(worker.batch)
        for _ in range(min(len(worker.queue), self._service.batch_limit - before)):
            worker.batch.append(worker.queue.popleft())
        count = len(worker.batch)
        if count > before:
            self._at(self._now + self._around[count] - self._around[before], self._read, worker)
        else:
            self._at(self._now + self._busy[count] - self._around[count], self._answer, worker)

    def _answer(self, worker: Worker) -> None:
        """The last of the batch is answered; those before it were, one after the other."""
        each = self._around[len(worker.batch)] / len(worker.batch)
        for place, came in enumerate(reversed(worker.batch)):
            if came >= self._counted_from:
                self._outcome.seconds.append(self._now - place * each - came)
        worker.batch.clear()
        if worker.queue:
            self._read(worker)
        else:
            worker.turns = False
            if worker.state is State.DRAINING:
                self._end(worker)

    def _replace(self, place: int, roll_out: RollOut) -> None:
        """The new worker is ready and known: the old one is to go."""
        old, new = self._known[place], Worker()
        self._known.append(new)
        self._at(self._now + roll_out.heard, self._forget, old, place, new)
        self._at(self._now + roll_out.wait, self._stop, old)

    def _forget(self, old: Worker, place: int, new: Worker) -> None:
        self._known.remove(new)
        self._known[place] = new

    def _stop(self, old: Worker) -> None:
        old.state = State.DRAINING
        if not old.turns:
            self._end(old)

    def _end(self, old: Worker) -> None:
        old.state = State.ENDED
        self._outcome.ended = self._now
