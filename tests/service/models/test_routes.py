"""Which model answers."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.settings import SettingsError, read_settings
from tests.service.api.small import JSON, ask, head, known, whole
from tests.service.models.small_models import put, write
from tests.service.pictures import png
from tests.service.problems import problem
from tests.service.running import Running, Stalled, running, wait_until

pytestmark = pytest.mark.slow

Z = [0.3, 1.6, -2.4]


@pytest.fixture
def served(folder: Path, impatient: None) -> Iterator[Running]:
    (folder / "models.yaml").write_text("aliases: {default: b/1, stable: b/1}\nmodels: {a: {batch_limit: 30}}")
    with running(models=folder) as service:
        yield service


def decode(service: Running, prefix: str = "", query: str = "") -> bytes:
    response = service.client.post(f"{prefix}/decode{query}", json=Z)
    assert response.status_code == 200, response.text
    return response.content


def states(service: Running) -> dict[str, Any]:
    return {f"{each['name']}/{each['version']}": each for each in service.client.get("/models").json()["models"]}


def test_names_versions_and_aliases(served: Running) -> None:
    answers = [decode(served, prefix) for prefix in ("/models/a", "/models/b", "/models/stable")]
    assert len(set(answers)) == 3
    for _ in range(2):  # the second time on the fast path
        assert decode(served) == decode(served, "/models/default") == decode(served, "/models/b", "?version=1")
        assert decode(served, "/models/stable") == answers[2] == decode(served)
        assert decode(served, "/models/b") == answers[1] == decode(served, "/models/b", "?version=2")
        scaled = decode(served, "/models/b", "?scale=2&version=1")
        assert scaled == decode(served, "/models/stable", "?scale=2") != decode(served, "/models/b", "?scale=2")
    assert served.client.get("/models/a/model").json()["name"] == "a"
    assert served.client.get("/model").json()["sha256"] == states(served)["b/1"]["sha256"]


def test_all_operations_of_a_model(served: Running) -> None:
    sampled = served.client.get("/models/a/sample?seed=1").content
    assert sampled != served.client.get("/sample?seed=1").content
    image = png(np.zeros((28, 28), np.uint8))
    for operation in ("encode", "reconstruct", "score"):
        answers = [
            served.client.post(f"{prefix}/{operation}", content=image, headers={"content-type": "image/png"})
            for prefix in ("/models/a", "")
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].content != answers[1].content
    tensor = np.array([Z], np.float32).tobytes()
    query = "?shape=1&shape=3&output_type=pt"
    headers = {"content-type": "tensor/binary"}
    remote = [
        served.client.post(f"{p}/remote/decode{query}", content=tensor, headers=headers) for p in ("/models/a", "")
    ]
    assert [answer.status_code for answer in remote] == [200, 200]
    assert remote[0].content != remote[1].content


def test_what_is_not_there_is_told(served: Running) -> None:
    for path in ("/models/c/decode", "/models/b/decode?version=3", "/models/b/decode?version=x"):
        assert "/models lists" in problem(served.client.post(path, json=Z), 404)["detail"]
    assert "/models lists" in served.client.get("/v2/models/c").json()["error"]
    problem(served.client.get("/models/a/models"), 404)
    problem(served.client.get("/models/a/livez"), 404)
    problem(served.client.get("/models/a"), 404)
    refused = served.client.get("/models/a/decode")
    assert "takes POST" in problem(refused, 405)["detail"]
    assert refused.headers["allow"] == "POST"
    problem(served.client.post("/models/a/decode", json=[Z] * 31), 413)
    assert served.client.post("/decode", json=[Z] * 31).status_code == 200


def test_the_open_inference_protocol(served: Running) -> None:
    client = served.client
    request = {"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": Z}]}

    def infer(path: str) -> Any:
        return client.post(f"/v2/models/{path}/infer", json=request).json()

    assert client.get("/v2/models/b").json()["versions"] == ["1", "2"]
    first, second, stable = (infer(path) for path in ("b/versions/1", "b", "stable"))
    assert [answer["model_version"] for answer in (first, second, stable)] == ["1", "2", "1"]
    assert first["outputs"] == stable["outputs"] != second["outputs"]
    assert client.get("/v2/models/a/versions/1/ready").json() == {"name": "a", "ready": True}
    index = client.post("/v2/repository/index", json={"ready": True}).json()
    assert {(each["name"], each["version"], each["state"]) for each in index} == {
        *(("a", "1", "READY"), ("b", "1", "READY"), ("b", "2", "READY"))
    }
    assert client.post("/v2/repository/index").json() == index
    assert "model_repository" in client.get("/v2").json()["extensions"]


def test_metrics_and_log_name_the_model(served: Running) -> None:
    decode(served, "/models/a")
    decode(served, "/models/b", "?version=1")
    text = served.client.get("/metrics").text
    for model, version in (("a", "1"), ("b", "1")):
        labels = f'model="{model}",route="/decode",status="200",version="{version}"'
        assert f'vae_requests_total{{media_type="image/png",method="POST",{labels}}} 1.0' in text
        assert f'vae_batch_rows_count{{model="{model}",operation="draw",version="{version}"}} 1.0' in text
        assert f'vae_model_info{{architecture="mlp",image_shape="1×28×28",latent_dim="3",model="{model}"' in text
    assert 'vae_queue_rows{model="b",version="2"} 0.0' in text
    assert 'vae_refusals_total{model="b",reason="failure",version="2"} 0.0' in text


def test_the_fast_path_changes_with_the_models(served: Running, folder: Path, sources: list[Path]) -> None:
    begun = known(served, head(b"POST /models/a/decode", JSON))
    model = served.app.state.models.find("a")
    plans = served.state["fast_path"]._plans
    backend = weakref.ref(model.context.engine._backend)
    assert [plan.model for plan in plans.values() if plan] == [model]
    before, after = decode(served, "/models/a"), decode(served, "/models/b")
    body = str(Z).encode()
    assert ask(served, whole(begun, body))[0].endswith(before)
    put(sources[2], folder / "a.safetensors")
    wait_until(lambda: served.app.state.models.find("a") is not model)
    assert model.requests == 0
    assert model.context is None
    assert backend() is None  # without a garbage collection
    for _ in range(3):
        assert ask(served, whole(begun, body))[0].endswith(after)
    assert model not in [plan.model for plan in plans.values() if plan]
    assert states(served)["a/1"]["state"] == "ready"


def test_a_request_is_answered_by_the_model_that_it_was_let_in_for(served: Running, folder: Path) -> None:
    models = served.app.state.models
    model = models.find("a")
    before, engine = decode(served, "/models/a"), model.context.engine
    wider = write(folder / ".wider.safetensors", 7, hidden_dim=16)

    def replace() -> None:
        wait_until(lambda: model.requests == 1)
        wider.rename(folder / "a.safetensors")
        wait_until(lambda: models.find("a") is not model)
        assert model.context is not None

    body = slowly(b"[0.3, 1.6, ", b"-2.4]", replace)
    answer = served.client.post("/models/a/decode", content=body, headers={"content-type": "application/json"})
    assert answer.content == before
    wait_until(lambda: model.context is None)
    assert models.find("a").context.engine is not engine
    assert decode(served, "/models/a") != before


def slowly(first: bytes, last: bytes, between: Any) -> Iterator[bytes]:
    yield first
    between()
    yield last


def test_a_version_that_is_removed_is_answered_with_no_longer(served: Running, folder: Path) -> None:
    first = decode(served, "/models/b", "?version=1")
    (folder / "b/2.safetensors").unlink()
    wait_until(lambda: "b/2" not in states(served))
    assert decode(served, "/models/b") == first
    assert 'version="2"' not in served.client.get("/metrics").text


def test_a_flood_for_one_model_leaves_places_to_the_others(folder: Path) -> None:
    with running(models=folder, queue_limit=8) as service:
        model = service.app.state.models.find("a")
        model.places = service.admission._confirmed = 4  # as many as are free
        refused = service.client.post("/models/a/decode", json=Z)
        assert "share of the queue" in problem(refused, 503)["detail"]
        assert refused.headers["retry-after"] == "1"
        decode(service, "/models/b")
        model.places = service.admission._confirmed = 0
        decode(service, "/models/a")


def test_a_slow_model_does_not_stop_the_others(folder: Path) -> None:
    with running(models=folder) as service, ThreadPoolExecutor(1) as pool:
        service.swap_engine(Stalled)  # of a, the first by name
        stalled = service.context.engine
        assert isinstance(stalled, Stalled)
        waiting = pool.submit(httpx.post, f"{service.client.base_url}/models/a/decode", json=Z, timeout=20)
        service.wait_for(in_flight=1)
        decode(service, "/models/b")
        stalled.released.set()
        assert waiting.result().status_code == 200


def test_both_a_checkpoint_and_a_folder_are_a_mistake(folder: Path) -> None:
    with pytest.raises(SettingsError, match="takes the place of checkpoint"):
        read_settings(["--models", str(folder), "--checkpoint", str(folder / "a.safetensors")])
