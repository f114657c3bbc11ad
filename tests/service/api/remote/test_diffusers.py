"""diffusers' own client, as it is, against the service."""

import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from PIL import Image

from tests.service.problems import bad_fields, problem
from tests.service.running import Running, running
from tests.vae.autoencoder import write_folder
from vae import VAE, VAEConfig, save

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Of images that go to ±3, in the dtype that they are answered in."""
TENSOR = "tensor/binary"
FACTOR, SHIFT = 0.18215, 0.25  # the model's own


@pytest.fixture(scope="module")
def served_maps(kl_folder: Path) -> Iterator[Running]:
    with running(checkpoint=kl_folder, image_pixel_limit=40_000, batch_limit=4) as service:
        yield service


@pytest.fixture(scope="module")
def decode_at(served_maps: Running) -> str:
    return f"http://127.0.0.1:{served_maps.port}/remote/decode"


@pytest.fixture(scope="module")
def encode_at(served_maps: Running) -> str:
    return f"http://127.0.0.1:{served_maps.port}/remote/encode"


@pytest.fixture(scope="module")
def z() -> torch.Tensor:
    """The latent of one image, as the network takes it."""
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def decoded(network: Any, z: torch.Tensor) -> torch.Tensor:
    decode_raw: torch.Tensor = network.decode(z.float()).sample
    return decode_raw


def as_pixels(decode_raw: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(N, H, W, 3) uint8, as diffusers makes pictures of what it has decoded."""
    processor = VaeImageProcessor()
    return np.stack([np.asarray(image) for image in processor.postprocess(decode_raw, output_type="pil")])


def off_by(picture: Image.Image, expected: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    assert picture.mode == "RGB"
    return int(np.abs(np.asarray(picture).astype(int) - expected).max())


def coarsely_off_by(picture: Image.Image, expected: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """In the mean of each 8×8 pixels: a JPEG keeps no more of the colours of noise."""
    difference = np.asarray(picture).astype(float) - expected
    return float(np.abs(difference.reshape(4, 8, 4, 8, 3).mean((1, 3))).max())


SCALINGS: dict[str, tuple[dict[str, Any], float, float]] = {
    "none": ({"do_scaling": False}, 1, 0),
    "given": ({"scaling_factor": 0.5}, 0.5, 0),
    "shifted": ({"scaling_factor": 0.5, "shift_factor": -0.125}, 0.5, -0.125),
    "not done though given": ({"do_scaling": False, "scaling_factor": 0.5, "shift_factor": 1}, 1, 0),
}


@pytest.mark.parametrize(("scaling", "dtype"), [*zip(SCALINGS, cycle(DTYPES))])
def test_every_output_of_decode(
    kl_network: Any, decode_at: str, z: torch.Tensor, scaling: str, dtype: torch.dtype
) -> None:
    options, factor, shift = SCALINGS[scaling]
    sent = z.to(dtype)
    decode_raw = decoded(kl_network, sent.float() / factor + shift)
    pixels = as_pixels(decode_raw)[0]

    def ask(**more: Any) -> Any:
        return remote_decode(decode_at, sent, **options, **more)

    processor = VaeImageProcessor()
    for image_format, partial in product(("jpg", "png"), (False, True)):
        picture = ask(output_type="pil", image_format=image_format, partial_postprocess=partial)
        assert (picture.format, picture.size) == ({"jpg": "jpeg", "png": "png"}[image_format], (32, 32))
        if image_format == "png":
            assert off_by(picture, pixels) <= 1
        else:
            assert coarsely_off_by(picture, pixels) < 20

        tensor = ask(output_type="pt", return_type="pt", image_format=image_format, partial_postprocess=partial)
        if partial:
            assert (tensor.dtype, tensor.shape) == (torch.uint8, (1, 32, 32, 3))
            assert np.abs(tensor[0].numpy().astype(int) - pixels).max() <= 1
            assert off_by(ask(output_type="pt", partial_postprocess=True), pixels) <= 1
        else:
            assert (tensor.dtype, tensor.shape) == (dtype, (1, 3, 32, 32))
            torch.testing.assert_close(tensor.float(), decode_raw, atol=TOLERANCE[dtype], rtol=0)
            assert off_by(ask(output_type="pt", processor=processor), pixels) <= 2

        tensor = ask(output_type="pil", return_type="pt", processor=processor, partial_postprocess=partial)
        assert tensor.dtype == dtype
        torch.testing.assert_close(tensor.float(), (decode_raw / 2 + 0.5).clamp(0, 1), atol=TOLERANCE[dtype], rtol=0)
        (picture,) = ask(output_type="pil", processor=processor, partial_postprocess=partial)
        assert off_by(picture, pixels) <= 2


def test_without_factors_the_models_own_are_taken(kl_network: Any, decode_at: str, z: torch.Tensor) -> None:
    with pytest.warns(FutureWarning, match="do_scaling"):
        tensor = remote_decode(decode_at, z, output_type="pt", return_type="pt")
    torch.testing.assert_close(tensor, decoded(kl_network, z / FACTOR + SHIFT), atol=1e-4, rtol=1e-4)
    with pytest.warns(FutureWarning, match="do_scaling"):
        tensor = remote_decode(decode_at, z, output_type="pt", return_type="pt", shift_factor=1)
    torch.testing.assert_close(tensor, decoded(kl_network, z / FACTOR + 1), atol=1e-4, rtol=1e-4)


def test_several_latents(kl_network: Any, decode_at: str) -> None:
    several = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    decode_raw = decoded(kl_network, several)
    tensor = remote_decode(decode_at, several, do_scaling=False, output_type="pt", return_type="pt")
    torch.testing.assert_close(tensor, decode_raw, atol=1e-4, rtol=0)
    pictures = remote_decode(decode_at, several, do_scaling=False, output_type="pt", partial_postprocess=True)
    assert all(off_by(picture, pixels) <= 1 for picture, pixels in zip(pictures, as_pixels(decode_raw), strict=True))
    sheet = remote_decode(decode_at, several, do_scaling=False, image_format="png")
    assert sheet.size == (64, 64)
    assert off_by(sheet.crop((32, 0, 64, 32)), as_pixels(decode_raw)[1]) <= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 12), (16, 16), (40, 24)])
def test_latents_of_any_size(kl_network: Any, decode_at: str, size: tuple[int, int]) -> None:
    latent = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(4))
    expected = decoded(kl_network, latent)
    tensor = remote_decode(decode_at, latent, do_scaling=False, output_type="pt", return_type="pt")
    torch.testing.assert_close(tensor, expected, atol=1e-4, rtol=0)


def test_packed_latents_as_flux_has_them(kl_network: Any, tmp_path: Path) -> None:
    network = write_folder(
        tmp_path / "flux",
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64,
    )
    latent = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(5))
    packed = latent.view(2, 4, 3, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 12, 16)
    with running(checkpoint=tmp_path / "flux") as service:
        endpoint = f"http://127.0.0.1:{service.port}/remote/decode"
        ask = {"do_scaling": False, "output_type": "pt", "return_type": "pt"}
        tensor = remote_decode(endpoint, packed, height=48, width=64, **ask)
        torch.testing.assert_close(tensor, decoded(network, latent), atol=1e-4, rtol=0)
        with pytest.raises(RuntimeError, match="height and width"):
            remote_decode(endpoint, packed, height=48, width=48, **ask)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("factor", "shift"), [(None, None), (0.5, None), (0.5, 0.25)])
def test_encode_tensors(
    kl_network: Any, encode_at: str, dtype: torch.dtype, factor: float | None, shift: float | None
) -> None:
    x = (torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(6)) * 2.5 - 1.25).to(dtype)
    latents = remote_encode(encode_at, x, scaling_factor=factor, shift_factor=shift)
    mean = kl_network.encode(x.float()).latent_dist.mean
    assert (latents.dtype, latents.shape) == (dtype, (2, 4, 16, 12))
    expected = (mean - (shift or 0)) * (factor or 1)
    torch.testing.assert_close(latents.float(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (48, 34), (37, 51)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_encode_pictures(kl_network: Any, encode_at: str, size: tuple[int, int], mode: str) -> None:
    rng = np.random.default_rng(7)
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)
    latents = remote_encode(encode_at, picture, scaling_factor=FACTOR)
    width, height = (side - side % 2 for side in size)
    assert (latents.dtype, latents.shape) == (torch.float32, (1, 4, height // 2, width // 2))
    if (width, height) == size:
        x = VaeImageProcessor(vae_scale_factor=2).preprocess(picture.convert("RGB"))
        expected = kl_network.encode(x).latent_dist.mean * FACTOR
        torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)


def test_there_and_back(kl_network: Any, encode_at: str, decode_at: str) -> None:
    picture = Image.fromarray(np.random.default_rng(8).integers(0, 256, (32, 32, 3), np.uint8))
    latents = remote_encode(encode_at, picture, scaling_factor=FACTOR, shift_factor=SHIFT)
    again = remote_decode(decode_at, latents, scaling_factor=FACTOR, shift_factor=SHIFT, image_format="png")
    x = VaeImageProcessor(vae_scale_factor=2).preprocess(picture)
    assert off_by(again, as_pixels(decoded(kl_network, kl_network.encode(x).latent_dist.mean))[0]) <= 1


def test_an_upright_photograph_stays_upright(served_maps: Running) -> None:
    lying = Image.fromarray(np.random.default_rng(9).integers(0, 256, (20, 40, 3), np.uint8))
    exif, sideways, upright = Image.Exif(), io.BytesIO(), io.BytesIO()
    exif[0x0112] = 6
    lying.save(sideways, "PNG", exif=exif)
    lying.transpose(Image.Transpose.ROTATE_270).save(upright, "PNG")
    answers = [served_maps.client.post("/remote/encode", content=body.getvalue()) for body in (sideways, upright)]
    assert {answer.headers["shape"] for answer in answers} == {"[1, 4, 20, 10]"}
    assert answers[0].content == answers[1].content


@pytest.fixture(scope="module")
def bundled() -> Iterator[Running]:
    """The service of the bundled model, whose latents are vectors and whose images are grey."""
    with running() as service:
        yield service


def test_vectors_are_decoded_to_rgb(bundled: Running) -> None:
    client, vectors = bundled.client, f"http://127.0.0.1:{bundled.port}/remote"
    z = torch.tensor([[0.3, 1.6, -2.4]])
    grey = np.array(client.post("/decode", json=z.tolist(), headers={"accept": "application/json"}).json()["pixels"])
    rgb = grey.repeat(3, 1)
    pixels = np.floor(rgb[0] * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    with pytest.warns(FutureWarning, match="do_scaling"):
        assert off_by(remote_decode(f"{vectors}/decode", z, image_format="png"), pixels) == 0
    ask: dict[str, Any] = {"endpoint": f"{vectors}/decode", "tensor": z, "do_scaling": False}
    assert off_by(remote_decode(**ask, output_type="pt", partial_postprocess=True), pixels) == 0
    (picture,) = remote_decode(**ask, processor=VaeImageProcessor())
    assert off_by(picture, pixels) <= 1
    decode_raw = remote_decode(**ask, output_type="pt", return_type="pt")
    np.testing.assert_allclose(decode_raw.numpy(), 2 * grey - 1, atol=1e-6)


def test_pictures_and_tensors_are_encoded_to_vectors(bundled: Running) -> None:
    client, vectors = bundled.client, f"http://127.0.0.1:{bundled.port}/remote"
    digit = Image.fromarray(np.random.default_rng(10).integers(0, 256, (28, 28), np.uint8))
    body = io.BytesIO()
    digit.save(body, "PNG")
    mean = client.post("/encode", content=body.getvalue(), headers={"content-type": "image/png"}).json()["mean"]
    x = torch.from_numpy(np.asarray(digit).astype(np.float32) / 127.5 - 1)[None, None]
    for image in (digit, x):
        np.testing.assert_allclose(remote_encode(f"{vectors}/encode", image).numpy(), [mean], atol=1e-4)


@pytest.mark.parametrize("kind", ["bundled", "served_maps"])
def test_the_example_of_the_page(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Running = request.getfixturevalue(kind)
    page = (ROOT / "docs" / "remote-vae.md").read_text()
    section = page.partition("\n## diffusers\n")[2].partition("\n## ")[0]
    (example,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace("localhost:8000", f"127.0.0.1:{service.port}"), names)
    with Image.open("again.png") as again:
        assert again.size == (28, 28)
    if kind == "bundled":
        np.testing.assert_allclose(names["latent"] / FACTOR, [[-2.65, -0.36, 0.13]], atol=0.01)
        assert names["tensor"].shape == (1, 1, 28, 28)
    else:
        assert names["latent"].shape == (1, 4, 14, 14)
        assert names["tensor"].shape == (1, 3, 28, 28)


def ask(
    service: Running, path: str, shape: Sequence[int] = (), body: bytes | None = None, **query: Any
) -> httpx.Response:
    """A tensor of zeros, unless it has another body."""
    zeros = bytes(4 * int(np.prod(shape))) if body is None else body
    params = {"shape": list(shape), **query}
    return service.client.post(path, params=params, content=zeros, headers={"content-type": TENSOR})


def test_what_is_unknown_is_ignored(served_maps: Running) -> None:
    answer = ask(served_maps, "/remote/decode", (1, 4, 2, 2), output_type="pt", input_tensor_type="binary", fps=24)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == TENSOR
    assert json.loads(answer.headers["shape"]) == [1, 3, 4, 4]
    assert answer.headers["dtype"] == "float32"
    assert len(answer.content) == 3 * 4 * 4 * 4


@pytest.mark.parametrize("path", ["/remote/decode", "/remote/encode"])
@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"dtype": "float64"}, "/dtype"),
        ({"shape": [1, -4, 8, 8]}, "/shape/1"),
        ({"shape": [1, 1, 4, 8, 8]}, "/shape"),
        ({"scaling_factor": "0"}, "/scaling_factor"),
        ({"scaling_factor": "1e-30"}, "/scaling_factor"),
        ({"scaling_factor": "nan"}, "/scaling_factor"),
        ({"shift_factor": "inf"}, "/shift_factor"),
        ({"do_scaling": "maybe"}, "/do_scaling"),
        ({"shape": [1, 5, 8, 8]}, "/shape"),
        ({"shape": [5, 8, 8]}, "/shape"),
        ({"shape": [8]}, "/shape"),
    ],
)
def test_wrong_parameters(served_maps: Running, path: str, query: dict[str, Any], pointer: str) -> None:
    query = {"shape": [1, 4, 8, 8] if path == "/remote/decode" else [1, 3, 8, 8], **query}
    body = bytes(4 * abs(int(np.prod(query["shape"]))))
    assert bad_fields(ask(served_maps, path, body=body, **query)) == [("query", pointer)]


@pytest.mark.parametrize(
    "query", [{"output_type": "mp4"}, {"image_format": "gif"}, {"partial_postprocess": "x"}, {"height": 0}]
)
def test_wrong_parameters_of_decode(served_maps: Running, query: dict[str, Any]) -> None:
    (name,) = query
    assert bad_fields(ask(served_maps, "/remote/decode", (1, 4, 2, 2), **query)) == [("query", f"/{name}")]


def test_a_shape_is_wanted(served_maps: Running) -> None:
    assert bad_fields(ask(served_maps, "/remote/decode", (), b"1234")) == [("query", "/shape")]


@pytest.mark.parametrize("path", ["/remote/decode", "/remote/encode"])
@pytest.mark.parametrize("size", [0, 3, 1025, 512])
def test_a_body_of_another_size(served_maps: Running, path: str, size: int) -> None:
    detail = problem(ask(served_maps, path, (1, 4, 8, 8), bytes(size)), 400)["detail"]
    assert detail == f"The body has {size} bytes; a float32 tensor of the shape [1, 4, 8, 8] has 1024."


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e7])
@pytest.mark.parametrize("path", ["/remote/decode", "/remote/encode"])
def test_numbers_that_are_none(served_maps: Running, path: str, value: float) -> None:
    shape = (1, 4, 2, 2) if path == "/remote/decode" else (1, 3, 4, 4)
    array = np.zeros(shape, "<f4")
    array.flat[5] = value
    assert bad_fields(ask(served_maps, path, shape, array.tobytes())) == [("body", "")]


def test_latents_that_scaling_takes_out_of_bounds(served_maps: Running) -> None:
    body = np.full((1, 4, 2, 2), 3e38, "<f4").tobytes()
    assert bad_fields(ask(served_maps, "/remote/decode", (1, 4, 2, 2), body, scaling_factor=1e-6)) == [("body", "")]


def test_pixels_from_0_to_255(served_maps: Running) -> None:
    body = np.full((1, 3, 4, 4), 200, "<f4").tobytes()
    assert bad_fields(ask(served_maps, "/remote/encode", (1, 3, 4, 4), body)) == [("body", "")]


@pytest.mark.parametrize(
    ("path", "shape", "said"),
    [
        ("/remote/decode", (5, 4, 1, 1), "5 items"),
        ("/remote/decode", (1, 4, 101, 100), "40400 pixels"),
        ("/remote/decode", (4, 4, 51, 50), "40800 pixels"),
        ("/remote/encode", (5, 3, 2, 2), "5 items"),
        ("/remote/encode", (1, 3, 202, 200), "40400 pixels"),
    ],
)
def test_too_much(served_maps: Running, path: str, shape: tuple[int, ...], said: str) -> None:
    assert said in problem(ask(served_maps, path, shape), 413)["detail"]


@pytest.mark.parametrize(("path", "shape"), [("/remote/decode", (1, 4, 40, 30)), ("/remote/encode", (1, 3, 80, 60))])
def test_an_image_that_takes_too_much_memory(
    served_maps: Running, monkeypatch: pytest.MonkeyPatch, path: str, shape: tuple[int, ...]
) -> None:
    memory = served_maps.context.engine._backend.memory
    monkeypatch.setattr(memory, "limit", 1e6)
    said = r"80×60 pixels takes about \d+ MB to compute, in 1 tiles; 1 MB are allowed"
    assert re.search(said, problem(ask(served_maps, path, shape), 413)["detail"])


@pytest.mark.parametrize("size", [(32, 49), (33, 32), (1, 2)])
def test_images_are_multiples_of_the_stride(served_maps: Running, size: tuple[int, int]) -> None:
    answer = ask(served_maps, "/remote/encode", (1, 3, *size))
    assert bad_fields(answer) == [("query", "/shape")]
    assert "(of any height and width, multiples of 2) is expected" in answer.json()["detail"]


@pytest.mark.parametrize("size", [(32, 50), (50, 34), (2, 2)])
def test_last_tiles_may_be_narrow(served_maps: Running, size: tuple[int, int]) -> None:
    answer = ask(served_maps, "/remote/encode", (1, 3, *size))
    assert json.loads(answer.headers["shape"]) == [1, 4, size[0] // 2, size[1] // 2]


def test_a_picture_that_is_no_jpeg(tmp_path: Path) -> None:
    wide = VAE(VAEConfig(image_shape=(1, 1, 32_751), hidden_dim=1, latent_dim=1))
    save(tmp_path / "wide.safetensors", wide, training={}, metrics={})
    with running(checkpoint=tmp_path / "wide.safetensors") as service:
        for shape, image_format, status in [((1, 1), "jpg", 200), ((2, 1), "jpg", 413), ((2, 1), "png", 200)]:
            answer = ask(service, "/remote/decode", shape, image_format=image_format)
            assert answer.status_code == status
            assert status == 200 or "1×65502 pixels; a JPEG has at most 65500 on a side" in answer.json()["detail"]
        assert re.search(r"vae_latent_distance_count\{.*\} 3\.0", service.client.get("/metrics").text)


def test_a_picture_of_too_many_pixels(served_maps: Running, encode_at: str) -> None:
    with pytest.raises(RuntimeError, match="201×200 pixels"):
        remote_encode(encode_at, Image.new("RGB", (201, 200)))


def test_a_body_that_is_no_picture(served_maps: Running) -> None:
    problem(served_maps.client.post("/remote/encode", content=b"no picture"), 400)


@pytest.mark.parametrize("path", ["/remote/decode", "/remote/encode"])
def test_content_types_that_are_not_taken(served_maps: Running, path: str) -> None:
    assert (
        TENSOR
        in problem(served_maps.client.post(path, content=b"0", headers={"content-type": "text/csv"}), 415)["detail"]
    )


def test_what_cannot_be_accepted(served_maps: Running) -> None:
    for path, accept, query in [
        ("/remote/decode", "image/png", {"output_type": "pt"}),
        ("/remote/decode", "image/png", {"image_format": "jpg"}),
        ("/remote/encode", "application/json", {}),
    ]:
        answer = served_maps.client.post(path, params=query, content=b"", headers={"accept": accept})
        problem(answer, 406)


def test_a_key_is_wanted(kl_folder: Path) -> None:
    with running(checkpoint=kl_folder, api_keys=("secret",)) as service:
        for path in ("/remote/decode", "/remote/encode"):
            problem(ask(service, path, (1, 4, 2, 2)), 401)
        with pytest.raises(RuntimeError, match="API key"):
            remote_decode(f"http://127.0.0.1:{service.port}/remote/decode", torch.zeros(1, 4, 2, 2), do_scaling=False)


def test_it_is_counted(served_maps: Running) -> None:
    def count() -> float:
        counted = r'vae_requests_total\{media_type="tensor/binary",.*,route="/remote/decode",status="200",.*\} (\S+)'
        return sum(map(float, re.findall(counted, served_maps.client.get("/metrics").text)))

    before = count()
    ask(served_maps, "/remote/decode", (1, 4, 2, 2), output_type="pt")
    assert count() == before + 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_are_rounded_alike_without_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as service:
        query: dict[str, Any] = {"shape": [1, 3], "dtype": str(dtype).removeprefix("torch."), "output_type": "pt"}
        body = torch.tensor([[0.3, -0.2, 1.0]]).to(dtype).view(torch.uint8).numpy().tobytes()

        def decode() -> bytes:
            return service.client.post("/remote/decode", params=query, content=body).raise_for_status().content

        by_torch = decode()
        monkeypatch.delitem(sys.modules, "torch")
        assert decode() == by_torch
