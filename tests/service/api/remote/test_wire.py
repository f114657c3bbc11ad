"""What diffusers, SD.Next and ComfyUI-HFRemoteVae send, against what the network itself gives."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from tests.service.api.remote.wire import BASE64, FLUX, JSON, SD, TENSOR, Answer, Layout, Sent
from tests.service.problems import bad_fields, problem
from tests.service.running import Running, running
from tests.vae.autoencoder import write_folder

pytestmark = pytest.mark.slow

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "uint8": torch.uint8}
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}
"""Of images that go to ±3 or a little more, in the dtype that they are answered in."""
FLUX_LIKE: dict[str, Any] = {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "sample_size": 128,
}
COUNT = {"batch": 2, "packed": 2, "first": 1, "first packed": 1}


class Model:
    """A network, and the service of it."""

    def __init__(self, network: Any, service: Running) -> None:
        self.network, self.service = network, service
        shape = (2, network.config.latent_channels, 12, 16)
        self.z = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def latents(self, layout: Layout, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents as they are sent, and the same as (N, C', h, w) in float32."""
        z = self.z[: COUNT[layout]].to(DTYPES[dtype])
        sent = z
        if "packed" in layout:
            count, channels, height, width = z.shape
            patches = z.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
            sent = patches.reshape(count, -1, 4 * channels)
        return (sent[0] if "first" in layout else sent).contiguous(), z.float()

    def decoded(self, z: torch.Tensor, sent: Sent) -> torch.Tensor:
        config = self.network.config
        factor, shift = (sent.factor, sent.shift) if sent.factor else (config.scaling_factor, config.shift_factor)
        images: torch.Tensor = self.network.decode(z / factor + shift).sample
        return images

    def post(self, sent: Sent, tensor: torch.Tensor, dtype: str) -> httpx.Response:
        content = tensor.view(torch.uint8).numpy().tobytes()
        if sent.content_type != TENSOR:
            document: dict[str, Any] = {"inputs": base64.b64encode(content).decode()}
            if sent.content_type == JSON:
                sides = {"width": 32, "height": 24} if sent.layout == "packed" else {}
                document["parameters"] = {"shape": list(tensor.shape), "dtype": dtype, **sides}
            content = json.dumps(document).encode()
        query = sent.query.format(shape=urlencode({"shape": tensor.shape}, doseq=True), dtype=dtype)
        headers = {"content-type": sent.content_type, "accept": sent.accept}
        return self.service.client.post(f"/remote/decode?{query}", content=content, headers=headers)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("models") / "sd"
    network = write_folder(folder)
    with running(checkpoint=folder) as service:
        yield Model(network, service)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("models") / "flux"
    network = write_folder(folder, **FLUX_LIKE)
    with running(checkpoint=folder) as service:
        yield Model(network, service)


def read_answer(response: httpx.Response) -> torch.Tensor:
    """Read a tensor as the clients do, from header fields or from JSON."""
    shape, dtype = json.loads(response.headers["shape"]), response.headers["dtype"]
    content = response.content
    if response.headers["content-type"] == BASE64:
        document = response.json()
        assert document["parameters"] == {"shape": shape, "dtype": dtype}
        content = base64.b64decode(document["inputs"], validate=True)
    return torch.frombuffer(bytearray(content), dtype=DTYPES[dtype]).reshape(shape)


def grid(images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, N·W, 3): a picture of one image, or of two."""
    pictures = VaeImageProcessor().postprocess(images, output_type="pil")
    return np.concatenate([np.asarray(picture) for picture in pictures], 1)


def check(response: httpx.Response, answer: Answer, images: torch.Tensor, dtype: str) -> None:
    assert response.status_code == 200, response.text
    if answer in ("jpg", "png"):
        picture = Image.open(io.BytesIO(response.content))
        assert picture.format == {"jpg": "JPEG", "png": "PNG"}[answer]
        difference = np.asarray(picture.convert("RGB")).astype(float) - grid(images)
        if answer == "png":
            assert np.abs(difference).max() <= 1
        else:  # it keeps no more of the colours of noise than the mean of each block
            height, width, _ = difference.shape
            assert np.abs(difference.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))).max() < 20
        return
    tensor = read_answer(response)
    if answer == "uint8":
        assert tensor.shape == (len(images), *images.shape[2:], 3)
        assert np.abs(np.concatenate(tensor.numpy(), 1).astype(int) - grid(images)).max() <= 1
        return
    assert (tensor.dtype, tensor.shape) == (DTYPES[dtype], images.shape)  # with a batch axis in any case
    expected = images if answer == "raw" else (images / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(tensor.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("request_of", SD)
def test_stable_diffusion(sd: Model, request_of: str, dtype: str) -> None:
    sent = SD[request_of]
    tensor, z = sd.latents(sent.layout, dtype)
    check(sd.post(sent, tensor, dtype), sent.answer, sd.decoded(z, sent), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("request_of", FLUX)
def test_flux(flux: Model, request_of: str, dtype: str) -> None:
    sent = FLUX[request_of]
    tensor, z = flux.latents(sent.layout, dtype)
    check(flux.post(sent, tensor, dtype), sent.answer, flux.decoded(z, sent), dtype)


@pytest.mark.parametrize("kind", ["sd", "flux"])
@pytest.mark.parametrize("factors", ["", "scaling_factor=0.18215", "scaling_factor=0.3611&shift_factor=0.1159"])
def test_encoding(request: pytest.FixtureRequest, kind: str, factors: str) -> None:
    """`requests` names no content type for bytes; SD.Next calls `remote_encode` of diffusers."""
    model: Model = request.getfixturevalue(kind)
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (24, 32, 3), np.uint8))
    body = io.BytesIO()
    picture.save(body, "PNG")
    x = VaeImageProcessor(vae_scale_factor=2).preprocess(picture)
    given = dict(part.split("=") for part in factors.split("&") if part)
    factor, shift = float(given.get("scaling_factor", 1)), float(given.get("shift_factor", 0))
    expected = (model.network.encode(x).latent_dist.mean - shift) * factor
    content = x.numpy().tobytes()
    shape = urlencode({"shape": x.shape, "dtype": "float32"}, doseq=True)
    as_base64 = json.dumps({"inputs": base64.b64encode(content).decode()}).encode()
    for query, sent, fields in [
        (factors, body.getvalue(), {"accept": "*/*"}),
        (f"{factors}&{shape}", content, {"accept": "*/*"}),
        (f"{factors}&{shape}", as_base64, {"accept": BASE64, "content-type": BASE64}),
    ]:
        response = model.service.client.post(f"/remote/encode?{query}", content=sent, headers=fields)
        torch.testing.assert_close(read_answer(response), expected, atol=1e-4, rtol=1e-4)


def ask(
    model: Model, query: dict[str, Any], body: bytes, content_type: str = TENSOR, accept: str = "*/*"
) -> httpx.Response:
    headers = {"content-type": content_type, "accept": accept} if content_type else {"accept": accept}
    return model.service.client.post("/remote/decode", params=query, content=body, headers=headers)


@pytest.mark.parametrize(
    ("sides", "count"), [({"height": 12, "width": 128}, 1), ({"height": 12, "width": 8}, 16), ({}, 0)]
)
def test_latents_that_may_be_packed_or_not(flux: Model, sides: dict[str, int], count: int) -> None:
    """(16, 6, 64) is one latent of 6×64, or 16 packed ones of 6×4."""
    response = ask(flux, {"shape": [16, 6, 64], "output_type": "pt", **sides}, bytes(4 * 16 * 6 * 64))
    if count:
        expected = [1, 3, 12, 128] if count == 1 else [16, 3, 12, 8]
        assert json.loads(response.headers["shape"]) == expected
    else:
        assert bad_fields(response) == [("query", "/shape")]
        detail = response.json()["detail"]
        assert detail.startswith("shape is [16, 6, 64]: one latent of 6×64, or 16 packed ones.")
        assert detail.endswith("Send the height and width of the image, in pixels.")


@pytest.mark.parametrize("sides", [{}, {"height": 24}, {"height": 24, "width": 24}])
@pytest.mark.parametrize("shape", [[1, 48, 64], [48, 64]])
def test_packed_latents_need_the_sides_of_the_image(flux: Model, shape: list[int], sides: dict[str, int]) -> None:
    response = ask(flux, {"shape": shape, **sides}, bytes(4 * 48 * 64))
    assert bad_fields(response) == [("query", "/shape")]
    expected = "[N, (height/4)·(width/4), 64], with the height and width of the image in pixels, is expected."
    assert response.json()["detail"] == f"shape is {shape}; {expected}"


def test_an_accepted_type_decides_between_pictures_and_without_one_it_is_a_jpeg(sd: Model) -> None:
    query, body = {"shape": [1, 4, 4, 4]}, bytes(256)
    for accept, given in [("image/png", "image/png"), ("image/*", "image/jpeg"), ("*/*", "image/jpeg")]:
        assert ask(sd, query, body, accept=accept).headers["content-type"] == given


def test_tensor_types_decide_where_header_fields_do_not(sd: Model) -> None:
    query = {"shape": [1, 4, 4, 4], "output_type": "pt", "input_tensor_type": "base64", "output_tensor_type": "base64"}
    document = json.dumps({"inputs": base64.b64encode(bytes(256)).decode()}).encode()
    for content_type, body in [("", document), ("application/octet-stream", document), (TENSOR, bytes(256))]:
        response = ask(sd, query, body, content_type)
        assert response.headers["content-type"] == BASE64
        assert read_answer(response).shape == (1, 3, 8, 8)
    assert ask(sd, query, document, accept=TENSOR).status_code == 400
    assert ask(sd, query, document, "", accept=TENSOR).headers["content-type"] == TENSOR


def test_parameters_of_the_query_take_precedence(sd: Model) -> None:
    z = sd.z.numpy().tobytes()
    parameters = {"shape": [2, 4, 12, 16], "dtype": "float16", "output_type": "pt", "unknown": [1]}
    body = json.dumps({"inputs": base64.b64encode(z).decode(), "parameters": parameters}).encode()
    response = ask(sd, {"dtype": "float32", "do_scaling": False}, body, JSON)
    torch.testing.assert_close(read_answer(response), sd.network.decode(sd.z).sample, atol=1e-4, rtol=1e-4)


def test_large_tensors_as_base64(flux: Model) -> None:
    z = torch.randn(2, 16, 96, 96, generator=torch.Generator().manual_seed(3))
    query = {"shape": list(z.shape), "output_type": "pt"}
    binary = ask(flux, query, z.numpy().tobytes())
    text = base64.b64encode(z.numpy().tobytes()).decode()
    for document in ({"inputs": text}, {"parameters": {"do_scaling": False}, "inputs": text}):
        response = ask(flux, query, json.dumps(document).encode(), BASE64, accept=BASE64)
        assert torch.equal(read_answer(response), read_answer(binary))


LONG = "A" * 60_000


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "The body is not JSON"),
        (b'{"inputs": "AAAA"', 400, "The body is not JSON"),
        (b"[]", 422, 'inputs is not a text; {"inputs": BASE64} is expected.'),
        (b"{}", 422, "inputs is not a text"),
        (b'{"inputs": [0]}', 422, "inputs is not a text"),
        (b'{"inputs": "AAA"}', 400, "inputs is not base64: "),
        (b'{"inputs": "AA=A"}', 400, "inputs is not base64: "),
        (b'{"inputs": "\\u00e9AAA"}', 400, "inputs is not base64: "),
        (b'{"inputs": "AAAA"}', 400, "The body has 3 bytes; a float32 tensor of the shape [1, 4, 4, 4] has 256."),
        (b'{"inputs": "", "parameters": []}', 422, "parameters is not an object of names and values."),
        (b'{"inputs": "", "parameters": {"height": 0}}', 422, "height: Input should be greater than or equal to 1."),
        (f'{{"inputs": "{LONG}"}}'.encode(), 400, "The body has 45000 bytes"),
        (f'{{"inputs": "{LONG}'.encode(), 400, "The body is not JSON"),
        (f'{{"inputs": "{LONG}*AAAA"}}'.encode(), 400, "inputs is not base64: "),
        (f'{{"inputs": "AAAA", "other": "{LONG}"}}'.encode(), 422, "inputs is not a text"),
        (f'{{"other": "{LONG}"}}'.encode(), 422, "inputs is not a text"),
        (b'{"inputs": "' + b'","' * 30_000 + b'"}', 400, "The body has more than 200 quotation marks"),
        (b"[" + b"0," * 50_000 + b"0]", 413, "The body holds more than the"),
    ],
)
def test_bad_json(sd: Model, body: bytes, status: int, said: str) -> None:
    response = ask(sd, {"shape": [1, 4, 4, 4]}, body, BASE64)
    assert said in problem(response, status)["detail"]


def test_a_wrong_parameter_of_the_body_is_pointed_to(sd: Model) -> None:
    body = b'{"inputs": "", "parameters": {"shape": [1, 0], "dtype": "int8"}}'
    pointers = [("body", "/parameters/shape/1"), ("body", "/parameters/dtype")]
    assert bad_fields(ask(sd, {}, body, JSON)) == pointers


def test_what_a_form_is_sent_as_is_not_taken(sd: Model) -> None:
    response = ask(sd, {"shape": [1, 4, 4, 4]}, bytes(256), "application/x-www-form-urlencoded")
    assert "this route takes tensor/binary, tensor/base64, application/json." in problem(response, 415)["detail"]
