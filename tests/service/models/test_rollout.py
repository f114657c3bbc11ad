"""A catalogue is committed once all workers have it, or not at all."""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import orjson
import pytest

from service.inference.loading import StartError
from service.models import rollout as module
from service.models.messages import Outcome, Proposal, Report
from service.models.planning import Planner
from service.models.repository import Repository
from service.models.rollout import Rollout

X = ("x", "1")


class Service:
    """A rollout whose processes load nothing, and two workers that are played by the test."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "x.safetensors"
        self.file.write_text("first")
        self.rollout = Rollout(Planner(Repository(folder), None), None)
        self.workers = [self.begin() for _ in range(2)]

    def begin(self) -> Connection:
        ours, theirs = Pipe()
        self.rollout.add(ours)
        return theirs

    @property
    def generation(self) -> int:
        return int(self.rollout.commit.generation.value)

    @property
    def state(self) -> dict[str, object]:
        (state,) = orjson.loads(self.rollout.commit.states)
        assert isinstance(state, dict)
        return state

    def change(self, content: str = "another") -> list[Proposal | Outcome]:
        """Change the file; return what the workers are told."""
        self.file.write_text(content)
        self.look()
        return [worker.recv() for worker in self.workers if not worker.closed and worker.poll()]

    def look(self) -> None:
        self.rollout.look_soon()
        self.rollout.turn([])

    def report(self, worker: int, sha256: str = "a", problem: str = "", number: int | None = None) -> None:
        number = self.generation + 1 if number is None else number
        self.workers[worker].send(Report(number, {X: problem} if problem else {}, {X: sha256}))
        self.rollout.turn([self.rollout.workers[worker]])

    def told(self) -> list[Outcome]:
        return [worker.recv() for worker in self.workers if not worker.closed and worker.poll()]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def test_all_workers_have_it_first(service: Service) -> None:
    first, second = service.change()
    assert first == second
    assert isinstance(first, Proposal)
    assert service.state["state"] == "loading"
    service.report(0)
    assert service.generation == 1
    assert service.told() == []
    service.report(1)
    assert service.generation == first.catalogue.number == 2
    assert service.told() == [Outcome(committed=True)] * 2
    assert (service.state["state"], service.state["sha256"]) == ("ready", "a")


def test_one_that_cannot_load_it_drops_it_for_all(service: Service) -> None:
    service.change()
    service.report(0)
    service.report(1, problem="It is broken.")
    assert service.generation == 1
    assert service.told() == [Outcome(committed=False)] * 2
    assert (service.state["state"], service.state["reason"]) == ("failed", "It is broken.")
    service.rollout._next_look = 0
    service.rollout.turn([])
    assert service.told() == []  # not proposed again
    assert service.change("better") != []
    service.report(0, number=2)  # of the proposal before
    assert service.rollout._proposed
    assert len(service.rollout._proposed.waiting) == 2


def test_workers_that_have_read_different_files_drop_it(service: Service) -> None:
    service.change()
    service.report(0, "a")
    service.report(1, "b")
    assert service.generation == 1
    assert "different files" in str(service.state["reason"])


def test_it_goes_on_without_a_worker_that_ends(service: Service) -> None:
    service.change()
    service.report(0)
    service.rollout.remove(service.rollout.workers[1])
    assert service.generation == 2


def test_a_worker_that_begins_meanwhile_has_to_have_it_too(service: Service) -> None:
    (proposal, _) = service.change()
    service.workers.append(service.begin())
    assert service.workers[2].recv() == proposal
    service.report(0)
    service.report(1)
    assert service.generation == 1
    service.report(2)
    assert service.generation == 2


def test_workers_that_take_too_long_drop_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PREPARE_LIMIT_S", -1)
    service.change()
    service.report(0)
    assert service.generation == 1
    assert "have not loaded it" in str(service.state["reason"])


def test_a_worker_that_has_ended_is_no_error(service: Service) -> None:
    service.workers[0].close()
    service.rollout.turn([service.rollout.workers[0]])
    service.change()
    service.report(1)
    service.rollout.remove(service.rollout.workers[0])
    assert service.generation == 2


def test_a_fault_in_looking_ends_nothing(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.object(Repository, "look", side_effect=RuntimeError):
        assert service.change() == []
    assert "could not be looked at" in caplog.text
    assert len(service.change("again")) == 2


def test_what_this_process_cannot_load_is_not_proposed(service: Service) -> None:
    service.rollout.load = mock.Mock(side_effect=StartError("It is broken."))
    assert service.change() == []
    assert service.state["reason"] == "It is broken."
    assert service.rollout.load.call_count == 1
    service.look()
    assert service.rollout.load.call_count == 2  # as the operator has asked for


def test_a_folder_without_a_model_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("bad")
    with pytest.raises(StartError, match=r"none that can be served\. x/1: It is broken\."):
        Rollout(Planner(Repository(tmp_path), None), mock.Mock(side_effect=StartError("It is broken.")))
