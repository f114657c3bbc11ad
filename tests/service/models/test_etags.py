"""ETags of several models: each has the tags of its own responses, also while it changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from service.api.etags import CacheableOperation
from tests.service.models.small_models import put
from tests.service.problems import problem
from tests.service.running import Running, running, wait_until

pytestmark = pytest.mark.slow

PATHS = ("/model", "/sample?seed=7", "/interpolate?from=-1,0,1&to=1,1,0", "/traverse?at=0,0,0&dimensions=0")


@pytest.fixture
def served(folder: Path, impatient: None) -> Iterator[Running]:
    (folder / "models.yaml").write_text("aliases: {default: b/1, stable: b/1}")
    with running(models=folder) as service:
        yield service


def with_version(path: str, version: int) -> str:
    return f"{path}{'&' if '?' in path else '?'}version={version}"


@pytest.mark.parametrize("path", PATHS)
def test_each_model_and_version_has_its_own(served: Running, path: str) -> None:
    client = served.client
    same = (path, f"/models/stable{path}", with_version(f"/models/b{path}", 1))
    others = (f"/models/b{path}", f"/models/a{path}")
    answers = [client.get(url) for url in (*same, *others)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert answers[3].content == client.get(with_version(f"/models/b{path}", 2)).content
    tags = [answer.headers["etag"] for answer in answers]
    assert len(set(tags[:3])) == 1
    assert len(set(tags)) == 3
    for url, tag in zip((*same, *others), tags, strict=True):
        assert client.get(url, headers={"if-none-match": tag}).status_code == 304
        stale = {"if-none-match": ", ".join({*tags} - {tag})}
        assert client.get(url, headers=stale).status_code == 200
    anything = {"if-none-match": "*"}
    problem(client.get(with_version(f"/models/b{path}", 9), headers=anything), 404)
    problem(client.get(with_version(path, 1), headers=anything), 422)


def test_a_new_file_has_new_ones(served: Running, folder: Path, sources: list[Path]) -> None:
    before = served.client.get("/models/a/sample?seed=7")
    model = served.app.state.models.find("a")
    put(sources[2], folder / "a.safetensors")
    wait_until(lambda: served.app.state.models.find("a") is not model)
    after = served.client.get("/models/a/sample?seed=7", headers={"if-none-match": before.headers["etag"]})
    assert after.status_code == 200
    assert after.headers["etag"] != before.headers["etag"]
    assert after.content == served.client.get("/models/b/sample?seed=7&version=2").content


def test_tag_and_response_are_of_one_model_where_it_changes_between_them(served: Running) -> None:
    models = served.app.state.models
    a, other = models.find("a"), models.find("b")
    expected = served.client.get("/models/a/sample?seed=7")
    expect_tag = CacheableOperation._expect_tag

    def change(*arguments: Any) -> bytes | None:
        try:
            return expect_tag(*arguments)
        finally:
            models._models[a.key] = other

    with mock.patch.object(CacheableOperation, "_expect_tag", change):
        answer = served.client.get("/models/a/sample?seed=7", headers={"if-none-match": '"another"'})
    assert models.find("a") is other
    models._models[a.key] = a
    assert answer.content == expected.content
    assert answer.headers["etag"] == expected.headers["etag"]
