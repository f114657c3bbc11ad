"""Models that are loaded when they are first used, within a limit on their memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from service.api.creation import Creator
from service.inference.loading import StartError
from tests.service.models.small_models import put
from tests.service.problems import problem
from tests.service.running import Running, running, wait_until

pytestmark = pytest.mark.slow

Z = [0.3, 1.6, -2.4]
NAMES = ("a", "c", "d")


@contextmanager
def lazy(folder: Path, sources: list[Path], fit: float | None = None, **settings: Any) -> Iterator[Running]:
    """A service of three models of first use, of which `fit` fit into the memory."""
    for source, name in zip(sources, NAMES, strict=True):
        put(source, folder / f"{name}.safetensors")
    for version in (1, 2):
        (folder / f"b/{version}.safetensors").unlink()
    options = ", ".join(f"{name}: {{load: first-use}}" for name in NAMES)
    (folder / "models.yaml").write_text(f"models: {{{options}}}")
    limit = None if fit is None else int(fit * sources[0].stat().st_size)
    with running(models=folder, models_memory=limit, **settings) as service:
        yield service


def loaded(service: Running) -> set[str]:
    return {model.name for model in service.app.state.models if model.context}


def decode(service: Running, name: str) -> httpx.Response:
    return service.client.post(f"/models/{name}/decode", json=Z)


def test_the_first_call_loads_and_others_wait_for_it(folder: Path, sources: list[Path]) -> None:
    create, calls = Creator.__call__, []

    def count(self: Creator, *arguments: Any) -> Any:
        calls.append(arguments[0].name)
        time.sleep(0.3)
        return create(self, *arguments)

    with mock.patch.object(Creator, "__call__", count), lazy(folder, sources) as service:
        assert loaded(service) == set()
        assert service.client.get("/models").json()["models"][0]["load"] == "first-use"
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: decode(service, "a").content, range(4)))
    assert len(set(answers)) == 1
    assert calls == ["a"]


def test_a_model_has_its_etag_from_its_first_response_on(folder: Path, sources: list[Path]) -> None:
    path = "/models/a/sample?seed=7"
    with lazy(folder, sources, fit=1) as service:
        tag = service.client.get(path).headers["etag"]
        known = {"if-none-match": tag}
        assert service.client.get(path, headers=known).status_code == 304
        decode(service, "c")
        assert loaded(service) == {"c"}
        again = service.client.get(path, headers=known)  # the tag is known once the model is
        assert (again.status_code, again.headers["etag"]) == (200, tag)
        assert service.client.get(path, headers=known).status_code == 304


def test_the_least_recently_used_one_makes_room(folder: Path, sources: list[Path]) -> None:
    with lazy(folder, sources, fit=2) as service:
        first = decode(service, "a").content
        decode(service, "c")
        assert decode(service, "a").content == first  # from the fast path
        assert loaded(service) == {"a", "c"}
        assert decode(service, "d").status_code == 200
        assert loaded(service) == {"a", "d"}
        decode(service, "c")
        assert loaded(service) == {"c", "d"}
        assert decode(service, "a").content == first


def test_what_does_not_fit_is_unavailable(folder: Path, sources: list[Path]) -> None:
    with lazy(folder, sources, fit=1) as service:
        decode(service, "a")
        held = service.app.state.models.find("a")
        held.enter()
        refused = decode(service, "c")
        assert "does not fit" in problem(refused, 503)["detail"]
        assert refused.headers["retry-after"] == "1"
        held.leave()
        assert decode(service, "c").status_code == 200
        assert loaded(service) == {"c"}


def test_the_deadline_applies(folder: Path, sources: list[Path]) -> None:
    create = Creator.__call__

    def slow(self: Creator, *arguments: Any) -> Any:
        time.sleep(1)
        return create(self, *arguments)

    with mock.patch.object(Creator, "__call__", slow), lazy(folder, sources, request_deadline=0.3) as service:
        problem(decode(service, "a"), 504)
        wait_until(lambda: loaded(service) == {"a"})
        assert decode(service, "a").status_code == 200


def test_one_that_cannot_be_loaded_is_told(folder: Path, sources: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with lazy(folder, sources) as service:
        failing = mock.Mock(side_effect=StartError("It is broken."))
        with mock.patch.object(service.app.state.models, "_create", failing):
            for _ in range(3):
                refused = problem(decode(service, "a"), 503)
                assert "the log says why" in refused["detail"]
            failing.assert_called_once()
            assert "It is broken." in caplog.text
            assert decode(service, "c").status_code == 503
        wait_until(lambda: loaded(service) == set())


def test_a_new_file_is_checked_although_it_is_not_loaded(folder: Path, sources: list[Path], impatient: None) -> None:
    with lazy(folder, sources) as service:
        before = decode(service, "c").content
        for name in ("a", "c"):
            (folder / ".new").write_bytes(sources[0].read_bytes()[:-100])
            (folder / ".new").rename(folder / f"{name}.safetensors")

        def failed() -> set[str]:
            states = service.client.get("/models").json()["models"]
            return {state["name"] for state in states if state["state"] == "failed"}

        wait_until(lambda: failed() == {"a", "c"})
        assert decode(service, "c").content == before
        assert loaded(service) == {"c"}
