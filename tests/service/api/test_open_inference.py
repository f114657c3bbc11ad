"""The Open Inference Protocol, by Triton's own client and by the specification's letter."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton  # type: ignore[import-untyped]
from tritonclient import utils as triton_utils

import vae
from service.api.open_inference import JSON_LENGTH, SCORES
from service.settings import BUNDLED
from tests.service.pictures import Bytes
from tests.service.running import Running, running
from tests.vae.autoencoder import write_folder
from training.metrics.calibration import calibrate
from training.metrics.elbo import latent_means

INFER = "/v2/models/mnist/infer"


@pytest.fixture(scope="module")
def client(served: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        yield client


def tensor(name: str, array: Any, *, binary: bool = True) -> Any:
    kind = {"float32": "FP32", "uint8": "UINT8"}[array.dtype.name]
    given = triton.InferInput(name, list(array.shape), kind)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist")
    assert client.is_model_ready("mnist", "1")
    assert not client.is_model_ready("mnist", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_repository"]
    card = client.get_model_metadata("mnist")
    assert card["inputs"] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 1, 28, 28]},
        {"name": "z", "datatype": "FP32", "shape": [-1, 3]},
    ]
    assert [output["name"] for output in card["outputs"]] == ["mean", "log_variance", "image", *SCORES]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_what_the_service_gives_otherwise(
    client: Any, served: Running, images: Bytes, binary_in: bool, binary_out: bool
) -> None:
    """To the bit, as floats and as bytes."""
    batch = images[:5, None]
    given = served.client.post(
        "/reconstruct", content=npy(batch), headers={"content-type": "application/x-npy", "accept": "application/json"}
    ).json()
    for sent in (batch, batch.astype(np.float32) / np.float32(255)):
        outputs = [
            triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("image", "mean", "log_variance")
        ]
        result = client.infer("mnist", [tensor("image", sent, binary=binary_in)], outputs=outputs, request_id="seven")
        assert result.get_response()["id"] == "seven"
        for name, key in (("image", "pixels"), ("mean", "mean"), ("log_variance", "log_variance")):
            assert np.array_equal(result.as_numpy(name), np.array(given[key], np.float32))
    z = np.array(given["mean"], np.float32)
    decoded = client.infer("mnist", [tensor("z", z, binary=binary_in)], model_version="1")
    assert np.array_equal(decoded.as_numpy("image"), np.array(given["pixels"], np.float32))
    posterior = client.infer("mnist", [tensor("image", batch)], outputs=[triton.InferRequestedOutput("mean")])
    assert [output["name"] for output in posterior.get_response()["outputs"]] == ["mean"]


def test_scores_are_outputs_that_are_asked_for(client: Any, served: Running, images: Bytes) -> None:
    batch = images[:5, None]
    headers = {"content-type": "application/x-npy", "accept": "application/json"}
    expected = served.client.post("/score", content=npy(batch), headers=headers).json()
    for names in (SCORES, (*SCORES[:1], "image", "mean")):
        outputs = [triton.InferRequestedOutput(name, binary_data=True) for name in names]
        result = client.infer("mnist", [tensor("image", batch)], outputs=outputs)
        assert [output["name"] for output in result.get_response()["outputs"]] == list(names)
        for name in names[:1] if "image" in names else names:
            assert np.array_equal(result.as_numpy(name), np.array(expected[name], np.float32))
            assert result.as_numpy(name).shape == (5,)
    plain = client.infer("mnist", [tensor("image", batch)])
    assert [output["name"] for output in plain.get_response()["outputs"]] == ["mean", "log_variance", "image"]


def test_a_calibrated_model_has_percentiles(images: Bytes, tmp_path: Path) -> None:
    bundled = vae.load(BUNDLED)
    digits = torch.from_numpy(images[:20, None])
    calibration = calibrate(bundled.model, digits, "neg_importance_weighted_bound")
    references = vae.References.of(latent_means(bundled.model, torch.from_numpy(images[:, None])).numpy())
    described: dict[str, Any] = {"training": {}, "metrics": {}}
    path = tmp_path / "m.safetensors"
    vae.save(path, bundled.model, **described, calibration=calibration, references=references)
    with running(checkpoint=tmp_path / "m.safetensors", batch_limit=500) as service:
        asked = {"name": "image", "datatype": "UINT8", "shape": [5, 1, 28, 28], "data": digits[:5].flatten().tolist()}
        names = ["percentile", "importance_weighted_bound", "outlier_factor"]
        outputs = service.client.get("/v2/models/m").json()["outputs"]
        assert {output["name"] for output in outputs} > set(names)
        body = {"inputs": [asked], "outputs": [{"name": name} for name in names]}
        outputs = service.client.post("/v2/models/m/infer", json=body).json()["outputs"]
        headers = {"content-type": "application/x-npy", "accept": "application/json"}
        expected = service.client.post("/score", content=npy(digits[:5].numpy()), headers=headers).json()
        assert {output["name"]: output["data"] for output in outputs} == {name: expected[name] for name in names}
        body["inputs"] = [{**asked, "shape": [6, 1, 28, 28], "data": digits[:6].flatten().tolist()}]
        answer = service.client.post("/v2/models/m/infer", json=body)
        assert (answer.status_code, answer.json()["error"][:45]) == (
            413,
            "The request asks for 600 decoded draws; at mo",
        )


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_the_clients_compression(client: Any, images: Bytes, algorithm: str) -> None:
    plain, compressed = (
        client.infer("mnist", [tensor("image", images[:2, None])], request_compression_algorithm=name)
        for name in (None, algorithm)
    )
    assert np.array_equal(plain.as_numpy("mean"), compressed.as_numpy("mean"))


def test_an_autoencoder_kl(tmp_path: Path) -> None:
    """Its latents are maps; answers are diffusers' own."""
    network = write_folder(tmp_path / "small")
    x = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    posterior = network.encode(2 * torch.from_numpy(x) - 1).latent_dist
    expected = {
        "mean": posterior.mean.numpy(),
        "log_variance": posterior.logvar.numpy(),
        "image": (network.decode(posterior.mean).sample / 2 + 0.5).clamp(0, 1).numpy(),
    }
    with (
        running(checkpoint=tmp_path / "small", image_pixel_limit=2 * 32 * 32) as service,
        triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client,
    ):
        described = client.get_model_metadata("small")
        assert [given["shape"] for given in described["inputs"]] == [[-1, 3, 32, 32], [-1, 4, 16, 16]]
        for binary in (True, False):
            outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in expected]
            given = client.infer("small", [tensor("image", x, binary=binary)], outputs=outputs)
            for name, array in expected.items():
                np.testing.assert_allclose(given.as_numpy(name), array, atol=1e-4, rtol=0)
            again = client.infer("small", [tensor("z", expected["mean"], binary=binary)])
            np.testing.assert_allclose(again.as_numpy("image"), expected["image"], atol=1e-4, rtol=0)
        for shape in ([3, 4, 16, 16], [1, 4, 8, 8], [1, 4]):
            with pytest.raises(triton_utils.InferenceServerException, match=r"at most 2048|16, 16\] is expected"):
                client.infer("small", [tensor("z", np.zeros(shape, np.float32))])


def infer(served: Running, body: object, path: str = INFER, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return served.client.post(path, content=content, headers=headers)


Z = {"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize("nested", [False, True])
def test_exactly_as_many_images_as_are_taken(nested: bool) -> None:
    """The frame's own commas are no values."""
    with running(batch_limit=100) as service:
        for count, status in ((100, 200), (101, 413)):
            data = np.zeros((count, 1, 28, 28), np.uint8)
            asked = {"name": "image", "datatype": "UINT8", "shape": [count, 1, 28, 28], "parameters": {"a": [0, 0]}}
            asked["data"] = data.tolist() if nested else data.ravel().tolist()
            answer = infer(service, {"inputs": [asked], "outputs": [{"name": "mean"}]})
            assert answer.status_code == status, answer.text[:200]


def test_data_may_be_nested(served: Running) -> None:
    flat = infer(served, {"inputs": [Z]}).json()
    nested = infer(served, {"inputs": [{**Z, "data": [[0.1, 0.2, 0.3]]}]}).json()
    assert flat == nested
    assert flat["outputs"][0]["shape"] == [1, 1, 28, 28]
    assert len(flat["outputs"][0]["data"]) == 784


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"[1", 400, "not JSON"),
        ({}, 422, "inputs"),
        ({"inputs": []}, 422, "inputs"),
        ({"inputs": [Z, Z]}, 422, "inputs"),
        ({"inputs": [{**Z, "name": "x"}]}, 422, "name"),
        ({"inputs": [{**Z, "datatype": "BYTES"}]}, 422, "datatype"),
        ({"inputs": [{**Z, "datatype": "UINT8"}]}, 422, "FP32 is expected"),
        ({"inputs": [{**Z, "shape": [3]}]}, 422, "[N, 3] is expected"),
        ({"inputs": [{**Z, "shape": [-1, 3]}]}, 422, "shape"),
        ({"inputs": [{**Z, "shape": [10**18, 3]}]}, 413, "at most"),
        ({"inputs": [{**Z, "data": [1, 2]}]}, 422, "2 numbers; 3 are expected"),
        ({"inputs": [{**Z, "data": [[1, 2], [3]]}]}, 422, "a list of FP32 numbers"),
        ({"inputs": [{**Z, "data": ["1", "2", "3"]}]}, 422, "a list of FP32 numbers"),
        ({"inputs": [{**Z, "data": [1, 2, 1e39]}]}, 422, "finite"),
        ({"inputs": [{**Z, "data": [1, 2, 10**400]}]}, 422, "a list of FP32 numbers"),
        ({"inputs": [{**Z, "data": None}]}, 422, "has 0 numbers"),
        (
            {"inputs": [{**Z, "parameters": {"binary_data_size": 12}}]},
            422,
            "size is 12, and 0 bytes follow",
        ),
        ({"inputs": [Z], "outputs": [{"name": "mean"}]}, 422, "'z' has no output 'mean'"),
        ({"inputs": [Z], "outputs": [{"name": "elbo"}]}, 422, "'z' has no output 'elbo'; its outputs are image."),
        (
            {
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [0.0] * 784}],
                "outputs": [{"name": "percentile"}],
            },
            422,
            "'image' has no output 'percentile'",
        ),
        ({"inputs": [Z], "outputs": [{"name": "colour"}]}, 422, "name"),
        (
            {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [2.0] * 784}]},
            422,
            "[0, 1]",
        ),
        (
            {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 28, 28], "data": [256] * 784}]},
            422,
            "numbers",
        ),
    ],
)
def test_errors_are_the_protocols(served: Running, body: object, status: int, said: str) -> None:
    answer = infer(served, body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/models/mnist/stats", 404),
        ("POST", "/v2/repository/models/mnist/load", 404),
    ],
)
def test_paths_and_methods_that_are_not_there(served: Running, method: str, path: str, status: int) -> None:
    answer = served.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert path in answer.json()["error"]
    assert served.client.get("/v2x").json()["status"] == 404


def test_triton_s_client_tells_what_is_not_there(client: Any) -> None:
    with pytest.raises(triton_utils.InferenceServerException, match="There is no /v2/models/mnist/stats here"):
        client.get_inference_statistics("mnist")
    with pytest.raises(triton_utils.InferenceServerException, match="no model 'other'"):
        client.get_model_metadata("other")


def test_pages_of_other_sites_may_speak_it() -> None:
    with running(cors_origins=("https://a.example",)) as service:
        names = ["content-encoding", "content-type", JSON_LENGTH.lower()]
        asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
        preflight = service.client.options(INFER, headers={**asked, "access-control-request-headers": ",".join(names)})
        assert preflight.status_code == 200
        answer = service.client.get("/v2", headers={"origin": "https://a.example"})
        given = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"shape", "dtype", JSON_LENGTH.lower()} <= set(given)


def test_other_models_and_other_lengths(served: Running) -> None:
    assert "no model 'other'" in infer(served, {"inputs": [Z]}, path="/v2/models/other/infer").json()["error"]
    given = infer(served, {"inputs": [Z]}, **{"Inference-Header-Content-Length": "9999"})
    assert given.status_code == 400
    assert "Inference-Header-Content-Length" in given.json()["error"]


@pytest.mark.parametrize("given", ["\xb2", "1" * 5000, "-1", "+3", "1_0", "0x1", ""])
def test_a_length_that_is_no_number(served: Running, given: str) -> None:
    length = {JSON_LENGTH.encode(): given.encode("latin-1")}
    answer = served.client.post(INFER, json={"inputs": [Z]}, headers=length)
    assert answer.status_code == (400 if given else 200)
    assert len(answer.text) < 200 or not given


def test_pixels_are_limited() -> None:
    with running(image_pixel_limit=2 * 784) as service:
        for count, status in ((2, 200), (3, 413)):
            z = {**Z, "shape": [count, 3], "data": [0.0] * 3 * count}
            image = {"name": "image", "datatype": "UINT8", "shape": [count, 1, 28, 28], "data": [0] * 784 * count}
            for sent in (z, image):
                answer = infer(service, {"inputs": [sent]})
                assert answer.status_code == status
                assert status == 200 or f"{count * 784} pixels" in answer.json()["error"]


def test_decoded_latents_are_counted() -> None:
    with running() as service:
        infer(service, {"inputs": [{**Z, "shape": [2, 3], "data": [3, 4, 0, 0, 0, 2]}]})
        lines = service.client.get("/metrics").text.splitlines()
    assert 'vae_latent_distance_count{model="mnist",version="1"} 2.0' in lines
    assert 'vae_latent_distance_sum{model="mnist",version="1"} 7.0' in lines


def test_the_key_is_asked_for() -> None:
    with running(api_keys=("key",)) as service:
        assert infer(service, {"inputs": [Z]}).status_code == 401
        assert infer(service, {"inputs": [Z]}, **{"x-api-key": "key"}).status_code == 200
        assert service.client.get("/v2/models/mnist").status_code == 401
        assert service.client.get("/v2/health/ready").status_code == 200
