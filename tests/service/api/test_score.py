"""/score: how unusual images are, and where."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pyarrow import ipc
from safetensors.numpy import load as load_tensors

import vae
from service.api.request import Request
from service.settings import BUNDLED
from tests.service.pictures import Bytes, npy, png, read_npy, read_png
from tests.service.problems import problem
from tests.service.running import Running, running
from training.metrics.calibration import calibrate
from training.metrics.elbo import evaluate, latent_means
from training.metrics.importance import importance_weighted_bound

pytestmark = pytest.mark.slow

JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"
SAFETENSORS, ARROW = "application/x-safetensors", "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
NAMES = ["elbo", "elbo_standard_error", "reconstruction_loss", "kl_divergence"]


def post(client: httpx.Client, images: Bytes, query: str = "", accept: str = JSON) -> httpx.Response:
    return client.post(f"/score{query}", content=npy(images), headers={"content-type": NPY, "accept": accept})


def pixels(images: Bytes) -> torch.Tensor:
    return torch.from_numpy(images).unsqueeze(1)


@pytest.fixture(scope="module")
def calibrated(images: Bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The bundled model, calibrated by −ELBO on the first 150 test digits."""
    bundled = vae.load(BUNDLED)
    path = tmp_path_factory.mktemp("calibrated") / "mnist.safetensors"
    calibration = calibrate(bundled.model, pixels(images[:150]), "neg_elbo")
    vae.save(path, bundled.model, training=bundled.training, metrics=bundled.metrics, calibration=calibration)
    with running(checkpoint=path) as service:
        yield service


@pytest.fixture(scope="module")
def referring(images: Bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same by its outlier factors among the latents of 2,500 turned and shifted digits."""
    bundled = vae.load(BUNDLED)
    path = tmp_path_factory.mktemp("referring") / "mnist.safetensors"
    shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    many = np.concatenate([np.roll(images[100:], shift, (1, 2)) for shift in shifts])
    references = vae.References.of(latent_means(bundled.model, pixels(many)).numpy())
    calibration = calibrate(bundled.model, pixels(images[:100]), references=references)
    vae.save(path, bundled.model, training={}, metrics={}, calibration=calibration, references=references)
    with running(checkpoint=path) as service:
        yield service


@pytest.fixture(scope="module")
def calibrated_bound(images: Bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same by its importance-weighted bound."""
    bundled = vae.load(BUNDLED)
    path = tmp_path_factory.mktemp("calibrated") / "mnist.safetensors"
    calibration = calibrate(bundled.model, pixels(images[:100]), "neg_importance_weighted_bound")
    vae.save(path, bundled.model, training={}, metrics={}, calibration=calibration)
    with running(checkpoint=path) as service:
        yield service


def test_scores_are_those_of_evaluate(client: httpx.Client, images: Bytes) -> None:
    model = vae.load(BUNDLED).model
    for seed in (0, 5):
        answer = post(client, images, f"?seed={seed}&samples=40").json()
        expected = evaluate(model, pixels(images), draws=10, seed=seed)
        assert -np.mean(answer["elbo"], dtype=float) == pytest.approx(expected.neg_elbo, rel=1e-6)
        bound = importance_weighted_bound(model, pixels(images), 40, seed)
        np.testing.assert_allclose(answer["importance_weighted_bound"], bound.numpy(), rtol=1e-5)


def test_scores_are_those_of_the_model_in_python(client: httpx.Client, images: Bytes) -> None:
    answer = post(client, images, "?draws=20&samples=30&seed=3").json()
    scores = vae.load(BUNDLED).model.score(pixels(images) / 255, draws=20, samples=30, seed=3).as_dict()
    assert answer.keys() == scores.keys()
    for name, values in scores.items():
        np.testing.assert_allclose(answer[name], values.numpy(), rtol=2e-5 if "error" not in name else 1e-3)


def test_losses_are_those_of_reconstruct(client: httpx.Client, images: Bytes) -> None:
    score = post(client, images).json()
    headers = {"content-type": NPY, "accept": JSON}
    reconstruction = client.post("/reconstruct?draws=10&seed=0", content=npy(images), headers=headers).json()
    for name in NAMES:
        assert score[name] == reconstruction[name]


def test_a_score_depends_on_no_other_image(client: httpx.Client, images: Bytes) -> None:
    query = "?samples=20&seed=8"
    whole = post(client, images, query).json()
    turned = post(client, images[::-1], query).json()
    for index in (0, 77, 199):
        alone = post(client, images[index], query).json()
        for name, values in whole.items():
            assert alone[name] == values[index] == turned[name][-1 - index]
    assert post(client, images[0], "?samples=20&seed=9").json()["elbo"] != whole["elbo"][0]


def test_without_a_seed_it_is_zero(client: httpx.Client, images: Bytes) -> None:
    answer = post(client, images[:3])
    assert answer.headers["x-seed"] == "0"
    assert answer.json() == post(client, images[:3], "?seed=0&draws=10&samples=0").json()
    assert list(answer.json()) == NAMES


def test_a_picture_and_its_array_have_the_same_score(client: httpx.Client, images: Bytes) -> None:
    sent = {"content-type": PNG, "accept": JSON}
    answer = client.post("/score", content=png(images[0]), headers=sent)
    assert answer.json() == post(client, images[0]).json()
    inverted = client.post("/score?invert=true", content=png(255 - images[0]), headers=sent)
    assert inverted.json() == answer.json()


def test_each_format_has_what_json_has(calibrated: Running, images: Bytes) -> None:
    client, names = calibrated.client, [*NAMES, "percentile", "anomalous"]
    expected = post(client, images[:4]).json()
    assert list(expected) == names
    tensors = load_tensors(post(client, images[:4], accept=SAFETENSORS).content)
    table = ipc.open_stream(io.BytesIO(post(client, images[:4], accept=ARROW).content)).read_all()
    lines = [json.loads(line) for line in post(client, images[:4], accept=NDJSON).text.splitlines()]
    array = read_npy(post(client, images[:4], accept=NPY).content)
    assert array.shape == (4, 6)
    for column, name in enumerate(names):
        for found in (tensors[name], table[name].to_numpy(), [line[name] for line in lines], array[:, column]):
            np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(expected[name], np.float32))
    assert type(lines[0]["anomalous"]) is bool
    assert tensors["anomalous"].dtype == bool
    assert read_npy(post(client, images[0], accept=NPY).content).shape == (6,)


def test_percentiles_are_shares_of_validation_images(calibrated: Running, images: Bytes) -> None:
    answer = post(calibrated.client, images, "?level=0.9").json()
    neg_elbo, percentile = -np.array(answer["elbo"]), np.array(answer["percentile"])
    for value, found in zip(neg_elbo, percentile, strict=True):
        share = (neg_elbo[:150] < value).mean()
        assert found == pytest.approx(share, abs=0.015)
    assert answer["anomalous"] == (percentile > 0.9).tolist()
    assert 5 <= sum(answer["anomalous"][:150]) <= 16
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    single = post(calibrated.client, noise, "?level=0.999").json()
    assert (single["percentile"], single["anomalous"]) == (1, True)


def test_a_calibrated_outlier_factor(referring: Running, images: Bytes) -> None:
    references = referring.context.references
    answer = post(referring.client, images[:100], "?level=0.9").json()
    assert list(answer) == [*NAMES, "outlier_factor", "percentile", "anomalous"]
    headers = {"content-type": NPY, "accept": JSON}
    encoded = referring.client.post("/encode", content=npy(images[:100]), headers=headers).json()
    factor = references.outlier_factor(np.array(encoded["mean"], np.float32))
    np.testing.assert_array_equal(np.array(answer["outlier_factor"], np.float32), factor)
    assert answer["anomalous"] == (np.array(answer["percentile"]) > 0.9).tolist()
    assert np.mean(answer["percentile"]) == pytest.approx(0.5, abs=0.01)
    described = referring.client.get("/model").json()["calibration"]
    assert described.pop("highest_loss") == pytest.approx(np.max(answer["reconstruction_loss"]), rel=1e-5)
    assert described == {"score": "outlier_factor", "draws": 10, "samples": 0, "seed": 0, "images": 100}
    for index in (0, 77):
        alone = post(referring.client, images[index]).json()
        assert alone["outlier_factor"] == answer["outlier_factor"][index]
        assert alone["percentile"] == answer["percentile"][index]


def test_outlier_factors_of_many_images_are_computed_beside_the_event_loop(
    referring: Running, images: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    compute = vae.References.outlier_factor

    def recorded(references: vae.References, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        threads.append(threading.current_thread().name)
        return compute(references, mean)

    monkeypatch.setattr(vae.References, "outlier_factor", recorded)
    for batch in (images[0], images):
        assert post(referring.client, batch).status_code == 200
    assert not threads[0].startswith("short")
    assert threads[1].startswith("short")


def test_outlier_factors_are_charged_to_the_memory_budget(
    referring: Running, images: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[int] = []
    reserve = Request.reserve

    def recorded(request: Request, size: int) -> None:
        charged.append(size)
        reserve(request, size)

    monkeypatch.setattr(Request, "reserve", recorded)
    assert post(referring.client, images).status_code == 200
    assert referring.context.references.working_bytes(200) in charged


def test_the_model_tells_whether_it_is_calibrated(client: httpx.Client, calibrated: Running) -> None:
    assert client.get("/model").json()["calibration"] is None
    described = calibrated.client.get("/model").json()["calibration"]
    assert described.pop("highest_loss") > 0
    assert described == {"score": "neg_elbo", "draws": 10, "samples": 0, "seed": 0, "images": 150}


def test_a_calibrated_bound_is_computed_unless_samples_are_given(calibrated_bound: Running, images: Bytes) -> None:
    client = calibrated_bound.client
    answer = post(client, images[:3]).json()
    assert answer == post(client, images[:3], "?samples=100").json()
    assert {"importance_weighted_bound", "percentile", "anomalous"} <= answer.keys()
    for samples in (0, 50):  # another bound, of which nothing is known
        assert "percentile" not in post(client, images[:3], f"?samples={samples}").json()


def test_a_map_is_the_loss_of_each_pixel(client: httpx.Client, images: Bytes) -> None:
    answer = post(client, images[:5], "?map=true").json()
    assert list(answer) == [*NAMES, "pixel_losses"]
    losses = np.array(answer["pixel_losses"], np.float32)
    assert losses.shape == (5, 1, 28, 28)
    np.testing.assert_allclose(losses.sum((1, 2, 3)), answer["reconstruction_loss"], rtol=1e-5)
    assert np.array_equal(read_npy(post(client, images[:5], "?map=true", NPY).content), losses)
    assert np.array_equal(read_npy(post(client, images[0], "?map=true", NPY).content), losses[0])
    assert np.array_equal(
        load_tensors(post(client, images[:5], "?map=true", SAFETENSORS).content)["pixel_losses"], losses
    )


def test_a_map_as_a_picture_goes_from_the_lowest_loss_to_the_highest(client: httpx.Client, images: Bytes) -> None:
    images = np.stack([images[0], np.full((28, 28), 128, np.uint8)])  # each pixel of grey costs log 2 at least
    losses = read_npy(post(client, images[:2], "?map=true", NPY).content)[:, 0].astype(np.float64)
    low, high = losses.min((1, 2), keepdims=True), losses.max((1, 2), keepdims=True)
    levels = np.rint((losses - low) / (high - low) * 255)
    picture = read_png(post(client, images[:2], "?map=true&columns=2", PNG).content)
    assert picture.shape == (28, 56)
    assert np.abs(np.hstack(list(levels)) - picture).max() <= 1
    alone = client.post("/score?map=true", content=npy(images[1]), headers={"content-type": NPY})
    assert alone.headers["content-type"] == PNG
    assert np.array_equal(read_png(alone.content), picture[:, 28:])
    assert (picture[:, 28:].min(), picture[:, 28:].max()) == (0, 255)
    assert losses[1].min() > 0.5
    assert read_png(post(client, images[0], "?map=true&scale=3", PNG).content).shape == (84, 84)


def test_without_a_map_there_is_no_picture(client: httpx.Client, images: Bytes) -> None:
    refused = problem(post(client, images[0], accept=PNG), 406)
    assert "this route can give application/json" in refused["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "draws=1",
        "draws=many",
        "samples=-1",
        "seed=-1",
        f"seed={2**64}",
        "level=1.01",
        "level=-0.1",
        "level=nan",
        "map=3",
    ],
)
def test_bad_options(client: httpx.Client, images: Bytes, query: str) -> None:
    refused = problem(post(client, images[0], f"?{query}"), 422)
    assert refused["errors"][0]["pointer"] == "/" + query.partition("=")[0]


def test_decoded_samples_count_against_the_limits_of_a_batch(images: Bytes) -> None:
    with running(batch_limit=100, image_pixel_limit=784 * 90) as service:
        assert post(service.client, images[:9]).status_code == 200
        assert post(service.client, images[:4], "?samples=20").status_code == 200
        refused = problem(post(service.client, images[:11]), 413)
        assert refused["detail"] == "The request asks for 110 decoded draws; at most 100 are allowed."
        refused = problem(post(service.client, images[:4], "?samples=26"), 413)
        assert refused["detail"] == "The request asks for 104 decoded draws; at most 100 are allowed."
        refused = problem(post(service.client, images[:10], "?draws=10"), 413)
        assert refused["detail"].startswith("The images decoded for draws would have 78400 pixels; at most 70560")
        assert post(service.client, images[:80], "?map=true", NPY).status_code == 200  # decodes each image once
