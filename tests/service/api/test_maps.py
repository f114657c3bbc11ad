"""The contract where latents are maps, C'×h×w: diffusers' AutoencoderKL."""

import io
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic_core import from_json
from safetensors.numpy import load, save

from service.inference.loading import StartError, load_checkpoint
from service.settings import read_settings
from tests.service.formats.test_formats import ARROW, NDJSON, SAFETENSORS, arrow, read_arrow
from tests.service.pictures import npy
from tests.service.problems import bad_fields, problem
from tests.service.running import Running, running
from vae.noise import image_noise

pytestmark = pytest.mark.slow

JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"
PIXELS = 6 * 32 * 32


@pytest.fixture(scope="module")
def maps(kl_folder: Path) -> Iterator[Running]:
    with running(checkpoint=kl_folder, image_pixel_limit=PIXELS) as service:
        yield service


@pytest.fixture(scope="module")
def client(maps: Running) -> httpx.Client:
    return maps.client


@pytest.fixture(scope="module")
def z() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((3, 4, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def x() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).random((3, 3, 32, 32)).astype(np.float32)


def read(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    media_type = answer.headers["content-type"]
    if media_type == NPY:
        return np.load(io.BytesIO(answer.content))
    return Image.open(io.BytesIO(answer.content)) if media_type == PNG else answer.json()


def images_of(network: Any, z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        decode_raw = network.decode(torch.from_numpy(z)).sample
    images: np.ndarray[Any, Any] = (decode_raw / 2 + 0.5).clamp(0, 1).numpy()
    return images


def near(given: Any, expected: np.ndarray[Any, Any]) -> None:
    assert np.shape(given) == expected.shape
    np.testing.assert_allclose(given, expected, atol=1e-4, rtol=0)


def test_model_card(client: httpx.Client, kl_network: Any) -> None:
    card = client.get("/model").json()
    assert (card["name"], card["architecture"]) == ("small", "AutoencoderKL")
    assert (card["image_shape"], card["latent_shape"], card["latent_dim"]) == ([3, 32, 32], [4, 16, 16], None)
    assert card["parameters"] == sum(parameter.numel() for parameter in kl_network.parameters())
    problem(client.get("/latents"), 404)


@pytest.mark.parametrize("accept", [JSON, NPY])
def test_decode(client: httpx.Client, kl_network: Any, z: np.ndarray[Any, Any], accept: str) -> None:
    expected = images_of(kl_network, z)
    headers = {"accept": accept, "content-type": NPY}
    for sent, images in ((z[0], expected[0]), (z, expected), (z[:1], expected[:1])):
        answers = [
            client.post("/decode", content=npy(sent), headers=headers),
            client.post("/decode", json=sent.tolist(), headers={"accept": accept}),
            client.post("/decode", json={"z": sent.tolist()}, headers={"accept": accept}),
        ]
        for answer in map(read, answers):
            near(answer["pixels"] if accept == JSON else answer, images)


def test_decode_named_arrays(client: httpx.Client, kl_network: Any, z: np.ndarray[Any, Any]) -> None:
    expected = images_of(kl_network, z)
    tensors, rows = {"content-type": SAFETENSORS, "accept": SAFETENSORS}, {"content-type": ARROW, "accept": ARROW}
    for sent, images in ((z[0], expected[0]), (z, expected)):
        near(load(client.post("/decode", content=save({"z": sent}), headers=tensors).content)["pixels"], images)
    near(read_arrow(client.post("/decode", content=arrow(z), headers=rows).content)["pixels"], expected)
    problem(client.post("/decode", content=arrow(z[0]), headers=rows), 422)  # four rows are no latent
    lines = "".join(f"{row.tolist()}\n" for row in z)
    answer = client.post("/decode", content=lines, headers={"content-type": NDJSON, "accept": NPY})
    near(read(answer), expected)


def test_decode_to_png(client: httpx.Client, kl_network: Any, z: np.ndarray[Any, Any]) -> None:
    sheet = read(client.post("/decode?columns=3", content=npy(z), headers={"content-type": NPY}))
    expected = np.concatenate(images_of(kl_network, z), axis=2).transpose(1, 2, 0) * 255
    assert np.abs(np.asarray(sheet) - expected).max() <= 0.51


def test_encode(client: httpx.Client, kl_network: Any, x: np.ndarray[Any, Any]) -> None:
    posterior = kl_network.encode(2 * torch.from_numpy(x) - 1).latent_dist
    headers = {"content-type": NPY}
    answer = read(client.post("/encode?draw=true&seed=3", content=npy(x), headers=headers))
    near(answer["mean"], posterior.mean.numpy())
    near(answer["log_variance"], posterior.logvar.numpy())
    noise = (np.array(answer["z"]) - answer["mean"]) / np.exp(np.array(answer["log_variance"]) / 2)
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    alone = read(client.post("/encode?draw=true&seed=3", content=npy(x[0]), headers={**headers, "accept": NPY}))
    near(alone, np.stack([answer["mean"][0], answer["log_variance"][0], answer["z"][0]]))


def test_pictures(client: httpx.Client, kl_network: Any, x: np.ndarray[Any, Any]) -> None:
    pixels = np.rint(x[0] * 255).astype(np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(picture, "PNG")
    mean = kl_network.encode(torch.from_numpy(pixels)[None] / 127.5 - 1).latent_dist.mean.numpy()
    headers = {"content-type": PNG, "accept": JSON}
    near(read(client.post("/encode", content=picture.getvalue(), headers=headers))["mean"], mean[0])
    answer = read(client.post("/reconstruct", content=picture.getvalue(), headers=headers))
    near(answer["mean"], mean[0])
    near(answer["pixels"], images_of(kl_network, mean)[0])


def test_reconstruct(client: httpx.Client, kl_network: Any, x: np.ndarray[Any, Any]) -> None:
    posterior = kl_network.encode(2 * torch.from_numpy(x) - 1).latent_dist
    answer = read(client.post("/reconstruct", content=npy(x), headers={"content-type": NPY, "accept": JSON}))
    images = images_of(kl_network, posterior.mean.numpy())
    near(answer["pixels"], images)
    np.testing.assert_allclose(answer["reconstruction_loss"], ((images - x) ** 2).sum((1, 2, 3)) / 2, rtol=1e-4)
    np.testing.assert_allclose(answer["kl_divergence"], posterior.kl().numpy(), rtol=1e-4)
    np.testing.assert_allclose(
        np.add(answer["elbo"], answer["kl_divergence"]), np.negative(answer["reconstruction_loss"]), rtol=1e-4
    )
    picture = read(client.post("/reconstruct", content=npy(x[0]), headers={"content-type": NPY}))
    assert picture.size == (32, 32)


def test_score(client: httpx.Client, kl_network: Any, x: np.ndarray[Any, Any]) -> None:
    posterior = kl_network.encode(2 * torch.from_numpy(x[:1]) - 1).latent_dist
    noise = torch.from_numpy(image_noise(x[:1], 6, (4, 16, 16), 2))[0]
    z = posterior.mean + noise * torch.exp(posterior.logvar / 2)
    losses = ((images_of(kl_network, z.numpy()) - x[:1]) ** 2).sum((1, 2, 3)) / 2
    ratios = 0.5 * (noise**2 + posterior.logvar - z**2).flatten(1).sum(1).numpy()
    headers = {"content-type": NPY, "accept": JSON}
    answer = read(client.post("/score?draws=3&samples=6&seed=2&map=true", content=npy(x[0]), headers=headers))
    assert answer["elbo"] == pytest.approx(-(losses[:3].mean() + posterior.kl().item()), rel=1e-4)
    expected = np.logaddexp.reduce(ratios - losses) - np.log(6)
    assert answer["importance_weighted_bound"] == pytest.approx(expected, rel=1e-4)
    error = (images_of(kl_network, posterior.mean.numpy())[0] - x[0]) ** 2
    near(answer["pixel_losses"], error.sum(0, keepdims=True) / 2)
    assert answer["reconstruction_loss"] == pytest.approx(error.sum() / 2, rel=1e-4)


def test_sample(client: httpx.Client, kl_network: Any) -> None:
    answer = read(client.get("/sample?n=3&seed=5&temperature=0.5", headers={"accept": JSON}))
    z = np.array(answer["z"], np.float32)
    assert z.shape == (3, 4, 16, 16)
    assert abs(z.std() - 0.5) < 0.05
    near(answer["pixels"], images_of(kl_network, z))
    near(read(client.get("/sample?seed=5&temperature=0.5", headers={"accept": NPY})), images_of(kl_network, z[:1]))


@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_interpolate(client: httpx.Client, kl_network: Any, z: np.ndarray[Any, Any], method: str) -> None:
    asked = {"from": z[0].tolist(), "to": z[1].tolist(), "steps": 3, "method": method}
    answer = read(client.post("/interpolate", json=asked, headers={"accept": JSON}))
    way = np.array(answer["z"], np.float32)
    near(way[[0, 2]], z[:2])
    norm = np.linalg.norm(way[1])
    assert (
        norm == pytest.approx(np.linalg.norm(z[0]), rel=0.1)
        if method == "spherical"
        else norm < 0.8 * np.linalg.norm(z[0])
    )
    near(answer["pixels"], images_of(kl_network, way))


def test_traverse_makes_no_sense(client: httpx.Client) -> None:
    for answer in (
        client.post("/traverse", json={"at": [0, 0], "dimensions": [0]}),
        client.get("/traverse?at=0,0&dimensions=0", headers={"if-none-match": "*"}),
    ):
        assert "no single dimension" in problem(answer, 404)["detail"]


def test_maps_are_too_long_for_a_query(client: httpx.Client) -> None:
    answer = client.get("/interpolate?from=0,0&to=0,0", headers={"if-none-match": "*"})
    assert "send them to POST /interpolate" in problem(answer, 422)["detail"]


@pytest.mark.parametrize(
    ("sent", "pointers"),
    [
        ([1, 2], [""]),
        (np.zeros((4, 16, 15)).tolist(), [f"/{c}/{y}" for c, y in itertools.product([0], range(8))]),
        (np.zeros((3, 16, 16)).tolist(), [""]),
        (np.zeros((2, 3, 16, 16)).tolist(), ["/0", "/1"]),
        ([np.zeros((4, 16, 16)).tolist(), [1]], ["/1"]),
        ({"z": [[[0] * 16] * 15 + [[0] * 15 + ["x"]]] * 4}, [f"/z/{c}/15/15" for c in range(4)]),
        ([[[]]], [""]),
    ],
)
def test_latents_of_another_shape(client: httpx.Client, sent: Any, pointers: list[str]) -> None:
    assert bad_fields(client.post("/decode", json=sent)) == [("body", pointer) for pointer in pointers]


@pytest.mark.parametrize("shape", [(4, 16), (4, 16, 15), (2, 2, 4, 16, 16), (0, 4, 16, 16), (64, 16)])
def test_arrays_of_another_shape(client: httpx.Client, shape: tuple[int, ...]) -> None:
    answer = client.post("/decode", content=npy(np.zeros(shape, np.float32)), headers={"content-type": NPY})
    assert bad_fields(answer) == [("body", "")]
    assert "(4, 16, 16) or (N, 4, 16, 16) is expected" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (np.zeros((4, 16, 15)).tolist(), "from has 4×16×15 numbers; 4×16×16 are expected"),
        ([[[0] * 16] * 16] * 3 + [[[0] * 16] * 15], "from has lists of several lengths"),
        ([1.0], "from.0"),
    ],
)
def test_interpolating_latents_of_another_shape(
    client: httpx.Client, z: np.ndarray[Any, Any], start: Any, said: str
) -> None:
    answer = client.post("/interpolate", json={"from": start, "to": z[0].tolist()})
    ((_, pointer),) = bad_fields(answer)
    assert pointer.startswith("/from")
    assert said in answer.json()["detail"]


def test_pixels_are_limited_whatever_the_answer(client: httpx.Client, z: np.ndarray[Any, Any]) -> None:
    seven = np.zeros((7, 4, 16, 16), np.float32)
    form = [("image", ("x.png", npy_picture(), PNG))] * 7
    interpolation = {"from": z[0].tolist(), "to": z[1].tolist(), "steps": 7}
    for accept in (JSON, NPY, PNG):
        headers = {"accept": accept}
        answers = [
            client.post("/decode", content=npy(seven), headers={**headers, "content-type": NPY}),
            client.get("/sample?n=7", headers=headers),
            client.post("/interpolate", json=interpolation, headers=headers),
            client.post("/reconstruct", files=form, headers=headers),
        ]
        for answer in answers:
            detail = problem(answer, 413)["detail"]
            assert str(7 * 32 * 32) in detail or accept == PNG
    assert str(7 * 32 * 32) in problem(client.post("/encode", files=form), 413)["detail"]


def npy_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_json_of_too_many_pixels_is_not_parsed(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, content_type: str
) -> None:
    body = b"[" + b"0, " * 60_000 + b"0]"
    parsed: list[Any] = []
    monkeypatch.setattr("service.formats.json_reader.from_json", lambda body, **_: parsed.append(body))
    answer = client.post("/decode", content=body, headers={"content-type": content_type})
    assert "50000 values" in problem(answer, 413)["detail"]
    assert not parsed


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_long_json_is_read_beside_the_event_loop(
    client: httpx.Client, z: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch, content_type: str
) -> None:
    readers: list[str] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        readers.append(threading.current_thread().name)
        return from_json(*arguments, **options)

    monkeypatch.setattr("service.formats.json_reader.from_json", watched)
    for rows in (z[:1].tolist(), 2 * z.tolist()):
        content = json.dumps(rows) if content_type == JSON else "\n".join(map(json.dumps, rows))
        assert client.post("/decode", content=content, headers={"content-type": content_type}).status_code == 200
    assert len(set(readers)) == 2


def test_latents_are_no_folder_s(kl_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sd.v1").symlink_to(kl_folder)
    (tmp_path / "sd.latents.safetensors").write_bytes(b"another's")
    monkeypatch.chdir(kl_folder)
    for path in (".", tmp_path / "sd.v1"):
        with running(checkpoint=Path(path)) as service:
            problem(service.client.get("/latents"), 404)


def test_a_folder_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"has no config\.json"):
        load_checkpoint(read_settings(["--checkpoint", str(tmp_path)]))
