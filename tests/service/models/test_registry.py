"""The models of one worker: which one answers, and when one goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from service.errors import NotFound
from service.inference.loading import LoadedModel, StartError
from service.models.catalogue import Catalogue, Entry
from service.models.commit import Commit
from service.models.registry import Registry


@dataclass
class Context:
    """What answers; its hash is the path."""

    sha256: str
    closed: int = 0

    def close(self) -> None:
        self.closed += 1


def create(entry: Entry, _: LoadedModel | None) -> Context:
    if "broken" in entry.path.name:
        raise StartError("It is broken.")
    if "faulty" in entry.path.name:
        raise RuntimeError
    return Context(entry.path.name)


FIRST = Catalogue(1, (Entry("x", "1", Path("old")), Entry("y", "1", Path("y"))))


def changed(path: str) -> Catalogue:
    return Catalogue(2, (replace(FIRST.entries[0], path=Path(path)), FIRST.entries[1]))


@pytest.fixture
def registry() -> Registry[Context]:
    return Registry(Commit(1), FIRST, {}, create)


def test_the_number_alone_changes_what_answers(registry: Registry[Context]) -> None:
    """No message has to arrive first: another worker may have answered by the new catalogue already."""
    old, same = registry.find("x"), registry.find("y")
    assert registry.prepare(changed("new")) == ({}, {("x", "1"): "new", ("y", "1"): "y"})
    assert registry.find("x") is old
    registry.commit.generation.value = 2
    assert registry.find("x").context == Context("new")
    assert registry.find("y") is same
    assert old.context is None


def test_the_old_one_goes_when_its_last_request_is_answered(registry: Registry[Context]) -> None:
    old = registry.find("x")
    context = old.context
    assert context
    for _ in range(2):
        old.enter()
    registry.prepare(changed("new"))
    registry.commit.generation.value = 2
    registry.switch()
    old.leave()
    assert (old.context, context.closed) == (context, 0)
    old.leave()
    assert (old.context, context.closed) == (None, 1)


@pytest.mark.parametrize(("path", "reason"), [("broken", "It is broken."), ("faulty", "RuntimeError")])
def test_what_cannot_be_created_is_reported(registry: Registry[Context], path: str, reason: str) -> None:
    old = registry.find("x")
    problems, _ = registry.prepare(changed(path))
    assert reason in problems["x", "1"]
    registry.commit.generation.value = 2  # which no rollout would do
    assert registry.find("x") is old
    assert old.context == Context("old")


def test_what_is_dropped_is_freed(registry: Registry[Context]) -> None:
    registry.prepare(changed("new"))
    assert registry._prepared
    (fresh,) = (model for model in registry._prepared[1].values() if model.entry.path.name == "new")
    same = registry.find("y")
    registry.discard()
    assert fresh.context is None
    assert same.context


def test_what_is_not_in_the_catalogue_is_not_found(registry: Registry[Context]) -> None:
    for name, version in (("z", None), ("x", "2"), (None, "1"), ("x" * 1000, None)):
        with pytest.raises(NotFound, match="/models lists") as caught:
            registry.find(name, version)
        assert len(caught.value.detail) < 200
