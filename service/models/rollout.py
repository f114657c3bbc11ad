"""Rollout: from files that have changed to a catalogue that all workers answer by.

It looks at the folder, loads what is new to see whether it can be used, proposes a catalogue to all workers, and
commits it once each of them has loaded it. Whatever cannot be loaded is left out, and the model before it stays. One
process has the rollout: the supervisor, or the only worker, in a thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from service.inference.loading import LoadedModel, StartError
from service.models.catalogue import Catalogue, Entry, Key
from service.models.commit import Commit
from service.models.messages import Outcome, Proposal, Report
from service.models.planning import Planner
from service.models.states import describe

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

logger = logging.getLogger("vae-service")

LOOK_INTERVAL_S = 1
"""Seconds between two looks at the folder."""
PREPARE_LIMIT_S = 300
"""Seconds in which the workers have to load a catalogue."""


@dataclass
class _Proposed:
    """A catalogue that workers are loading."""

    catalogue: Catalogue
    loaded: dict[Key, LoadedModel]
    waiting: set[Connection]
    """Workers that have not reported yet."""
    hashes: dict[Key, str] = field(default_factory=dict)
    deadline: float = field(default_factory=lambda: time.monotonic() + PREPARE_LIMIT_S)


class Rollout:
    """The catalogue that is committed, and the one that is proposed."""

    def __init__(self, planner: Planner, load: Callable[[Entry], LoadedModel] | None) -> None:
        """Load the first catalogue; raises StartError where no model can be served."""
        self._planner = planner
        self._number = 0
        self._hashes: dict[Key, str] = {}
        self._proposed: _Proposed | None = None
        self._at_once = False
        self.load = load
        """Loads a model before the workers do, and for those that are forked later; None where they load alone."""
        self.workers: list[Connection] = []
        """Pipes to the workers."""
        self.catalogue, self.loaded = Catalogue(0, ()), dict[Key, LoadedModel]()
        """What is committed, and the models of it that this process has."""
        self.catalogue, self.loaded = self._next(at_once=True)
        if not self.catalogue.entries:
            reasons = [f"{name}: {rejection.reason}" for name, rejection in planner.rejected.items()]
            raise StartError(" ".join(["The folder of models has none that can be served.", *reasons]))
        self._hashes = _hashes(self.loaded)
        self.commit = Commit(self.catalogue.number)
        self._publish()
        self._next_look = time.monotonic() + LOOK_INTERVAL_S

    def look_soon(self) -> None:
        """Look at the folder at the next turn, and count its files at once; may be called by a signal's handler."""
        self._at_once = True

    def add(self, worker: Connection) -> None:
        """Add a worker that answers by the committed catalogue."""
        self.workers.append(worker)
        if self._proposed:
            self._proposed.waiting.add(worker)
            _send(worker, Proposal(self._proposed.catalogue))

    def remove(self, worker: Connection) -> None:
        """Go on without a worker, which has ended."""
        self.workers.remove(worker)
        worker.close()
        if self._proposed:
            self._proposed.waiting.discard(worker)
            self._commit_if_all_are_ready(self._proposed)

    def turn(self, ready: Sequence[object]) -> None:
        """Read the reports of those workers whose pipes are `ready`, and look at the folder if it is time."""
        for worker in [each for each in self.workers if each in ready]:
            try:
                report: Report = worker.recv()
            except (EOFError, OSError):  # it has ended, which the supervisor sees
                continue
            self._receive(worker, report)
        proposed = self._proposed
        if proposed and time.monotonic() > proposed.deadline:
            reason = f"The workers have not loaded it within {PREPARE_LIMIT_S} s."
            new = set(proposed.catalogue.entries) - set(self.catalogue.entries)
            self._drop(proposed, {entry.key: reason for entry in new})
        elif not proposed and (self._at_once or time.monotonic() >= self._next_look):
            self._look()

    def _look(self) -> None:
        at_once, self._at_once = self._at_once, False
        self._next_look = time.monotonic() + LOOK_INTERVAL_S
        rejected = dict(self._planner.rejected)
        try:
            catalogue, loaded = self._next(at_once=at_once)
        except Exception:  # whatever lies in the folder, what is served goes on
            logger.exception("The folder of models could not be looked at.")
            return
        if catalogue is not self.catalogue:
            self._proposed = _Proposed(catalogue, loaded, set(self.workers), _hashes(loaded))
            for worker in self.workers:
                _send(worker, Proposal(catalogue))
            self._commit_if_all_are_ready(self._proposed)
        if self._proposed or rejected != self._planner.rejected:
            self._publish()

    def _next(self, *, at_once: bool) -> tuple[Catalogue, dict[Key, LoadedModel]]:
        """Return the catalogue that should be served, and the models of it that this process has."""
        current = self.catalogue
        planned = self._planner.plan(current, at_once=at_once)
        if planned is current:
            return current, self.loaded
        loaded: dict[Key, LoadedModel] = {}
        problems: dict[Key, str] = {}
        for entry in planned.entries:
            key = entry.key
            if entry == current.by_key.get(key):
                loaded |= {key: self.loaded[key]} if key in self.loaded else {}
            elif self.load and (key in current.by_key or not entry.is_lazy):
                try:
                    model = self.load(entry)
                except StartError as error:
                    problems[key] = str(error)
                else:
                    loaded |= {} if entry.is_lazy else {key: model}
        self._planner.reject_all(planned.entries, problems)
        sound = {key: entry for key, entry in planned.by_key.items() if key not in problems}
        catalogue = current.changed(
            ({**current.by_key, **sound}[key] for key in planned.by_key if key in sound or key in current.by_key),
            planned.aliases,
        )
        if catalogue is not current:
            self._number += 1
            catalogue = replace(catalogue, number=self._number)
        return catalogue, loaded

    def _receive(self, worker: Connection, report: Report) -> None:
        proposed = self._proposed
        if proposed is None or report.number != proposed.catalogue.number:
            return
        problems = dict(report.problems)
        for key, sha256 in report.hashes.items():
            if proposed.hashes.setdefault(key, sha256) != sha256:
                problems[key] = "The processes have read different files: it changed while they loaded it."
        if problems:
            self._drop(proposed, problems)
        else:
            proposed.waiting.discard(worker)
            self._commit_if_all_are_ready(proposed)

    def _commit_if_all_are_ready(self, proposed: _Proposed) -> None:
        if proposed.waiting:
            return
        self.catalogue, self.loaded, self._hashes = proposed.catalogue, proposed.loaded, proposed.hashes
        self.commit.generation.value = self.catalogue.number
        names = ", ".join(map(str, self.catalogue.entries))
        logger.info("Generation %d of the models is served: %s.", self.catalogue.number, names)
        self._end(committed=True)

    def _drop(self, proposed: _Proposed, problems: Mapping[Key, str]) -> None:
        self._planner.reject_all(proposed.catalogue.entries, problems)
        self._end(committed=False)

    def _end(self, *, committed: bool) -> None:
        self._proposed = None
        self._publish()
        for worker in self.workers:
            _send(worker, Outcome(committed))

    def _publish(self) -> None:
        """Tell what is served, loaded and rejected, for /models and the metrics."""
        proposed = self._proposed.catalogue if self._proposed else None
        self.commit.publish(describe(self.catalogue, self._hashes, proposed, self._planner.rejected))


def _hashes(loaded: Mapping[Key, LoadedModel]) -> dict[Key, str]:
    return {key: model.checkpoint.metadata.sha256 for key, model in loaded.items()}


def _send(worker: Connection, message: Proposal | Outcome) -> None:
    try:
        worker.send(message)
    except OSError:  # it has ended, which the supervisor sees
        logger.debug("A worker has ended.")
