import numpy as np
import pytest
import torch

import vae
from tests.vae.reference import Reference
from vae.model import reparameterize

ARTICLE_SHAPES = {
    "encoder.0.weight": (392, 784),
    "encoder.0.bias": (392,),
    "encoder.2.weight": (392, 392),
    "encoder.2.bias": (392,),
    "mean_layer.weight": (3, 392),
    "mean_layer.bias": (3,),
    "log_variance_layer.weight": (3, 392),
    "log_variance_layer.bias": (3,),
    "decoder.0.weight": (392, 3),
    "decoder.0.bias": (392,),
    "decoder.2.weight": (392, 392),
    "decoder.2.bias": (392,),
    "decoder.4.weight": (784, 392),
    "decoder.4.bias": (784,),
}


def test_default_is_the_articles_network() -> None:
    model = vae.VAE(vae.VAEConfig())
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == ARTICLE_SHAPES
    assert sum(parameter.numel() for parameter in model.parameters()) == 927_870
    slopes = [module.negative_slope for module in model.modules() if isinstance(module, torch.nn.LeakyReLU)]
    assert slopes == [0.3] * 4


def test_encode_matches_the_reference(bundled: vae.Checkpoint, reference: Reference, x: torch.Tensor) -> None:
    mean, log_variance = bundled.model.encode(x)
    wanted_mean, wanted_log_variance = reference.encode(x.flatten(1).double().numpy())
    np.testing.assert_allclose(mean.numpy(), wanted_mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(log_variance.numpy(), wanted_log_variance, rtol=0, atol=1e-5)


def test_decode_matches_the_reference(bundled: vae.Checkpoint, reference: Reference) -> None:
    z = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    logits = bundled.model.decode(torch.from_numpy(z))
    assert logits.shape == (200, 1, 28, 28)
    np.testing.assert_allclose(logits.flatten(1).numpy(), reference.logits(z.astype(np.float64)), rtol=1e-5, atol=1e-4)


def test_posterior_sample_is_mean_plus_noise_times_standard_deviation() -> None:
    mean, log_variance, noise = torch.randn(3, 5, 3).unbind()
    z = reparameterize(mean, log_variance, noise=noise)
    torch.testing.assert_close(z, mean + noise * log_variance.exp().sqrt())


def test_drawn_noise_is_standard_normal() -> None:
    zeros = torch.zeros(100_000, 3)
    z = reparameterize(zeros + 2, zeros + np.log(9), generator=torch.Generator().manual_seed(0))
    assert z.mean(0).tolist() == pytest.approx([2, 2, 2], abs=0.05)
    assert z.std(0).tolist() == pytest.approx([3, 3, 3], abs=0.05)


def test_the_generator_decides_the_sample(small: vae.VAE, x: torch.Tensor) -> None:
    before = torch.get_rng_state()
    first, again, other = (small(x, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_forward_is_encode_reparameterize_decode(small: vae.VAE, x: torch.Tensor) -> None:
    logits, mean, log_variance = small(x, torch.Generator().manual_seed(3))
    z = reparameterize(*small.encode(x), generator=torch.Generator().manual_seed(3))
    assert torch.equal(logits, small.decode(z))
    assert torch.equal(mean, small.encode(x)[0])
    assert torch.equal(log_variance, small.encode(x)[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "transformer"),
        ("image_shape", (28, 28)),
        ("image_shape", (2, 28, 28)),
        ("image_shape", (1, 0, 28)),
        ("image_shape", (1, 28.0, 28)),
        ("image_shape", (True, 28, 28)),
        ("hidden_dim", 0),
        ("hidden_dim", 1.5),
        ("hidden_layers", 0),
        ("hidden_layers", 101),
        ("latent_dim", -1),
        ("latent_dim", True),
        ("negative_slope", float("nan")),
        ("negative_slope", 1.5),
        ("negative_slope", "0.3"),
        ("latent_map", (8, 7)),
        ("latent_map", (0, 7, 7)),
        ("latent_map", [8, 7, 7]),
    ],
)
def test_invalid_configuration_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is .*; it must be .*\.$"):
        vae.VAEConfig(**{field: value})  # type: ignore[arg-type]


def test_samples_are_decoded_draws_of_the_prior() -> None:
    model = vae.VAE(vae.VAEConfig(hidden_dim=8, latent_dim=2)).eval()
    images = model.sample(5, torch.Generator().manual_seed(3))
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(images, model.to_image_(model.decode(z).detach()))
    assert images.shape == (5, 1, 28, 28)
    assert not images.requires_grad
    assert not torch.equal(model.sample(5), model.sample(5))


def test_a_reconstruction_is_decoded_from_the_posterior_mean() -> None:
    model = vae.VAE(vae.VAEConfig(hidden_dim=8)).double().eval()
    x = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    images = model.reconstruct(x)
    assert torch.equal(images, model.to_image_(model.decode(model.encode(x)[0]).detach()))
    assert not images.requires_grad
    assert model.sample(2).dtype == torch.float64


def test_a_generator_gives_the_same_samples_on_every_device() -> None:
    with torch.device("meta"):  # stands for a GPU, whose tensors a generator of the CPU does not fill
        model = vae.VAE(vae.VAEConfig(hidden_dim=8))
    generator = torch.Generator().manual_seed(3)
    assert model.sample(5, generator).device.type == "meta"
    assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())


def test_a_latent_map_of_an_impossible_size_names_the_possible_ones() -> None:
    with pytest.raises(ValueError, match=r"images of 50×28 .* must be one of: 25×14, 13×7, 7×4, 4×2\.$"):
        vae.VAEConfig("resnet", (3, 50, 28), latent_map=(8, 12, 7))
    with pytest.raises(ValueError, match="latents of conv are vectors"):
        vae.VAEConfig("conv", latent_map=(8, 7, 7))
