import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vae
from service.settings import BUNDLED
from tests.service.pictures import Bytes, npy, png, read_npy, read_png
from tests.service.running import Running, running
from tests.vae import reference as numpy_reference
from tests.vae.reference import Floats, Reference

PNG, JSON, NPY = "image/png", "application/json", "application/x-npy"
Z = [0.31, 1.66, -2.49]


def post_png(client: httpx.Client, path: str, digit: Bytes, accept: str = "*/*") -> httpx.Response:
    return client.post(path, content=png(digit), headers={"content-type": PNG, "accept": accept})


def post_npy(client: httpx.Client, path: str, array: NDArray[Any], accept: str = NPY) -> httpx.Response:
    return client.post(path, content=npy(array), headers={"content-type": NPY, "accept": accept})


def close(values: object, expected: Floats, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(values, np.float64), expected, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def x(images: Bytes) -> Floats:
    """The digits, (200, 784) in [0, 1]."""
    return images.reshape(200, 784) / 255


# What the service is for.


def test_picture_to_latent_to_picture(client: httpx.Client, images: Bytes) -> None:
    for digit in images[:10]:
        posterior = post_png(client, "/encode", digit)
        assert posterior.headers["content-type"] == JSON
        assert posterior.json().keys() == {"mean", "log_variance"}
        assert len(posterior.json()["mean"]) == len(posterior.json()["log_variance"]) == 3
        decoded = client.post("/decode", json=posterior.json()["mean"])
        assert decoded.headers["content-type"] == PNG
        assert read_png(decoded.content).shape == (28, 28)
        reconstruction = post_png(client, "/reconstruct", digit)
        assert reconstruction.headers["content-type"] == PNG
        assert reconstruction.content == decoded.content


def test_encodes_as_the_reference(client: httpx.Client, images: Bytes, x: Floats, reference: Reference) -> None:
    mean, log_variance = reference.encode(x)
    for index in range(0, 200, 10):
        single = post_png(client, "/encode", images[index]).json()
        close(single["mean"], mean[index])
        close(single["log_variance"], log_variance[index])
    parts = [("image", ("digit.png", png(digit), PNG)) for digit in images]
    batch = client.post("/encode", files=parts).json()
    close(batch["mean"], mean)
    close(batch["log_variance"], log_variance)


def test_decodes_as_the_reference(client: httpx.Client, x: Floats, reference: Reference) -> None:
    z, _ = reference.encode(x)
    expected = reference.decode(z).reshape(200, 1, 28, 28)
    close(client.post("/decode", json={"z": z.tolist()}, headers={"accept": JSON}).json()["pixels"], expected)
    close(read_npy(post_npy(client, "/decode", z).content), expected)
    sheet = read_png(post_npy(client, "/decode", z, PNG).content).astype(np.float64)
    close(sheet[:28, :28] / 255, expected[0, 0], 0.5 / 255 + 1e-5)


def test_reconstructs_with_the_references_losses(
    client: httpx.Client, images: Bytes, x: Floats, reference: Reference
) -> None:
    mean, log_variance = reference.encode(x)
    distortion = numpy_reference.reconstruction_loss(reference.logits(mean), x)
    rate = numpy_reference.kl_divergence(mean, log_variance)
    answer = post_npy(client, "/reconstruct", images, JSON).json()
    close(answer["mean"], mean)
    close(answer["log_variance"], log_variance)
    close(answer["pixels"], reference.decode(mean).reshape(200, 1, 28, 28))
    np.testing.assert_allclose(answer["reconstruction_loss"], distortion, rtol=1e-5)
    np.testing.assert_allclose(answer["kl_divergence"], rate, rtol=1e-5)
    np.testing.assert_allclose(answer["elbo"], -(distortion + rate), rtol=1e-5)
    assert "z" not in answer


# Shape in, shape out.

IMAGE_SHAPES = [(28, 28), (1, 28, 28), (1, 1, 28, 28), (2, 28, 28), (5, 1, 28, 28)]


@pytest.mark.parametrize("shape", IMAGE_SHAPES, ids=str)
def test_image_arrays(client: httpx.Client, images: Bytes, reference: Reference, shape: tuple[int, ...]) -> None:
    array = images[: int(np.prod(shape)) // 784].reshape(shape)
    single = shape in ((28, 28), (1, 28, 28))
    lead: tuple[int, ...] = () if single else shape[:1]
    posterior = post_npy(client, "/encode", array, JSON).json()
    assert np.shape(posterior["mean"]) == np.shape(posterior["log_variance"]) == (*lead, 3)
    close(np.reshape(posterior["mean"], (-1, 3)), reference.encode(array.reshape(-1, 784) / 255)[0])
    stacked = read_npy(post_npy(client, "/encode", array).content)
    assert (stacked.shape, stacked.dtype) == ((*lead, 2, 3), np.dtype(np.float32))
    assert np.array_equal(stacked[..., 0, :], np.array(posterior["mean"], np.float32))
    assert np.array_equal(stacked[..., 1, :], np.array(posterior["log_variance"], np.float32))
    answer = post_npy(client, "/reconstruct", array, JSON).json()
    assert np.shape(answer["pixels"]) == (*lead, 1, 28, 28)
    assert np.shape(answer["elbo"]) == lead
    pixels = read_npy(post_npy(client, "/reconstruct", array).content)
    assert (pixels.shape, pixels.dtype) == ((*lead, 1, 28, 28), np.dtype(np.float32))


FORMS: dict[str, Callable[[Floats], NDArray[Any]]] = {
    "uint8": lambda x: (x * 255).round().astype(np.uint8),
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "float64": lambda x: x,
    "big-endian": lambda x: x.astype(">f4"),
    "fortran order": lambda x: np.asfortranarray(x.astype(np.float32)),
}


@pytest.mark.parametrize("form", FORMS)
def test_image_arrays_of_every_type(client: httpx.Client, x: Floats, reference: Reference, form: str) -> None:
    array = FORMS[form](x[:6].reshape(6, 28, 28))
    tolerance = 5e-3 if form == "float16" else 1e-5
    close(post_npy(client, "/encode", array, JSON).json()["mean"], reference.encode(x[:6])[0], tolerance)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "uint8"])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 3)], ids=str)
def test_latent_arrays(client: httpx.Client, reference: Reference, form: str, shape: tuple[int, ...]) -> None:
    z = np.random.default_rng(0).standard_normal(shape)
    pixels = read_npy(post_npy(client, "/decode", FORMS[form](z)).content)
    assert pixels.shape == (*shape[:-1], 1, 28, 28)
    expected = reference.decode(z.reshape(-1, 3)).reshape(pixels.shape)
    close(pixels, expected, 5e-3 if form == "float16" else 1e-5)


@pytest.mark.parametrize(("sent", "lead"), [(Z, ()), ([Z], (1,)), ([Z, [0, 1, 2]], (2,))])
@pytest.mark.parametrize("named", [False, True])
def test_latents_as_json(client: httpx.Client, sent: list[Any], lead: tuple[int, ...], named: bool) -> None:
    answer = client.post("/decode", json={"z": sent} if named else sent, headers={"accept": JSON})
    pixels = answer.json()["pixels"]
    assert np.shape(pixels) == (*lead, 1, 28, 28)
    array = np.array(sent, np.float32)
    assert np.array_equal(np.array(pixels, np.float32), read_npy(post_npy(client, "/decode", array).content))


def test_pictures_in_a_form(client: httpx.Client, images: Bytes) -> None:
    one, two = (("image", (name, png(digit), PNG)) for name, digit in zip("ab", images, strict=False))
    single = client.post("/encode", files=[one]).json()
    assert single == post_png(client, "/encode", images[0]).json()
    batch = client.post("/encode", files=[one, two]).json()
    other = post_png(client, "/encode", images[1]).json()
    assert batch == {name: [single[name], other[name]] for name in single}
    grid = client.post("/reconstruct", files=[one, two])
    assert read_png(grid.content).shape == (28, 56)


def test_content_type_may_be_any_image_type_and_carry_parameters(client: httpx.Client, images: Bytes) -> None:
    expected = post_png(client, "/encode", images[0]).json()
    for content_type in ("image/jpeg", "IMAGE/PNG", "image/png; charset=binary"):
        answer = client.post("/encode", content=png(images[0]), headers={"content-type": content_type})
        assert answer.json() == expected


# Draws.


def test_sample_is_the_decoded_draw_of_its_seed(client: httpx.Client, reference: Reference) -> None:
    answer = client.get("/sample", params={"n": 5, "seed": 7}, headers={"accept": JSON})
    document = answer.json()
    assert document.keys() == {"seed", "z", "pixels"}
    assert document["seed"] == 7
    assert answer.headers["x-seed"] == "7"
    assert np.shape(document["z"]) == (5, 3)
    assert np.shape(document["pixels"]) == (5, 1, 28, 28)
    close(document["pixels"], reference.decode(np.array(document["z"])).reshape(5, 1, 28, 28))


def test_a_seeds_draw_is_one_in_every_media_type(client: httpx.Client) -> None:
    query = {"n": 3, "seed": 11, "columns": 1}
    pixels = np.array(client.get("/sample", params=query, headers={"accept": JSON}).json()["pixels"], np.float32)
    assert np.array_equal(read_npy(client.get("/sample", params=query, headers={"accept": NPY}).content), pixels)
    sheet = read_png(client.get("/sample", params=query).content)
    assert np.array_equal(sheet, np.round(pixels.reshape(84, 28).astype(np.float64) * 255).astype(np.uint8))


def test_the_first_draws_are_the_same_for_any_n(client: httpx.Client) -> None:
    answers = [
        client.get("/sample", params={"n": n, "seed": 3}, headers={"accept": JSON}).json() for n in (200, 1, 2, 17, 65)
    ]
    for answer in answers:
        count = len(answer["z"])
        assert answer["z"] == answers[0]["z"][:count]
        assert answer["pixels"] == answers[0]["pixels"][:count]


def test_draws_are_standard_normal_and_temperature_scales_them(client: httpx.Client) -> None:
    def draw(temperature: float) -> Floats:
        query = {"n": 500, "seed": 1, "temperature": temperature}
        return np.array(client.get("/sample", params=query, headers={"accept": JSON}).json()["z"])

    z = draw(1)
    close(z.mean(0), np.zeros(3), 0.2)
    close(z.std(0), np.ones(3), 0.15)
    close(draw(0.5), z / 2, 1e-6)
    close(draw(0), 0 * z, 0)


def test_without_a_seed_the_service_chooses_one_and_tells_it(client: httpx.Client, images: Bytes) -> None:
    drawn = [client.get("/sample") for _ in range(4)]
    assert len({answer.content for answer in drawn}) == 4
    for answer in drawn:
        again = client.get("/sample", params={"seed": answer.headers["x-seed"]})
        assert again.content == answer.content
    for path, accept in product(("/encode", "/reconstruct"), (JSON, NPY)):
        first, second = (post_png(client, f"{path}?draw=true", images[0], accept) for _ in range(2))
        assert first.content != second.content
        again = post_png(client, f"{path}?draw=true&seed={first.headers['x-seed']}", images[0], accept)
        assert again.content == first.content
        assert again.headers["x-seed"] == first.headers["x-seed"]


def test_what_was_not_drawn_has_no_seed(client: httpx.Client, images: Bytes) -> None:
    for path in ("/encode", "/reconstruct", "/encode?seed=4", "/reconstruct?seed=4"):
        assert "x-seed" not in post_png(client, path, images[0]).headers
    assert post_png(client, "/encode?seed=4", images[0]).json().keys() == {"mean", "log_variance"}


def test_the_largest_seed_is_a_seed(client: httpx.Client) -> None:
    answer = client.get("/sample", params={"seed": 2**64 - 1}, headers={"accept": JSON})
    assert answer.json()["seed"] == 2**64 - 1
    assert answer.headers["x-seed"] == str(2**64 - 1)


def test_encode_and_reconstruct_draw_the_same_sample(client: httpx.Client, images: Bytes) -> None:
    batch = images[:20]
    encoded = post_npy(client, "/encode?draw=true&seed=9", batch, JSON).json()
    reconstructed = post_npy(client, "/reconstruct?draw=true&seed=9", batch, JSON).json()
    for name in ("mean", "log_variance", "z"):
        assert encoded[name] == reconstructed[name]
    noise = np.array(client.get("/sample?n=20&seed=9", headers={"accept": JSON}).json()["z"])
    close(encoded["z"], np.array(encoded["mean"]) + noise * np.exp(np.array(encoded["log_variance"]) / 2))
    decoded = client.post("/decode", json=encoded["z"], headers={"accept": JSON}).json()
    assert decoded["pixels"] == reconstructed["pixels"]
    stacked = read_npy(post_npy(client, "/encode?draw=true&seed=9", batch).content)
    assert stacked.shape == (20, 3, 3)
    assert np.array_equal(stacked[:, 2], np.array(encoded["z"], np.float32))
    alone = post_npy(client, "/encode?draw=true&seed=9", batch[0], JSON).json()
    assert alone["z"] == encoded["z"][0]


# Walks.


def test_interpolates_in_a_straight_line(client: httpx.Client, reference: Reference) -> None:
    start, stop = [-1.0, 0.0, 1.0], [1.0, 1.0, 0.0]
    answer = client.post("/interpolate", json={"from": start, "to": stop}, headers={"accept": JSON}).json()
    assert answer.keys() == {"z", "pixels"}
    close(answer["z"], np.linspace(start, stop, 8), 1e-6)
    close(answer["pixels"], reference.decode(np.array(answer["z"])).reshape(8, 1, 28, 28))


def test_interpolates_along_the_arc(client: httpx.Client) -> None:
    body = {"from": [2, 0, 0], "to": [0, 2, 0], "steps": 7, "method": "spherical"}
    z = np.array(client.post("/interpolate", json=body, headers={"accept": JSON}).json()["z"])
    angles = np.linspace(0, np.pi / 2, 7)
    close(z, np.stack([2 * np.cos(angles), 2 * np.sin(angles), 0 * angles], 1), 1e-6)


def test_traverses_one_dimension(client: httpx.Client) -> None:
    body = {"at": Z, "dimensions": [1]}
    z = np.array(client.post("/traverse", json=body, headers={"accept": JSON}).json()["z"])
    expected = np.tile(Z, (15, 1))
    expected[:, 1] = np.linspace(-3, 3, 15)
    close(z, expected, 1e-6)


def test_traverses_two_dimensions_from_left_to_right_and_top_to_bottom(client: httpx.Client) -> None:
    body = {"at": Z, "dimensions": [2, 0], "low": -1, "high": 2, "steps": 4}
    answer = client.post("/traverse", json=body, headers={"accept": JSON}).json()
    grid = np.array(answer["z"]).reshape(4, 4, 3)
    close(grid[:, :, 2], np.tile([-1, 0, 1, 2], (4, 1)), 1e-6)
    close(grid[:, :, 0], np.tile([[-1], [0], [1], [2]], 4), 1e-6)
    close(grid[:, :, 1], np.full((4, 4), Z[1]), 1e-6)
    sheet = read_png(client.post("/traverse", json=body).content)
    assert sheet.shape == (112, 112)
    pixels = np.array(answer["pixels"]).reshape(4, 4, 28, 28)
    close(sheet[28:56, 56:84] / 255, pixels[1, 2], 0.5 / 255 + 1e-6)


def test_a_walk_is_one_row(client: httpx.Client) -> None:
    steps = {"from": Z, "to": [0, 0, 0], "steps": 5}
    assert read_png(client.post("/interpolate", json=steps).content).shape == (28, 140)
    walk = {"at": Z, "dimensions": [0], "steps": 6}
    assert read_png(client.post("/traverse", json=walk).content).shape == (28, 168)
    assert read_png(client.post("/traverse?columns=2", json=walk).content).shape == (84, 56)


# The PNG's shape.


@pytest.mark.parametrize(
    ("query", "size"),
    [
        ("n=1", (28, 28)),
        ("n=2", (28, 56)),
        ("n=3", (56, 56)),
        ("n=16", (112, 112)),
        ("n=17", (112, 140)),
        ("n=6&columns=6", (28, 168)),
        ("n=6&columns=4", (56, 112)),
        ("n=2&columns=9", (28, 56)),
        ("n=1&scale=5", (140, 140)),
        ("n=3&scale=2&columns=1", (168, 56)),
    ],
)
def test_grids(client: httpx.Client, query: str, size: tuple[int, int]) -> None:
    assert read_png(client.get(f"/sample?seed=0&{query}").content).shape == size


def test_scale_repeats_each_pixel(client: httpx.Client) -> None:
    plain, large = (client.post(f"/decode?scale={scale}", json=Z).content for scale in (1, 3))
    assert np.array_equal(read_png(large), read_png(plain).repeat(3, 0).repeat(3, 1))


def test_empty_places_of_a_grid_are_black(client: httpx.Client) -> None:
    sheet = read_png(client.get("/sample?n=3&seed=0").content)
    assert not sheet[28:, 28:].any()
    assert sheet[28:, :28].any()


# The Accept header.


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("", PNG),
        ("*/*", PNG),
        ("image/*", PNG),
        ("application/json", JSON),
        ("application/*", JSON),
        ("application/x-npy", NPY),
        ("image/png;q=0.5, application/json", JSON),
        ("application/json;q=0.2, application/x-npy;q=0.3, */*;q=0.1", NPY),
        ("image/png;q=0, */*", JSON),
        ("text/html, */*;q=0.1", PNG),
        ("TEXT/HTML, Application/JSON ; Q=0.9", JSON),
    ],
)
def test_negotiation(client: httpx.Client, accept: str, given: str) -> None:
    answer = client.get("/sample?seed=1", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == given
    read: Callable[[bytes], object] = {PNG: read_png, NPY: read_npy}.get(given, lambda _: answer.json())
    read(answer.content)


def test_accept_may_come_in_two_lines(client: httpx.Client) -> None:
    answer = client.get("/sample", headers=[("accept", "text/html"), ("accept", "application/json")])
    assert answer.headers["content-type"] == JSON


# The same question, the same bytes.


def test_answers_do_not_depend_on_what_runs_beside_them(served: Running, images: Bytes) -> None:
    """Batches of all sizes at once, so that the micro-batches are never the same."""
    calls: list[Callable[[], httpx.Response]] = []
    client = served.client
    for n in (1, 2, 3, 5, 16, 17, 33, 63, 64, 65, 100, 137):
        calls += [
            lambda n=n: client.get(f"/sample?n={n}&seed=7", headers={"accept": NPY}),  # type: ignore[misc]
            lambda n=n: post_npy(client, f"/reconstruct?draw=true&seed={n}", images[:n]),  # type: ignore[misc]
            lambda n=n: post_npy(client, "/encode", images[n : 2 * n] if n < 100 else images[:n]),  # type: ignore[misc]
        ]
    alone = [call().content for call in calls]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            order = np.random.default_rng(0).permutation(len(calls))
            beside = list(pool.map(lambda index: calls[index]().content, order))
            assert beside == [alone[index] for index in order]


def test_a_row_does_not_depend_on_its_batch(client: httpx.Client, images: Bytes) -> None:
    batch = images[:80, None]
    whole = read_npy(post_npy(client, "/reconstruct", batch).content)
    for n in range(1, 80):
        assert np.array_equal(read_npy(post_npy(client, "/reconstruct", batch[:n]).content), whole[:n]), n


def test_large_json_is_whole(client: httpx.Client) -> None:
    """Above 100 000 values it is written in pieces."""
    document = client.get("/sample?n=300&seed=5", headers={"accept": JSON}).json()
    pixels = read_npy(client.get("/sample?n=300&seed=5", headers={"accept": NPY}).content)
    assert np.array_equal(np.array(document["pixels"], np.float32), pixels)


# What is being served.


def test_model_card(client: httpx.Client) -> None:
    card = client.get("/model").json()
    checkpoint = vae.load(BUNDLED)
    assert card == {
        "name": "mnist",
        "architecture": checkpoint.model.config.architecture,
        "likelihood": "bernoulli",
        "image_shape": [1, 28, 28],
        "latent_shape": [3],
        "stride": None,
        "temporal_stride": None,
        "frame_rate": None,
        "normalisation": None,
        "dtype": "float32",
        "latent_dim": 3,
        "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        "sha256": hashlib.sha256(BUNDLED.read_bytes()).hexdigest(),
        "format_version": 1,
        "training": checkpoint.training,
        "figures": checkpoint.metrics,
        "calibration": None,
    }


def test_latents_of_the_test_set(client: httpx.Client, x: Floats, reference: Reference) -> None:
    document = client.get("/latents").json()
    assert document.keys() == {"mean", "label"}
    assert len(document["mean"]) == len(document["label"]) == 10_000
    close(document["mean"][:200], reference.encode(x)[0], 1e-4)
    with np.load(Path(__file__).parents[2] / "data" / "digits.npz") as sample:
        assert document["label"][:200] == sample["labels"].tolist()


def test_probes(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_other_shapes_and_dimensions_are_served(tmp_path: Path) -> None:
    """A colour model of two dimensions: nothing takes one channel, 28 pixels or three numbers for granted."""
    config = vae.VAEConfig(image_shape=(3, 16, 24), hidden_dim=8, latent_dim=2)
    path = tmp_path / "colour.safetensors"
    vae.save(path, vae.VAE(config), training={}, metrics={})
    rgb = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    with running(checkpoint=path) as service:
        client = service.client
        assert client.get("/model").json()["image_shape"] == [3, 16, 24]
        from_png = post_png(client, "/encode", rgb).json()
        from_npy = post_npy(client, "/encode", rgb.transpose(2, 0, 1), JSON).json()
        assert from_png == from_npy
        assert len(from_png["mean"]) == 2
        assert read_png(client.post("/decode", json=from_png["mean"]).content).shape == (16, 24, 3)
        assert read_png(client.get("/sample?n=4").content).shape == (32, 48, 3)
        assert client.get("/latents").status_code == 404
        grey = client.post("/encode", content=npy(rgb[:, :, 0]), headers={"content-type": NPY})
        assert grey.status_code == 422
        assert "(3, 16, 24) or (N, 3, 16, 24)" in grey.json()["detail"]


def test_articles_own_file_is_served(tmp_path: Path, images: Bytes) -> None:
    torch.manual_seed(0)
    model = vae.VAE(vae.VAEConfig())
    path = tmp_path / "variational_autoencoder.pt"
    torch.save(model.state_dict(), path)
    with running(checkpoint=path) as service:
        card = service.client.get("/model").json()
        assert (card["name"], card["parameters"]) == ("variational_autoencoder", 927_870)
        mean = post_png(service.client, "/encode", images[0]).json()["mean"]
    expected, _ = model.encode(torch.from_numpy(images[:1]).unsqueeze(1) / 255)
    close(mean, expected.detach().numpy()[0])
