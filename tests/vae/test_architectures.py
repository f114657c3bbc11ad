"""Every architecture, with images of many shapes."""

from typing import get_args

import pytest
import torch
from torch import nn

from vae import VAE, VAEConfig
from vae.architectures import ARCHITECTURES
from vae.config import Architecture
from vae.modules import ResidualBlock

SHAPES = [(1, 28, 28), (3, 64, 64), (3, 32, 48), (1, 5, 7), (1, 1, 9), (3, 4, 4), (1, 1, 1)]


def test_every_name_has_an_architecture() -> None:
    assert set(ARCHITECTURES) == set(get_args(Architecture))


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("shape", SHAPES)
def test_decoded_images_have_the_shape_of_the_input(architecture: Architecture, shape: tuple[int, int, int]) -> None:
    model = VAE(VAEConfig(architecture, shape, hidden_dim=16, latent_dim=5))
    logits, mean, log_variance = model(torch.rand(2, *shape), torch.Generator().manual_seed(0))
    assert logits.shape == (2, *shape)
    assert mean.shape == log_variance.shape == (2, 5)


@pytest.mark.parametrize("shape", SHAPES)
def test_latents_are_maps_of_any_resolution_of_a_resnet(shape: tuple[int, int, int]) -> None:
    for size in VAEConfig(image_shape=shape).feature_sizes:
        config = VAEConfig("resnet", shape, hidden_dim=16, latent_map=(5, *size))
        assert config.latent_dim == 5 * size[0] * size[1]
        logits, mean, log_variance = VAE(config)(torch.rand(2, *shape), torch.Generator().manual_seed(0))
        assert logits.shape == (2, *shape)
        assert mean.shape == log_variance.shape == (2, *config.latent_shape) == (2, 5, *size)


def test_a_resnet_s_sizes_are_its_width_and_its_depth() -> None:
    """The coarsest map has `hidden_dim` channels, and each resolution `hidden_layers` blocks on each side."""
    small, large = (
        VAE(VAEConfig("resnet", (3, 32, 32), width, hidden_layers=depth)) for width, depth in [(32, 1), (64, 3)]
    )
    for model, width, depth in ((small, 32, 1), (large, 64, 3)):
        for part in (model.encoder, model.decoder):
            blocks = [module for module in part if isinstance(module, ResidualBlock)]
            assert sorted(len(block[2].get_parameter("weight")) for block in blocks) == sorted(
                depth * [width // 4, width // 2, width]
            )


def test_groups_divide_the_channels() -> None:
    for width in range(8, 40):
        norms = [
            each for each in VAE(VAEConfig("resnet", hidden_dim=width)).modules() if isinstance(each, nn.GroupNorm)
        ]
        assert all(norm.num_channels // norm.num_groups >= 8 for norm in norms)


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_parameter_and_every_pixel_has_a_gradient(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig(architecture, (3, 9, 14), hidden_dim=16, latent_dim=5))
    x = torch.rand(4, 3, 9, 14, requires_grad=True)
    logits, _, log_variance = model(x, torch.Generator().manual_seed(0))
    (logits.square().sum() + log_variance.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert x.grad is not None
    assert (x.grad != 0).any(0).all()


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_a_perceptron_has_the_configured_number_of_layers(layers: int) -> None:
    model = VAE(VAEConfig(hidden_dim=16, hidden_layers=layers))
    widths = [(module.in_features, module.out_features) for module in model.modules() if isinstance(module, nn.Linear)]
    inner = [(16, 16)] * (layers - 1)
    assert widths == [(784, 16), *inner, (3, 16), *inner, (16, 784), (16, 3), (16, 3)]


def test_convolutions_are_local() -> None:
    """In the last feature map, a corner does not depend on a pixel in the opposite corner of the image."""
    model = VAE(VAEConfig("conv", (1, 64, 64), hidden_dim=16, latent_dim=5))
    convolutions = model.encoder[:-3]
    image = torch.zeros(2, 64 * 64)
    image[1, 0] = 1
    difference = (convolutions(image)[1] - convolutions(image)[0]).abs().sum(0)
    assert difference[0, 0] > 0
    assert difference[-1, -1] == 0
