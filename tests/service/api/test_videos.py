"""The native routes and the Open Inference Protocol for models of videos: Wan's and CogVideoX's autoencoders."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load, save

from tests.service.pictures import check_mp4, npy, psnr, read_mp4, read_npy
from tests.service.problems import bad_fields, problem
from tests.service.running import Running, running
from tests.vae.diffusion.networks import write_network
from vae.diffusion.model import DiffusionModel
from vae_client import Client

pytestmark = pytest.mark.slow

JSON, NPY, PNG, MP4, WEBP = "application/json", "application/x-npy", "image/png", "video/mp4", "image/webp"
SAFETENSORS = "application/x-safetensors"
PIXELS = 2 * 9 * 64 * 48
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models") / "wan"


@pytest.fixture(scope="module")
def model(folder: Path) -> DiffusionModel:
    return DiffusionModel(write_network(folder, "AutoencoderKLWan")).eval()


@pytest.fixture(scope="module")
def served(model: DiffusionModel, folder: Path) -> Iterator[Running]:
    with running(checkpoint=folder, image_pixel_limit=PIXELS, batch_limit=4) as service:
        yield service


@pytest.fixture(scope="module")
def client(served: Running) -> httpx.Client:
    return served.client


@pytest.fixture(scope="module")
def z() -> Floats:
    """Latents of two videos of nine frames."""
    return np.random.default_rng(0).standard_normal((2, 4, 3, 8, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def videos(model: DiffusionModel, z: Floats) -> Floats:
    """What they are decoded to, (2, 3, 9, 64, 48) in [0, 1]."""
    return np.stack([model.to_image_(model.decode(torch.from_numpy(latent[None])))[0].numpy() for latent in z])


def frames(video: Floats) -> NDArray[np.uint8]:
    """(C, T, H, W) → (T, H, W, C)."""
    return (video * 255 + 0.5).astype(np.uint8).transpose(1, 2, 3, 0)


def post(client: httpx.Client, path: str, array: Any, accept: str = NPY) -> httpx.Response:
    return client.post(path, content=npy(array), headers={"content-type": NPY, "accept": accept})


def test_decode_to_arrays(client: httpx.Client, z: Floats, videos: Floats) -> None:
    """As diffusers has them: channels before frames, which /encode takes back."""
    np.testing.assert_allclose(read_npy(post(client, "/decode", z).content), videos, atol=1e-4)
    np.testing.assert_allclose(read_npy(post(client, "/decode", z[0]).content), videos[0], atol=1e-4)
    found = client.post("/decode", content=save({"z": z}), headers={"content-type": SAFETENSORS, "accept": SAFETENSORS})
    np.testing.assert_allclose(load(found.content)["pixels"], videos, atol=1e-4)
    one_frame = read_npy(post(client, "/decode", z[:, :, :1, :4]).content)
    assert one_frame.shape == (2, 3, 1, 32, 48)
    np.testing.assert_allclose(
        post(client, "/decode", z[0, :, :2, :1, :1], JSON).json()["pixels"],
        read_npy(post(client, "/decode", z[0, :, :2, :1, :1]).content),
        atol=1e-6,
    )


def test_decode_to_files(client: httpx.Client, z: Floats, videos: Floats) -> None:
    answer = post(client, "/decode?fps=12", z[0], MP4)
    assert answer.headers["content-type"] == MP4
    check_mp4(answer.content, frames(videos[0]))
    answer = post(client, "/decode", z[:1], WEBP)
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (answer.headers["content-type"], image.format, getattr(image, "n_frames", 1)) == (WEBP, "WEBP", 9)
        assert psnr(np.asarray(image.convert("RGB")), frames(videos[0])[0]) > 20
    answer = post(client, "/decode?columns=9", z, PNG)
    sheet = np.asarray(Image.open(io.BytesIO(answer.content)))
    expected = np.concatenate([np.concatenate(list(frames(video)), 1) for video in videos])
    assert np.abs(sheet.astype(int) - expected).max() <= 1


def test_encode_and_reconstruct(client: httpx.Client, model: DiffusionModel, videos: Floats) -> None:
    mean, log_variance = (array.numpy() for array in model.encode(torch.from_numpy(videos[:1])))
    found = post(client, "/encode", videos[0], SAFETENSORS)
    np.testing.assert_allclose(load(found.content)["mean"], mean[0], atol=1e-3)
    np.testing.assert_allclose(load(found.content)["log_variance"], log_variance[0], atol=1e-3)
    assert load(post(client, "/encode?draw=true&seed=1", videos[0], SAFETENSORS).content)["z"].shape == mean[0].shape
    expected = model.to_image_(model.decode(torch.from_numpy(mean))).numpy()
    np.testing.assert_allclose(read_npy(post(client, "/reconstruct", videos[0]).content), expected[0], atol=1e-3)
    losses = post(client, "/reconstruct?draw=true", videos[:, :, :5], JSON).json()
    assert np.shape(losses["z"]) == (2, 4, 2, 8, 6)
    assert np.shape(losses["elbo"]) == (2,)
    check_mp4(post(client, "/reconstruct", videos[0], MP4).content, frames(expected[0]))
    uint8 = post(client, "/reconstruct", (videos[0] * 255 + 0.5).astype(np.uint8))
    np.testing.assert_allclose(read_npy(uint8.content), expected[0], atol=2e-2)


def test_model_and_defaults(client: httpx.Client) -> None:
    card = client.get("/model").json()
    assert card["image_shape"] == [3, 81, 480, 832]
    assert card["latent_shape"] == [4, 21, 60, 104]
    assert (card["stride"], card["temporal_stride"], card["frame_rate"]) == (8, 4, 16)


def test_sample_has_as_many_frames_as_asked(model: DiffusionModel, folder: Path) -> None:
    with running(checkpoint=folder) as service:
        service.swap_engine(lambda engine: nominal(engine, (3, 9, 16, 16), (4, 3, 2, 2)))
        sampled = service.client.get("/sample?frames=5&n=2&seed=3", headers={"accept": SAFETENSORS})
        arrays = load(sampled.content)
        assert (arrays["z"].shape, arrays["pixels"].shape) == ((2, 4, 2, 2, 2), (2, 3, 5, 16, 16))
        answer = service.client.get("/sample?seed=3", headers={"accept": MP4})
        assert answer.headers["x-seed"] == "3"
        assert len(read_mp4(answer.content)) == 9
        detail = problem(service.client.get("/sample?frames=6"), 422)["detail"]
        assert detail == "frames is 6; this model decodes latents to videos of 1, 5, 9 frames."


def test_head_waits_for_the_first_frames_alone(model: DiffusionModel, folder: Path) -> None:
    with running(checkpoint=folder) as service:
        service.swap_engine(lambda engine: nominal(engine, (3, 9, 16, 16), (4, 3, 2, 2)))
        paused = Paused(service.context.engine)
        answer = service.client.head("/sample?seed=3", headers={"accept": MP4})
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, MP4, b"")
        service.wait_for(0)  # though the last frames are not decoded
        paused.released.set()


def nominal(engine: Any, image_shape: tuple[int, ...], latent_shape: tuple[int, ...]) -> Any:
    """A model that is said to be of small videos."""
    engine.config = replace(engine.config, image_shape=image_shape, latent_shape=latent_shape)
    return engine


def test_refusals(client: httpx.Client, z: Floats, videos: Floats) -> None:
    several = problem(post(client, "/decode", z, MP4), 422)["detail"]
    assert several == "video/mp4 has one video, and there would be 2. Ask for one, or for an array."
    shape = problem(post(client, "/decode", z[:, :3]), 422)["detail"]
    assert "(4, 21, 60, 104) or (N, 4, 21, 60, 104) is expected, or another number of frames" in shape
    assert "another number of frames" in problem(post(client, "/encode", videos[0, :, :4]), 422)["detail"]
    picture = client.post("/encode", content=b"", headers={"content-type": PNG})
    assert f"this route takes {NPY}" in problem(picture, 415)["detail"]
    large = problem(post(client, "/decode", np.zeros((4, 11, 8, 6), np.float32)), 413)["detail"]
    assert large == f"The videos would have {41 * 64 * 48} pixels; at most {PIXELS} are allowed."
    assert "pixels" in problem(post(client, "/decode", np.zeros((4, 11, 8, 6), np.float32), MP4), 413)["detail"]
    assert "pixels" in problem(post(client, "/encode", np.zeros((3, 41, 64, 48), np.uint8)), 413)["detail"]
    assert "is for models of images" in problem(post(client, "/score", videos[0], JSON), 404)["detail"]
    assert bad_fields(post(client, "/reconstruct?draws=2", videos[0], JSON)) == [("query", "/draws")]
    asked = {"from": [[[0]]], "to": [[[0]]]}
    assert "is for models of images" in problem(client.post("/interpolate", json=asked), 404)["detail"]
    assert "is for models of images" in problem(client.get("/interpolate?from=0&to=0"), 404)["detail"]
    assert bad_fields(post(client, "/decode?fps=0", z[0], MP4)) == [("query", "/fps")]


def test_models_of_images_have_no_videos(default_client: httpx.Client) -> None:
    body = {"z": [0, 0, 0]}
    assert problem(default_client.post("/decode", json=body, headers={"accept": MP4}), 406)
    assert bad_fields(default_client.get("/sample?frames=5")) == [("query", "/frames")]


@pytest.fixture(scope="module")
def default_client() -> Iterator[httpx.Client]:
    with running() as service:
        yield service.client


def test_the_open_inference_protocol(client: httpx.Client, z: Floats, videos: Floats) -> None:
    described = client.get("/v2/models/wan").json()
    assert [tensor["shape"] for tensor in described["inputs"]] == [[-1, 3, -1, -1, -1], [-1, 4, -1, -1, -1]]
    assert [tensor["name"] for tensor in described["outputs"]] == ["mean", "log_variance", "image"]

    def infer(name: str, array: Floats) -> httpx.Response:
        tensor = {"name": name, "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
        return client.post("/v2/models/wan/infer", json={"inputs": [tensor]})

    small = z[:, :, :2, :2, :1]
    (image,) = infer("z", small).json()["outputs"]
    assert image["shape"] == [2, 3, 5, 16, 8]
    found = np.reshape(image["data"], image["shape"])
    np.testing.assert_allclose(found, read_npy(post(client, "/decode", small).content), atol=1e-5)
    shapes = {
        tensor["name"]: tensor["shape"] for tensor in infer("image", videos[:1, :, :5, :16, :8]).json()["outputs"]
    }
    assert shapes == {"mean": [1, 4, 2, 2, 1], "log_variance": [1, 4, 2, 2, 1], "image": [1, 3, 5, 16, 8]}
    assert "another number of frames" in infer("image", videos[:1, :, :4, :16, :8]).json()["error"]


def test_the_client(served: Running, z: Floats, videos: Floats) -> None:
    with Client(f"http://127.0.0.1:{served.port}") as client:
        np.testing.assert_allclose(client.decode(z).pixels, videos, atol=1e-4)
        assert client.encode(videos[0]).mean.shape == (4, 3, 8, 6)
        assert client.model().image_shape == (3, 81, 480, 832)


class Paused:
    """A decoder that waits for `released` before its last piece, or fails there."""

    def __init__(self, engine: Any, error: Exception | None = None) -> None:
        self.released = Event()
        self.computed: list[int] = []
        backend = engine._piece_decoder._backend
        decode_pieces = backend.decode_pieces

        def decode(z: Floats, take: Any) -> None:
            def take_late(frames: Floats) -> None:
                self.computed.append(frames.shape[2])
                if len(self.computed) == 3:
                    self.released.wait(20)
                    if error:
                        raise error
                take(frames)

            decode_pieces(z, take_late)

        self._backend, self._decode_pieces = backend, decode_pieces
        backend.decode_pieces = decode

    def undo(self) -> None:
        self._backend.decode_pieces = self._decode_pieces


@pytest.fixture
def paused(served: Running) -> Iterator[Paused]:
    paused = Paused(served.context.engine)
    yield paused
    paused.undo()


def request_of(array: Floats, accept: str = MP4) -> bytes:
    body = npy(array)
    head = f"POST /decode HTTP/1.1\r\nHost: a\r\nContent-Type: {NPY}\r\nAccept: {accept}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def receive_until(connection: socket.socket, sought: bytes) -> bytes:
    received = b""
    while sought not in received:
        received += connection.recv(65536)
    return received


def test_frames_are_sent_as_they_are_decoded(served: Running, paused: Paused, z: Floats, videos: Floats) -> None:
    """The first frames are on the wire while the decoder has not computed the last ones."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(request_of(z[0]))
        received = receive_until(connection, b"moof")
        assert paused.computed in ([1, 4], [1, 4, 4])
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"transfer-encoding: chunked" in received
        assert served.admission.in_flight == 1
        paused.released.set()
        received += receive_until(connection, b"\r\n0\r\n\r\n")
    served.wait_for(0)
    check_mp4(body_of(received), frames(videos[0]))


def test_http_1_0_has_no_chunks(served: Running, z: Floats, videos: Floats) -> None:
    """As of a proxy that speaks it to its upstreams: the body ends with the connection."""
    asked = request_of(z[0]).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: a", b"Connection: keep-alive")
    head, _, body = served.exchange(asked).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    check_mp4(body, frames(videos[0]))


def body_of(response: bytes) -> bytes:
    """Join the chunks of a response (RFC 9112, section 7.1)."""
    rest, body = response.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def test_whoever_has_gone_is_computed_for_no_further(served: Running, paused: Paused, z: Floats) -> None:
    long = np.concatenate([z[0], z[1]], 1)[:, :5]
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(request_of(long[:, :, :4, :4]))
        receive_until(connection, b"moof")
    served.wait_for(0)
    paused.released.set()
    assert post(served.client, "/decode", z[0, :, :1, :1, :1], NPY).status_code == 200  # after the computation
    assert paused.computed == [1, 4, 4]  # of five pieces


def test_an_error_after_the_first_frames_cuts_the_response(
    served: Running, z: Floats, caplog: pytest.LogCaptureFixture
) -> None:
    paused = Paused(served.context.engine, RuntimeError("the secret"))
    paused.released.set()
    try:
        received = served.exchange(request_of(z[0]))
    finally:
        paused.undo()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert not received.endswith(b"\r\n0\r\n\r\n")
    assert b"secret" not in received
    assert "is cut off after" in caplog.text
    served.wait_for(0)


def test_an_error_before_the_first_frames_has_a_status(served: Running) -> None:
    engine = served.context.engine
    backend = engine._piece_decoder._backend
    decode_pieces = backend.decode_pieces
    backend.decode_pieces = lambda z, take: take(np.full((1, 3, 1, 8, 8), np.nan, np.float32))
    try:
        answer = post(served.client, "/decode", np.zeros((4, 1, 1, 1), np.float32), MP4)
    finally:
        backend.decode_pieces = decode_pieces
    assert answer.status_code == 500
    assert served.context.counters.refusals["unsound_output"] == 1


def test_the_deadline_cuts_the_response(model: DiffusionModel, folder: Path, z: Floats) -> None:
    with running(checkpoint=folder, request_deadline=1) as service:
        paused = Paused(service.context.engine)
        received = service.exchange(request_of(z[0, :, :, :2, :2]))
        paused.released.set()
        assert received.startswith(b"HTTP/1.1 200 ")
        assert not received.endswith(b"\r\n0\r\n\r\n")
        assert service.context.counters.refusals["deadline"] == 1
        service.wait_for(0)
