"""Any input is either parsed or refused with a sentence."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialize

import vae
from service.api.negotiation import negotiate
from service.api.operation import read_options
from service.api.schemas import EncodeOptions, NoOptions, PngOptions, ReconstructOptions, SampleOptions
from service.errors import InvalidInput, NotAcceptable, ServiceError, Unauthorized
from service.formats.arrow import read_arrow
from service.formats.images import open_image, to_array
from service.formats.npy import read_npy
from service.formats.safetensors import read_safetensors
from service.keys import Keyring
from service.settings import Settings, SettingsError, read_settings
from tests.fuzz import inputs
from tests.service.pictures import read_npy as read_answer
from tests.service.problems import problem
from vae.metadata import Fit

pytestmark = pytest.mark.slow

JSON, NDJSON, NPY = "application/json", "application/x-ndjson", "application/x-npy"
SAFETENSORS, ARROW = "application/x-safetensors", "application/vnd.apache.arrow.stream"


@pytest.fixture(autouse=True)
def no_limit_of_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as the service has it


def refused(error: ServiceError, *statuses: int) -> None:
    assert error.status in statuses
    assert error.detail.endswith(".")


@given(
    inputs.pictures(), st.sampled_from([(1, 28, 28), (3, 8, 20)]), st.sampled_from(["contain", "cover"]), st.booleans()
)
def test_pictures(body: bytes, shape: tuple[int, int, int], fit: Fit, invert: bool) -> None:
    try:
        pixels = to_array(open_image(body, 10**6), shape, fit=fit, invert=invert)
    except ServiceError as error:
        refused(error, 400, 413)
    else:
        assert pixels.shape == shape
        assert pixels.dtype == np.float32
        assert pixels.min() >= 0
        assert pixels.max() <= 1


@given(inputs.arrays())
def test_npy(body: bytes) -> None:
    try:
        array = read_npy(body)
    except ServiceError as error:
        refused(error, 400, 422)
    else:
        assert array.dtype == np.uint8 or array.dtype.kind == "f"
        assert body.endswith(array.tobytes("A"))


@pytest.mark.parametrize(("read", "written"), [(read_safetensors, inputs.tensors()), (read_arrow, inputs.streams())])
def test_named_arrays(read: Callable[[bytes, str], NDArray[Any]], written: st.SearchStrategy[bytes]) -> None:
    @given(written, st.sampled_from(["z", "pixels"]))
    def every_body(body: bytes, name: str) -> None:
        try:
            array = read(body, name)
        except ServiceError as error:
            refused(error, 400, 413, 422)
        else:
            assert array.dtype == np.uint8 or array.dtype.kind == "f"
            assert array.nbytes <= 2 * len(body)  # bfloat16 becomes float32

    every_body()


def answered(answer: httpx.Response, *row: int) -> None:
    """Finite rows, or an error of the client."""
    if answer.status_code != 200:
        problem(answer, answer.status_code)
        assert answer.status_code in (400, 413, 422)
    else:
        array = read_answer(answer.content)
        assert array.shape in (row, (len(array), *row))
        assert np.isfinite(array).all()


def post(client: httpx.Client, path: str, body: bytes, kind: str) -> httpx.Response:
    return client.post(path, content=body, headers={"content-type": kind, "accept": NPY})


@given(inputs.documents(), st.sampled_from([JSON, NDJSON]))
def test_json_latents(client: httpx.Client, body: bytes, kind: str) -> None:
    answered(post(client, "/decode", body, kind), 1, 28, 28)


@given(st.lists(inputs.documents(), max_size=4).map(b"\n".join))
def test_lines_of_latents(client: httpx.Client, body: bytes) -> None:
    answered(post(client, "/decode", body, NDJSON), 1, 28, 28)


@given(inputs.documents(), st.sampled_from(["/interpolate", "/traverse"]))
def test_json_documents(client: httpx.Client, body: bytes, path: str) -> None:
    answered(post(client, path, body, JSON), 1, 28, 28)


@given(inputs.arrays())
def test_npy_bodies(client: httpx.Client, body: bytes) -> None:
    answered(post(client, "/decode", body, NPY), 1, 28, 28)
    answered(post(client, "/encode", body, NPY), 2, 3)


@given(
    inputs.tensors().map(lambda body: (body, SAFETENSORS)) | inputs.streams().map(lambda body: (body, ARROW)),
)
def test_bodies_of_named_arrays(client: httpx.Client, sent: tuple[bytes, str]) -> None:
    answered(post(client, "/decode", *sent), 1, 28, 28)
    answered(post(client, "/encode", *sent), 2, 3)


@given(inputs.forms(b"b"), st.sampled_from(["b", '"b"', "b; charset=utf-16", "b; charset=none", "c", ""]))
def test_forms(client: httpx.Client, body: bytes, boundary: str) -> None:
    answered(post(client, "/encode", body, f"multipart/form-data; boundary={boundary}"), 2, 3)


NAMES = st.sampled_from(["n", "seed", "temperature", "columns", "scale", "fit", "invert", "draw", "x", ""])
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "cover", "1e400", "", "%", "%00", "+1", " 1", "1" * 5000, "%F0%9F", "１", "a&b", "nan"]),
    st.text(max_size=8),
)
QUERIES = st.lists(st.tuples(NAMES | st.text(max_size=4), VALUES), max_size=5).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode()
)


@given(
    QUERIES | st.binary(max_size=60),
    st.sampled_from([NoOptions, PngOptions, EncodeOptions, ReconstructOptions, SampleOptions]),
)
def test_queries(query: bytes, model: type[BaseModel]) -> None:
    try:
        options = read_options(model, query)
    except InvalidInput as error:
        refused(error, 422)
    else:
        assert isinstance(options, model)
        assert all(np.isfinite(value) for value in vars(options).values() if isinstance(value, int | float))


MEDIA_RANGE = st.sampled_from(["image/png", "application/json", "*/*", "image/*", "*", "text/html", "/", ""])
QUALITY = st.sampled_from(["", ";q=0", ";q=1", ";q=0.5", ";q=", ";q=nan", ";q=inf", ";q=-1", ";q=1e999", ";;", ";Q=1"])
ACCEPTS = st.lists(st.tuples(MEDIA_RANGE, QUALITY).map("".join), max_size=6).map(",".join)


@given(ACCEPTS | st.text(st.characters(max_codepoint=255), max_size=300))
def test_accept(accept: str) -> None:
    offers = ("image/png", "application/json")
    try:
        assert negotiate(accept, offers) in offers
    except NotAcceptable as error:
        refused(error, 406)


@given(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255)))
def test_keys(authorization: str, key: str) -> None:
    """What a header field can hold opens nothing, unless it is the key."""
    with pytest.raises(Unauthorized):
        Keyring(["the one key, and no other"]).identify(authorization, key)


SETTING = st.sampled_from(sorted(Settings.model_fields))
TEXT = st.one_of(
    VALUES,
    st.sampled_from(["-1", "0", "a,b", ",", "cpu", "cuda:9", "json", "http://a", "[]", "{}", '"', "\udc80", "null"]),
).filter(lambda text: "\0" not in text)


@given(st.dictionaries(SETTING, TEXT, max_size=4), st.booleans())
def test_settings(chosen: dict[str, str], by_flag: bool) -> None:
    own = {name: text for name, text in os.environ.items() if not name.startswith("VAE_")}
    environment = {} if by_flag else {f"VAE_{name.upper()}": text for name, text in chosen.items()}
    flags = [f"--{name.replace('_', '-')}={text}" for name, text in chosen.items()] if by_flag else []
    with mock.patch.dict(os.environ, {**own, **environment}, clear=True):
        try:
            settings = read_settings(flags)
        except SettingsError:
            return
    limits = settings.limits
    assert min(limits.body, limits.image_pixels, limits.batch, settings.workers, settings.queue_limit) >= 1
    assert settings.request_deadline > 0


# Files of the operator's own.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound one, with latents beside it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sound") / "m.safetensors"
    model = vae.VAE(vae.VAEConfig(image_shape=(1, 4, 4), hidden_dim=4, latent_dim=2))
    references = vae.References.of(np.arange(12, dtype=np.float32).reshape(6, 2))
    vae.save(path, model, training={"epochs": 1}, metrics={"elbo": -1.5}, references=references)
    vae.LatentSet(np.zeros((5, 2), np.float32), np.arange(5)).save(path, vae.load(path).sha256)
    return path


def loads(content: bytes, suffix: str = ".safetensors") -> None:
    """A model that works, or a CheckpointError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix}"
        path.write_bytes(content)
        try:
            loaded = vae.load(path)
        except vae.CheckpointError:
            return
    assert all(tensor.isfinite().all() for tensor in loaded.model.state_dict().values())
    assert isinstance(loaded.training, dict)
    images = torch.zeros(1, *loaded.model.config.image_shape)
    mean = loaded.model.encode(images)[0]
    assert loaded.model.decode(mean).numel() == images.numel()
    if loaded.references:
        assert loaded.references.outlier_factor(mean.numpy()) >= 0


@given(st.data())
def test_damaged_checkpoints(checkpoint: Path, data: st.DataObject) -> None:
    loads(data.draw(inputs.damaged([checkpoint.read_bytes()])))


FIELD = st.sampled_from(
    [
        "architecture",
        "image_shape",
        "hidden_dim",
        "latent_dim",
        "hidden_layers",
        "negative_slope",
        "latent_map",
        "likelihood",
        "scale",
    ]
)
NUMBER = st.one_of(st.integers(-1, 9), st.sampled_from([2**31, 2**63, 10**30, 0.3, float("nan"), True]))
OTHER: st.SearchStrategy[object] = st.one_of(
    st.none(), st.text(max_size=6), st.lists(NUMBER, max_size=4), st.just("conv"), st.just({})
)
CONFIGS = st.dictionaries(FIELD, NUMBER | OTHER, max_size=6).map(json.dumps)


@given(
    st.sampled_from(["config", "training", "figures", "format", "format_version", "probes", "references"]),
    CONFIGS | st.text(max_size=20) | st.sampled_from(["{" * 5000, "1" * 5000, "[]", "null", "\ud83d"]),
)
def test_metadata(checkpoint: Path, field: str, text: str) -> None:
    content = checkpoint.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = {**header["__metadata__"], field: text.encode("utf-8", "replace").decode()}
    loads(serialize(read_tensors(content), metadata))


@given(st.data())
def test_damaged_references(data: st.DataObject) -> None:
    sound = base64.b64decode(str(vae.References.of(np.arange(12, dtype=np.float32).reshape(6, 2))))
    text = base64.b64encode(data.draw(inputs.damaged([sound]))).decode()
    try:
        references = vae.References.parse(text, vae.VAEConfig(latent_dim=2))
    except ValueError:
        return
    factor = references.outlier_factor(np.ones((3, 2), np.float32))
    assert factor.shape == (3,)
    assert (factor >= 0).all()


@given(st.data())
def test_damaged_state_dicts(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "state.pt"
    if not path.exists():
        torch.save(vae.load(checkpoint).model.state_dict(), path)
    loads(data.draw(inputs.damaged([path.read_bytes()])), ".pt")


def reads_latents(checkpoint: Path, content: bytes) -> None:
    """Valid latents, or a CheckpointError."""
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / checkpoint.name
        beside.write_bytes(checkpoint.read_bytes())
        vae.LatentSet.path_beside(beside).write_bytes(content)
        loaded = vae.load(beside)
        try:
            latents: Any = vae.LatentSet.load(beside, loaded.sha256)
        except vae.CheckpointError:
            return
    assert latents.mean.dtype == np.float32
    assert np.isfinite(latents.mean).all()
    assert latents.mean.ndim == 2
    assert latents.label.dtype == np.int64
    assert latents.label.shape == latents.mean.shape[:1]


@given(st.data())
def test_damaged_latents(checkpoint: Path, data: st.DataObject) -> None:
    reads_latents(checkpoint, data.draw(inputs.damaged([vae.LatentSet.path_beside(checkpoint).read_bytes()])))
