"""What the options of `vae-train fit` are made of: their declarations, groups, flags and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeVar

T = TypeVar("T")

RUNTIME_ONLY_FIELDS = ("device", "measure", "out", "resume", "init_from", "tensorboard")
"""Options that do not affect the model; checkpoints do not keep them."""
OLD_NAMES = {"preset": "recipe", "lr_schedule": "decay", "init_from": "start_from", "init_output_bias": "output_bias"}
"""Options → their names in checkpoints and, deprecated, on the command line."""
NETWORK = ("architecture", "hidden_dim", "hidden_layers", "latent_dim", "latent_shape", "likelihood", "scale")
"""Options that determine the network."""
VALIDATION_SHARE = 1 / 12
"""Default share of the training images held out for validation: about 5,000 of MNIST."""
LATENT_DIM = 3
"""Default dimensions of the latent space, those of the article."""
WIDTHS = {"mlp": 392, "conv": 64, "resnet": 64}
"""Default `hidden_dim` of each architecture."""
DEPTHS = {"mlp": 2, "conv": 2, "resnet": 1}
"""Default `hidden_layers`, which a conv ignores."""
DATASETS = ("mnist", "fashion-mnist", "kmnist", "emnist", "cifar10")
GROUPS = {
    "general": ("preset", "seed", "device", "matmul_precision"),
    "data": ("dataset", "data_dir", "image_size", "validation"),
    "network": (*NETWORK, "init_from", "init_output_bias"),
    "objective": ("beta", "free_bits", "kl_warmup_epochs", "posterior_samples", "importance_samples"),
    "training": ("epochs", "encoder_epochs", "batch_size", "input_dropout", "augment", "precision"),
    "selection": ("ema", "keep", "patience"),
    "optimizer": ("optimizer", "learning_rate", "adam_learning_rate", "lr_schedule", "warmup_steps", "clip_grad_norm"),
    "output": ("out", "resume", "measure", "tensorboard"),
}
"""Headings of --help → options."""
AUGMENTATIONS = ("flip", "crop")


class ConfigError(ValueError):
    """The value of an option cannot be used; the message says how to correct it."""


def option(default: T, says: str, *, expected: str = "", valid: Callable[[T], bool] = lambda _: True) -> T:
    """Declare a field with its default, its help, and the values that it takes, in words and as a predicate."""
    chosen: T = field(default=default, metadata={"help": says, "expected": expected, "valid": valid})
    return chosen


def unset_option(
    says: str, *, otherwise: str, unset: object, expected: str = "", valid: Callable[[Any], bool] = lambda _: True
) -> T | None:
    """Declare a field whose default None has the effect that `otherwise` describes.

    On the command line and in checkpoints the value `unset` means None.
    """
    about = {"help": says, "otherwise": otherwise, "unset": unset, "expected": expected, "valid": valid}
    chosen: T | None = field(default=None, metadata=about)
    return chosen


def one_of(*names: str) -> dict[str, Any]:
    """Return the bounds of an option that is one of `names`."""
    return {"expected": f"one of: {', '.join(names)}", "valid": lambda value: value in names}


def at_least(minimum: int) -> dict[str, Any]:
    """Return the bounds of an option that is a finite number of `minimum` or more."""
    return {"expected": f"{minimum} or more", "valid": lambda value: minimum <= value < math.inf}


def as_argument(value: Any) -> str:
    """Return the value of an option as the command line takes it: (8, 4, 4) → `8,4,4`."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def flag(name: str) -> str:
    """Return the flag of the field `name`: `batch_size` → `--batch-size`."""
    return "--" + name.replace("_", "-")
