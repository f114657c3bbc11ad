"""The presets of `vae-train fit`."""

from __future__ import annotations

from pathlib import Path

from training.config.fit_config import FitConfig

PRESETS = {
    "default": FitConfig(),
    "article": FitConfig(
        preset="article",
        batch_size=128,
        optimizer="adam",
        learning_rate=1e-3,
        lr_schedule="constant",
        warmup_steps=0,
        init_output_bias=False,
        input_dropout=0.0,
        validation=0,
    ),
    "small-colour": FitConfig(
        preset="small-colour",
        dataset="cifar10",
        out=Path("out/cifar10.safetensors"),
        architecture="resnet",
        latent_dim=128,
        likelihood="logistic",
        scale="pixel",
        augment="flip",
        epochs=30,
    ),
    "large": FitConfig(
        preset="large",
        image_size=128,
        architecture="conv",
        latent_dim=256,
        likelihood="logistic",
        scale="pixel",
        augment="flip",
        batch_size=64,
        epochs=30,
    ),
    "anomaly": FitConfig(
        preset="anomaly",
        architecture="conv",
        latent_dim=32,
        input_dropout=0.0,
        epochs=30,
    ),
}
"""Names of `--preset` → their options; `dataclasses.replace` changes some of them."""
