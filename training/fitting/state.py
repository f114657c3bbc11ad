"""The state of a training, saved so that `--resume` continues bit for bit."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from training.config.fit_config import FitConfig
from training.config.options import ConfigError
from training.data.dataset import DataError
from vae import VAE
from vae.files import write_atomically

PROGRESS = ("epoch", "position", "seen", "seconds", "history", "started_from", "averaged_steps", "stopped")
CONTENT = (
    "config", "dataset", "data", "model", "optimizers", "generator", "sums", "loss_sum", "average", "best", "progress",
)  # fmt: skip


class TrainingError(Exception):
    """The training cannot continue; the message says how to correct it."""


@dataclass
class TrainingState:
    """A training between two steps. Unlike a checkpoint it holds optimizers and random states, and is never served."""

    model: VAE
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator
    """Source of all noise. The order of the images does not use it: see `epoch_order`."""
    sums: Tensor
    """Sums of reconstruction loss and KL divergence over the images of this epoch so far, float32 (2,), nats."""
    loss_sum: Tensor
    """The same of the loss that is minimised, float32 (), nats."""
    average: VAE | None = None
    """The model with averaged weights, with --ema."""
    averaged_steps: int = 0
    """Steps that the average has been updated in."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the epoch with the lowest validation loss so far; empty if that does not decide."""
    stopped: bool = False
    """Whether --patience has ended the training."""
    epoch: int = 0
    """Epochs finished."""
    position: int = 0
    """Batches done in the current epoch."""
    seen: int = 0
    """Images in these batches."""
    seconds: float = 0.0
    """Training time so far."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each finished epoch."""
    started_from: dict[str, Any] = field(default_factory=dict)
    """SHA-256 and `training` metadata of the checkpoint whose weights it started with; empty without one."""
    data: dict[str, Any] = field(default_factory=dict)
    """Fingerprint of the data set and how it was split; see `describe_data`."""

    @property
    def evaluated(self) -> VAE:
        """The model that is measured and saved: the average of the weights if there is one."""
        return self.average or self.model

    def load_kept(self) -> VAE:
        """Return the model with the weights to keep: the best if they are known, or the current ones."""
        self.evaluated.load_state_dict(self.best or self.evaluated.state_dict())
        return self.evaluated

    def begin_encoder_epochs(self) -> None:
        """Continue from the weights to keep, so that the encoder is trained for the decoder that is saved with it."""
        self.model.load_state_dict(self.load_kept().state_dict())
        self.averaged_steps = 0

    def save(self, path: Path, config: FitConfig) -> None:
        """Write the state to `path` atomically; raises TrainingError if a value is not finite."""
        self.require_finite()
        content = {
            "config": config.to_metadata(),
            "dataset": config.located,
            "data": self.data,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "sums": self.sums,
            "loss_sum": self.loss_sum,
            "average": self.average.state_dict() if self.average else {},
            "best": self.best,
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(path, buffer.getvalue())

    @torch.no_grad()
    def require_finite(self) -> None:
        """Raise TrainingError if a weight, a value of an optimizer or a loss is infinite or NaN."""
        of_optimizers = (
            value for optimizer in self.optimizers for values in optimizer.state.values() for value in values.values()
        )
        values = (each for each in of_optimizers if isinstance(each, Tensor))
        tensors = [self.sums, self.loss_sum, *self.model.parameters(), *values]
        if not bool(get_total_norm(tensors, math.inf).isfinite()):
            raise TrainingError(
                f"A weight or the loss is not finite in epoch {len(self.history) + 1}: lower --learning-rate."
            )

    def resume(self, path: Path, config: FitConfig) -> None:
        """Continue from the file that `save` wrote.

        Raises:
            ConfigError: The file belongs to a training with other options or on another data set.
            DataError: The file is damaged.

        """
        content = read_state(path)
        theirs, ours = content["config"], json.loads(json.dumps(config.to_metadata()))
        for name in sorted(
            (theirs.keys() | ours.keys()) - {"dataset"}
        ):  # compared by its fingerprint below; its path may change
            if theirs.get(name) != ours.get(name):
                raise ConfigError(
                    f"--resume finds in {path} a training with {name} {theirs.get(name)}, not {ours.get(name)}: give "
                    "the options that it was started with, or start without --resume."
                )
        if content["data"] != self.data:
            before, now = (data.get("fingerprint") for data in (content["data"], self.data))
            raise ConfigError(
                f"--resume finds in {path} a training on {content['dataset']} with fingerprint {before}, not on "
                f"{config.located} with {now}: pictures were added, removed or changed since. Give the data set that "
                "it was started with, or start without --resume."
            )
        self.model.load_state_dict(content["model"])
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(content["generator"])
        self.sums.copy_(content["sums"])
        self.loss_sum.copy_(content["loss_sum"])
        if self.average:
            self.average.load_state_dict(content["average"])
        self.best = content["best"]
        progress: dict[str, Any] = content["progress"]
        for name, value in progress.items():
            setattr(self, name, value)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `TrainingState.save` wrote; raises DataError if the file is damaged or from an older version."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return {name: content[name] for name in CONTENT}
    except Exception as error:  # torch.load raises exceptions of many types
        raise DataError(f"{path} cannot be read as a training's state; start without --resume.") from error
