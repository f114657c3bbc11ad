"""The plug-in value, and the ELBO as a mean over draws of the posterior."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load as load_tensors

from tests.service.pictures import Bytes, npy
from tests.service.problems import problem
from tests.service.running import running
from tests.vae import reference as numpy_reference
from tests.vae.reference import Reference
from training.__main__ import main
from vae.noise import image_noise

JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"


def post(client: httpx.Client, images: Bytes, query: str = "", accept: str = JSON) -> httpx.Response:
    return client.post(f"/reconstruct{query}", content=npy(images), headers={"content-type": NPY, "accept": accept})


def test_the_plug_in_value_is_that_of_the_mean(client: httpx.Client, images: Bytes, reference: Reference) -> None:
    x = images.reshape(-1, 784) / 255
    mean, log_variance = reference.encode(x)
    loss = numpy_reference.reconstruction_loss(reference.logits(mean), x)
    expected = -(loss + numpy_reference.kl_divergence(mean, log_variance))
    answer = post(client, images).json()
    np.testing.assert_allclose(answer["plug_in_elbo"], expected, rtol=1e-5)
    assert answer["elbo"] == answer["plug_in_elbo"]  # for clients of earlier versions
    assert "elbo_standard_error" not in answer


def test_the_elbo_is_the_mean_over_draws(client: httpx.Client, images: Bytes, reference: Reference) -> None:
    images = images[:40]
    x = images.reshape(-1, 784) / 255
    noise = image_noise(images, 50, (3,), 7)
    mean, log_variance = reference.encode(x)
    kl = numpy_reference.kl_divergence(mean, log_variance)
    z = mean + np.exp(log_variance / 2) * noise.swapaxes(0, 1)
    values = np.stack([-(numpy_reference.reconstruction_loss(reference.logits(each), x) + kl) for each in z])
    response = post(client, images, "?draws=50&seed=7")
    answer = response.json()
    assert response.headers["x-seed"] == "7"
    np.testing.assert_allclose(answer["elbo"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(answer["elbo_standard_error"], values.std(0, ddof=1) / np.sqrt(50), rtol=1e-3)
    assert answer["plug_in_elbo"] == post(client, images).json()["plug_in_elbo"]
    assert np.mean(answer["elbo"]) < np.mean(answer["plug_in_elbo"]) - 1


def test_an_images_elbo_depends_on_no_other(client: httpx.Client, images: Bytes) -> None:
    names = ("elbo", "elbo_standard_error")
    whole = post(client, images, "?draws=20&seed=3").json()
    tensors = load_tensors(post(client, images[::-1], "?draws=20&seed=3", SAFETENSORS).content)
    alone = post(client, images[5], "?draws=20&seed=3").json()
    for name in names:
        assert np.array_equal(tensors[name][::-1], np.array(whole[name], np.float32))
        assert alone[name] == whole[name][5]
    assert post(client, images[5], "?draws=20&seed=4").json()["elbo"] != alone["elbo"]


def test_the_chosen_seed_repeats_draw_and_draws(client: httpx.Client, images: Bytes) -> None:
    first = post(client, images[:3], "?draw=true&draws=5")
    again = post(client, images[:3], f"?draw=true&draws=5&seed={first.headers['x-seed']}")
    assert first.json() == again.json()


def test_one_drawn_image_gives_an_estimate_of_the_elbo(client: httpx.Client, images: Bytes) -> None:
    answer = post(client, images[0], "?draw=true&seed=1").json()
    assert answer["elbo"] == pytest.approx(-(answer["reconstruction_loss"] + answer["kl_divergence"]))
    assert "plug_in_elbo" not in answer


@pytest.mark.parametrize("accept", ["image/png", NPY])
def test_an_answer_without_losses_takes_no_draws(client: httpx.Client, images: Bytes, accept: str) -> None:
    refused = problem(post(client, images[0], "?draws=5", accept), 422)
    assert refused["errors"][0]["pointer"] == "/draws"
    assert refused["detail"] == f"draws: {accept} has no losses; send 'Accept: application/json', or leave out draws."


@pytest.mark.parametrize("draws", ["1", "0", "-3", "many"])
def test_bad_draws(client: httpx.Client, images: Bytes, draws: str) -> None:
    assert problem(post(client, images[0], f"?draws={draws}"), 422)["errors"][0]["pointer"] == "/draws"


def test_draws_count_against_the_limits_of_a_batch(images: Bytes) -> None:
    with running(batch_limit=100, image_pixel_limit=784 * 90) as service:
        assert post(service.client, images[:10], "?draws=9").status_code == 200
        refused = problem(post(service.client, images[:10], "?draws=11"), 413)
        assert refused["detail"] == "The request asks for 110 decoded draws; at most 100 are allowed."
        refused = problem(post(service.client, images[:10], "?draws=10"), 413)
        assert refused["detail"].startswith("The images decoded for draws would have 78400 pixels; at most 70560")


def test_encode_of_the_training_package_gives_the_same(client: httpx.Client, images: Bytes, tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", images)
    options = ["--draws", "10", "--seed", "3", "--batch-size", "50"]
    assert main(["encode", str(tmp_path / "digits.npy"), "--out", str(tmp_path / "out"), *options]) == 0
    table = pq.read_table(sorted((tmp_path / "out").glob("part-*.parquet")))
    answer = post(client, images, "?draws=10&seed=3").json()
    for name, tolerance in (("elbo", 1e-5), ("elbo_standard_error", 1e-3)):
        np.testing.assert_allclose(table[name].to_numpy(), answer[name], rtol=tolerance)
