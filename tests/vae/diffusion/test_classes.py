"""Each class of diffusers against its own pipeline; `tests.vae.diffusion.pipelines` says what of that is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.vae.diffusion.networks import LTX_WITH_NOISE, MOMENTS, OPTIONS, WAN_RESIDUAL, write_network
from tests.vae.diffusion.pipelines import Pipeline
from vae.diffusion.classes import CLASSES
from vae.diffusion.loading import load_diffusers
from vae.diffusion.model import LOWEST_LOG_VARIANCE, NOISE_SEED, DiffusionModel

pytestmark = pytest.mark.slow

KL = "AutoencoderKL"
SD = "stable_diffusion/pipeline_stable_diffusion.py"
FLUX = "flux/pipeline_flux.py"
WAN = "wan/pipeline_wan.py"
LTX = "ltx/pipeline_ltx.py"


class Case(NamedTuple):
    """A network's class and options, a pipeline that uses it, and the shape of its latents (C', …) in the test."""

    kind: str
    options: dict[str, Any]
    pipeline: str
    latent_shape: tuple[int, ...]


CASES = {
    "SD 1.5": Case(KL, {}, SD, (4, 3, 5)),
    "SDXL": Case(KL, MOMENTS, "stable_diffusion_xl/pipeline_stable_diffusion_xl.py", (4, 3, 5)),
    "SD 3": Case(KL, {"shift_factor": 0.25}, "stable_diffusion_3/pipeline_stable_diffusion_3.py", (4, 3, 5)),
    "Flux": Case(KL, {"shift_factor": 0.25}, FLUX, (4, 4, 6)),
    "tiny": Case("AutoencoderTiny", {}, FLUX, (4, 4, 6)),
    "Sana": Case("AutoencoderDC", {}, "sana/pipeline_sana.py", (4, 3, 5)),
    "asymmetric": Case("AsymmetricAutoencoderKL", {}, SD, (4, 3, 5)),
    "Flux 2": Case("AutoencoderKLFlux2", {}, "flux2/pipeline_flux2.py", (4, 4, 6)),
    "Qwen-Image": Case("AutoencoderKLQwenImage", {}, "qwenimage/pipeline_qwenimage.py", (4, 4, 6)),
    "Wan 2.1": Case("AutoencoderKLWan", {}, WAN, (4, 2, 2, 3)),
    "Wan 2.2": Case("AutoencoderKLWan", WAN_RESIDUAL, WAN, (4, 2, 2, 3)),
    "HunyuanVideo": Case("AutoencoderKLHunyuanVideo", {}, "hunyuan_video/pipeline_hunyuan_video.py", (4, 2, 2, 3)),
    "LTX-Video": Case("AutoencoderKLLTXVideo", {}, LTX, (8, 2, 2, 3)),
    "LTX-Video 0.9.1": Case("AutoencoderKLLTXVideo", LTX_WITH_NOISE, LTX, (8, 2, 2, 3)),
    "CogVideoX": Case("AutoencoderKLCogVideoX", {}, "cogvideo/pipeline_cogvideox.py", (4, 3, 2, 3)),
    "CogVideoX, even": Case("AutoencoderKLCogVideoX", {}, "cogvideo/pipeline_cogvideox.py", (4, 2, 2, 3)),
}


class Loaded(NamedTuple):
    case: Case
    network: Any
    model: DiffusionModel


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    """Return a function that loads the model of a case; cases with the same network share it."""
    found: dict[str, tuple[Any, DiffusionModel]] = {}

    def load_case(name: str) -> Loaded:
        case = CASES[name]
        key = str(case[:2])
        if key not in found:
            folder = tmp_path_factory.mktemp("network")
            network = write_network(folder, case.kind, **case.options)
            found[key] = network, load_diffusers(folder).model
        return Loaded(case, *found[key])

    return load_case


def test_each_class_has_a_case() -> None:
    assert {case.kind for case in CASES.values()} == set(CLASSES) == set(OPTIONS)


def test_the_documentation_has_a_row_for_each_class() -> None:
    page = (Path(__file__).parents[3] / "docs" / "use.md").read_text()
    assert re.findall(r"^\| `(A\w+)` \|", page, re.MULTILINE) == list(CLASSES)


def in_pipeline(loaded: Loaded, latents: Tensor) -> Tensor:
    """Decode a diffusion model's latents as the case's pipeline does, to images or videos as the adapter has them."""
    case, network, model = loaded
    pipeline = Pipeline(case.pipeline, network)
    methods, stride = pipeline.methods, model.config.stride
    *frames, height, width = latents.shape[2:]
    names: dict[str, Any] = {"height": height * stride, "width": width * stride}
    methods.vae_scale_factor = stride
    match case.pipeline.partition("/")[0]:
        case "flux" | "qwenimage":
            latents = methods._pack_latents(latents, len(latents), latents.shape[1], height, width)
        case "flux2":
            names["latent_ids"] = methods._prepare_latent_ids(latents)
            latents = methods._pack_latents(latents)
        case "ltx":
            latents = methods._pack_latents(latents, 1, 1)
            names |= {"latent_num_frames": frames[0], "latent_height": height, "latent_width": width}
            names |= {"batch_size": 1, "decode_timestep": 0.05, "decode_noise_scale": 0.025}
            names["generator"] = torch.Generator().manual_seed(NOISE_SEED)
        case "cogvideo":
            methods.vae_scaling_factor_image = network.config.scaling_factor
            latents = latents.permute(0, 2, 1, 3, 4)
            names["additional_frames"] = 0
    if network.config.get("decoder_inject_noise"):
        torch.manual_seed(NOISE_SEED)
        torch.randn(latents.shape)  # the pipeline draws this noise from a generator of its own
    decoded = pipeline.decode(latents, **names)
    return decoded.transpose(1, 2) if frames else decoded


@pytest.mark.parametrize("name", CASES)
def test_decode(load: Callable[[str], Loaded], name: str) -> None:
    loaded = load(name)
    model = loaded.model
    normalisation = model.config.normalisation
    z = torch.randn(1, *loaded.case.latent_shape, generator=torch.Generator().manual_seed(1))
    latents = torch.from_numpy(normalisation.patch(z.numpy()))
    decoded = model.to_image_(model.decode(torch.from_numpy(normalisation.denormalise(latents.numpy()))))
    torch.testing.assert_close(decoded, in_pipeline(loaded, latents), atol=1e-4, rtol=0)
    assert decoded.shape[1:] == model.config.image_shape_of(loaded.case.latent_shape)
    assert decoded.std() > 0.02


@pytest.mark.parametrize("name", CASES)
def test_encode(load: Callable[[str], Loaded], name: str) -> None:
    case, network, model = load(name)
    image_shape = model.config.image_shape_of(case.latent_shape)
    assert image_shape is not None
    x = torch.rand(1, *image_shape, generator=torch.Generator().manual_seed(1))
    encoded = network.encode((2 * x - 1).unsqueeze(2) if case.kind == "AutoencoderKLQwenImage" else 2 * x - 1)
    mean, log_variance = model.encode(x)
    if "latent_dist" in encoded:
        expected, expected_log_variance = encoded.latent_dist.mode(), encoded.latent_dist.logvar
    else:
        (expected,) = encoded.to_tuple()
        expected_log_variance = torch.full_like(expected, LOWEST_LOG_VARIANCE)
    assert mean.shape[1:] == case.latent_shape == model.config.latent_shape_of(image_shape)
    torch.testing.assert_close(mean, expected.reshape(mean.shape), atol=1e-4, rtol=0)
    torch.testing.assert_close(log_variance, expected_log_variance.reshape(mean.shape), atol=1e-4, rtol=0)
    normalisation = model.config.normalisation
    again = normalisation.denormalise(normalisation.normalise(mean.numpy()))
    torch.testing.assert_close(torch.from_numpy(again), mean)


def test_encode_as_pipelines_that_start_from_images(load: Callable[[str], Loaded]) -> None:
    for name, file in (("Flux 2", "flux2/pipeline_flux2.py"), ("Qwen-Image", "qwenimage/pipeline_qwenimage_edit.py")):
        case, network, model = load(name)
        pipeline = Pipeline(file, network)
        pipeline.methods.latent_channels = case.latent_shape[0]
        x = torch.rand(2, 3, 8 * model.config.stride, 4 * model.config.stride)
        image = 2 * x - 1
        expected = pipeline.methods._encode_vae_image(image.unsqueeze(2) if name == "Qwen-Image" else image, None)
        latents = torch.from_numpy(model.config.normalisation.normalise(model.encode(x)[0].numpy()))
        torch.testing.assert_close(latents, expected.reshape(latents.shape), atol=1e-4, rtol=0)
    _, network, model = load("LTX-Video")
    z = torch.randn(2, 8, 2, 3, 4)
    expected = Pipeline(LTX, network).methods._normalize_latents(
        z, network.latents_mean, network.latents_std, network.config.scaling_factor
    )
    torch.testing.assert_close(torch.from_numpy(model.config.normalisation.normalise(z.numpy())), expected)


def test_latents_with_an_axis_of_one_frame(load: Callable[[str], Loaded]) -> None:
    _, _, model = load("Qwen-Image")
    z = torch.randn(2, 4, 2, 3)
    torch.testing.assert_close(model.decode(z.unsqueeze(2)), model.decode(z), atol=0, rtol=0)
    assert model.config.image_shape_of((4, 1, 2, 3)) == model.config.image_shape_of((4, 2, 3)) == (3, 16, 24)
    assert model.config.image_shape_of((4, 2, 2, 3)) is None


def test_the_noise_of_a_decoder_does_not_depend_on_other_rows(load: Callable[[str], Loaded]) -> None:
    _, _, model = load("LTX-Video 0.9.1")
    z = torch.randn(2, 8, 1, 1, 2)
    state = torch.get_rng_state()
    videos = model.decode(z)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(videos[1:], model.decode(z[1:]), atol=1e-5, rtol=0)


def test_scale_latents_of_cogvideox_can_be_inverted(tmp_path: Path) -> None:
    write_network(tmp_path, "AutoencoderKLCogVideoX", invert_scale_latents=True)
    normalisation = load_diffusers(tmp_path).model.config.normalisation
    z = torch.randn(1, 4, 1, 2, 2).numpy()
    torch.testing.assert_close(normalisation.normalise(z), z / 1.15258426)
    torch.testing.assert_close(normalisation.denormalise(z), z / 1.15258426)
