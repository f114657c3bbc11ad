"""Which options of `vae-train fit` go together."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from training.config.options import DEPTHS, LATENT_DIM, ConfigError, flag
from vae.config import LOG_SCALE_BOUNDS

if TYPE_CHECKING:
    from training.config.fit_config import FitConfig


def check_network(config: FitConfig) -> None:
    """Raise ConfigError if no network has these options."""
    if config.architecture == "conv" and config.hidden_layers not in (None, DEPTHS["conv"]):
        raise ConfigError("--hidden-layers is for --architecture mlp and resnet; conv does not use it.")
    if config.latent_shape and config.architecture != "resnet":
        raise ConfigError(
            f"--latent-shape is for --architecture resnet; the latents of {config.architecture} are vectors: give "
            "--latent-dim."
        )
    if config.latent_shape and config.latent_dim not in (LATENT_DIM, prod(config.latent_shape)):
        raise ConfigError("--latent-dim and --latent-shape exclude each other: give one of them.")
    if config.scale == "pixel" and config.likelihood not in LOG_SCALE_BOUNDS:
        raise ConfigError(
            f"--scale pixel is for --likelihood {' and '.join(LOG_SCALE_BOUNDS)}; {config.likelihood} has no scale."
        )


def check_training(config: FitConfig) -> None:
    """Raise ConfigError if no training has these options."""
    if config.all_epochs == 0:
        raise ConfigError("--epochs and --encoder-epochs are both 0; one of them must be more.")
    if config.kl_warmup_epochs > config.epochs:
        raise ConfigError(
            f"--kl-warmup-epochs is {config.kl_warmup_epochs}; it must be at most the {config.epochs} of --epochs."
        )
    if config.patience and config.encoder_epochs:
        raise ConfigError(
            "--patience ends a training of the whole model: leave out --encoder-epochs, and train the encoder "
            "alone afterwards, with --init-from."
        )
    of_the_elbo = {"beta": 1, "free_bits": 0, "kl_warmup_epochs": 0, "posterior_samples": 1}
    changed = [flag(name) for name, plain in of_the_elbo.items() if getattr(config, name) != plain]
    if config.importance_samples > 1 and changed:
        raise ConfigError(
            f"--importance-samples above 1 has neither a KL divergence nor an average over samples that "
            f"{' and '.join(changed)} could change: leave out either."
        )
