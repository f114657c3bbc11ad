import pytest
import torch

import vae
from vae.config import Architecture


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 9), (3, 1, 1)])
def test_any_shape_comes_out_as_it_went_in(architecture: Architecture, shape: tuple[int, int, int]) -> None:
    model = vae.VAE(vae.VAEConfig(architecture, shape, hidden_dim=8, latent_dim=2))
    logits, mean, log_variance = model(torch.rand(4, *shape))
    assert logits.shape == (4, *shape)
    assert mean.shape == log_variance.shape == (4, 2)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_every_parameter_learns(architecture: Architecture, x: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = vae.VAE(vae.VAEConfig(architecture, hidden_dim=16))
    logits, mean, log_variance = model(x, torch.Generator().manual_seed(0))
    vae.elbo(logits, x, mean, log_variance).sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not idle


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_decoder_gives_logits(architecture: Architecture) -> None:
    model = vae.VAE(vae.VAEConfig(architecture, hidden_dim=8))
    logits = model.decode(1000 * torch.randn(64, 3))
    assert logits.min() < -1
    assert logits.max() > 1


def test_a_row_is_computed_alone(x: torch.Tensor) -> None:
    """No layer mixes the images of a batch."""
    torch.manual_seed(0)
    model = vae.VAE(vae.VAEConfig("conv", hidden_dim=16))
    mean, _ = model.encode(x[:20])
    torch.testing.assert_close(model.encode(x[7:8])[0], mean[7:8])
    torch.testing.assert_close(model.decode(mean[7:8]), model.decode(mean)[7:8])
