"""What diffusers, SD.Next and ComfyUI-HFRemoteVae send for models of videos, over two classes and all dtypes."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers.utils.remote_utils import remote_decode, remote_encode
from diffusers.video_processor import VideoProcessor
from PIL import Image

from tests.service.pictures import check_mp4, read_mp4, read_png
from tests.service.problems import problem
from tests.service.running import Running, running
from tests.vae.diffusion.networks import write_network
from vae.diffusion.model import DiffusionModel

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`do_scaling` is deprecated:FutureWarning")]

TENSOR, BASE64 = "tensor/binary", "tensor/base64"
CLASSES = {"AutoencoderKLWan": (3, 9), "AutoencoderKLHunyuanVideo": (2, 5), "AutoencoderKLCogVideoX": (2, 8)}
"""Latent frames, and frames."""
DTYPES = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 4e-2}
PROCESSOR = VideoProcessor(vae_scale_factor=8)


@pytest.fixture(scope="module", params=CLASSES)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder = tmp_path_factory.mktemp("models") / "small"
    model = DiffusionModel(write_network(folder, kind)).eval()
    model.folder = folder  # type: ignore[assignment]
    return model


@pytest.fixture(scope="module")
def served(model: Any) -> Iterator[Running]:
    with running(checkpoint=Path(model.folder), image_pixel_limit=100_000) as service:
        yield service


@pytest.fixture(scope="module")
def url(served: Running) -> str:
    return f"http://127.0.0.1:{served.port}/remote/decode"


@pytest.fixture(scope="module")
def z(kind: str) -> torch.Tensor:
    """The latent of one video of 16×24 pixels."""
    return torch.randn(1, 4, CLASSES[kind][0], 2, 3, generator=torch.Generator().manual_seed(1))


def decoded(model: DiffusionModel, z: torch.Tensor) -> torch.Tensor:
    """As the pipeline has it: normalised latents → (N, C, T, H, W) in about [-1, 1]."""
    return model.decode_raw(torch.from_numpy(model.config.normalisation.denormalise(z.float().numpy())))


def pictures(video: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(T, H, W, 3), as diffusers makes frames of what is decoded."""
    return np.stack([np.asarray(frame) for frame in PROCESSOR.postprocess_video(video, output_type="pil")[0]])


# diffusers


def test_diffusers_tensors(model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    expected = decoded(model, z)
    for name, tolerance in DTYPES.items():
        sent = z.to(getattr(torch, name))
        found = remote_decode(url, sent, output_type="pt", return_type="pt")
        assert found.dtype == sent.dtype
        torch.testing.assert_close(found.float(), decoded(model, sent), rtol=0, atol=tolerance)
    found = remote_decode(url, z, output_type="pt", return_type="pil", processor=PROCESSOR)
    assert np.abs(np.stack(found).astype(int) - pictures(expected)).max() <= 1
    found = remote_decode(url, z, output_type="pt", return_type="pil", partial_postprocess=True)
    assert np.abs(np.stack(found).astype(int) - pictures(expected)).max() <= 1
    found = remote_decode(url, z, output_type="pt", return_type="pt", partial_postprocess=True)
    assert (found.dtype, found.shape) == (torch.uint8, (expected.shape[2], 16, 24, 3))
    two = remote_decode(url, torch.cat([z, -z]), output_type="pt", return_type="pt")
    torch.testing.assert_close(two, torch.cat([expected, decoded(model, -z)]), rtol=0, atol=1e-4)


def test_diffusers_frames(model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    """With `output_type=pil` the processor is a flag, and the answer the tensor of the frames."""
    expected = decoded(model, z)
    found = remote_decode(url, z, output_type="pil", processor=PROCESSOR)
    assert np.abs(np.stack(found).astype(int) - pictures(expected)).max() <= 1
    found = remote_decode(url, z, output_type="pil", return_type="pt", processor=PROCESSOR)
    frames = PROCESSOR.postprocess_video(expected, output_type="pt")[0]
    torch.testing.assert_close(found, frames, rtol=0, atol=1e-4)


def test_diffusers_mp4(kind: str, model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    found = remote_decode(url, z, output_type="mp4", return_type="mp4")
    assert isinstance(found, bytes)
    assert len(read_mp4(found)) == CLASSES[kind][1]
    check_mp4(found, pictures(decoded(model, z)))


def test_diffusers_scaling(model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    unscaled = remote_decode(url, z, do_scaling=False, output_type="pt", return_type="pt")
    torch.testing.assert_close(unscaled, model.decode_raw(z), rtol=0, atol=1e-4)
    scaled = remote_decode(url, z, scaling_factor=0.5, shift_factor=0.25, output_type="pt", return_type="pt")
    torch.testing.assert_close(scaled, model.decode_raw(z / 0.5 + 0.25), rtol=0, atol=1e-4)


def test_diffusers_encode(model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    video = decoded(model, z).clamp(-1, 1)
    mean, _ = model.encode((video + 1) / 2)
    encode_at = url.replace("decode", "encode")
    torch.testing.assert_close(remote_encode(encode_at, video), mean, rtol=0, atol=1e-3)
    scaled = remote_encode(encode_at, video, scaling_factor=0.5, shift_factor=0.25)
    torch.testing.assert_close(scaled, (mean - 0.25) * 0.5, rtol=0, atol=1e-3)
    with pytest.raises(RuntimeError, match="shape is missing; send the shape of the tensor"):
        remote_encode(encode_at, Image.new("RGB", (24, 16)))


# SD.Next and ComfyUI


def post(url: str, query: str, z: torch.Tensor, accept: str, content_type: str = TENSOR) -> httpx.Response:
    shape = "".join(f"&shape={size}" for size in z.shape)
    body = z.numpy().tobytes()
    if content_type == BASE64:
        body = json.dumps({"inputs": b64encode(body).decode()}).encode()
    headers = {"content-type": content_type, "accept": accept}
    return httpx.post(f"{url}?{query}{shape}&dtype=float32", content=body, headers=headers, timeout=30, trust_env=False)


RAW = "output_type=pt&partial_postprocess=False"


@pytest.mark.parametrize(
    "query",
    [
        f"input_tensor_type=binary&{RAW}&output_tensor_type=binary",  # SD.Next
        f"do_scaling=False&{RAW}&height=16&width=16",  # ComfyUI: eight times the axes 2 and 3
        f"do_scaling=False&{RAW}&height=24&width=16",
    ],
)
def test_raw_tensors(model: DiffusionModel, url: str, z: torch.Tensor, query: str) -> None:
    answer = post(url, query, z, TENSOR)
    shape = json.loads(answer.headers["shape"])
    assert answer.headers["dtype"] == "float32"
    expected = model.decode_raw(z)
    assert shape == list(expected.shape)
    np.testing.assert_allclose(np.frombuffer(answer.content, np.float32).reshape(shape), expected, atol=1e-4)


def test_comfy_base64(model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    document = post(url, f"do_scaling=False&{RAW}", z, BASE64, BASE64).json()
    shape = document["parameters"]["shape"]
    found = np.frombuffer(b64decode(document["inputs"]), np.float32).reshape(shape)
    np.testing.assert_allclose(found, model.decode_raw(z), atol=1e-4)


@pytest.mark.parametrize(("content_type", "accept"), [(BASE64, "text/plain"), (TENSOR, "text/plain"), (TENSOR, "*/*")])
def test_comfy_mp4(model: DiffusionModel, url: str, z: torch.Tensor, content_type: str, accept: str) -> None:
    answer = post(url, "do_scaling=False&output_type=mp4", z, accept, content_type)
    assert answer.headers["content-type"] == "video/mp4"
    check_mp4(answer.content, pictures(model.decode_raw(z)))


def test_pictures_are_grids_of_frames(kind: str, model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    """SD.Next asks for them by the user's setting."""
    query = "input_tensor_type=binary&image_format={}&output_type=pil"
    frames, side = pictures(model.decode_raw(z)), 3
    sheet = read_png(post(url, query.format("png"), z, "image/png").content)
    assert np.abs(sheet[:16, :24].astype(int) - frames[0]).max() <= 1
    assert np.abs(sheet[16:32, 24:48].astype(int) - frames[side + 1]).max() <= 1
    assert post(url, query.format("jpg"), z, "image/jpeg").content.startswith(b"\xff\xd8")


def test_a_latent_without_batch_axis(model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    answer = post(url, RAW, z[0], TENSOR)
    assert json.loads(answer.headers["shape"]) == list(model.decode_raw(z).shape)


def test_refusals(model: DiffusionModel, url: str, z: torch.Tensor) -> None:
    two = torch.cat([z, z])
    for query, accept in (
        ("output_type=mp4", "text/plain"),
        ("output_type=pil", TENSOR),
        ("output_type=pt&partial_postprocess=True", TENSOR),
    ):
        detail = problem(post(url, query, two, accept), 422)["detail"]
        assert detail == "shape has 2 videos; send them one by one, or ask for output_type=pt."
    assert problem(post(url, "output_type=mp4", z, "image/png"), 406)
    detail = problem(post(url, RAW, z[:, :3], TENSOR), 422)["detail"]
    assert "(of any number of frames and any height and width) is expected" in detail
    near = model.config.frames_near(6)
    assert 6 not in near
    video = torch.zeros(1, 3, 6, 16, 16)
    detail = problem(post(url.replace("decode", "encode"), "", video, TENSOR), 422)["detail"]
    assert f"(of {', '.join(map(str, near))} frames and any height and width, multiples of" in detail
    large = torch.zeros(1, 4, 21, 8, 8)
    assert "pixels; at most 100000 are allowed" in problem(post(url, "output_type=mp4", large, "*/*"), 413)["detail"]


def test_models_of_images_have_no_mp4() -> None:
    with running() as service:
        url = f"http://127.0.0.1:{service.port}/remote/decode"
        detail = problem(post(url, "output_type=mp4", torch.zeros(1, 3), "text/plain"), 422)["detail"]
    assert detail == "output_type is mp4; mlp is a model of images: ask for pil or pt."
