"""All that a training needs to go on from where it was cut: to the same tensors, to the bit."""

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

from training.config import ConfigError, FitConfig
from training.data.dataset import DataError
from vae import VAE
from vae.files import write_atomically

PROGRESS = ("epoch", "position", "seen", "seconds", "history", "started_from")
CONTENT = ("config", "dataset", "data", "model", "optimizers", "generator", "sums", "progress")


class TrainingError(Exception):
    """A training that cannot go on; the message is a sentence that says how to mend it."""


@dataclass
class TrainingState:
    """A training between two steps. It is no checkpoint: it is never served, and holds what only training needs."""

    model: VAE
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator
    """Of all noise; the order of the images is drawn from the seed and the epoch alone."""
    sums: Tensor
    """Reconstruction loss and KL divergence over the images seen in this epoch, nats."""
    epoch: int = 0
    """Epochs finished."""
    position: int = 0
    """Batches of the next epoch that are done."""
    seen: int = 0
    """Images in those."""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each finished epoch."""
    started_from: dict[str, Any] = field(default_factory=dict)
    """Hash and training of the checkpoint whose weights it began with, if any."""

    data: dict[str, Any] = field(default_factory=dict)
    """Fingerprint of the data set, and how it was split."""

    def save(self, path: Path, config: FitConfig) -> None:
        """Write to `path`, atomically; raises TrainingError where it is not finite."""
        self.require_finite()
        content = {
            "config": config.to_metadata(),
            "dataset": config.located,
            "data": self.data,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "sums": self.sums,
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(path, buffer.getvalue())

    @torch.no_grad()
    def require_finite(self) -> None:
        """Raise TrainingError where a weight, a value of an optimiser or a loss is infinite or NaN."""
        of_optimizers = (
            value for optimizer in self.optimizers for values in optimizer.state.values() for value in values.values()
        )
        tensors = [self.sums, *self.model.parameters(), *(each for each in of_optimizers if isinstance(each, Tensor))]
        if not bool(get_total_norm(tensors, math.inf).isfinite()):
            raise TrainingError(
                f"A weight or the loss is no finite number in epoch {len(self.history) + 1}: lower --learning-rate."
            )

    def resume(self, path: Path, config: FitConfig) -> None:
        """Go on from what `save` wrote; raises ConfigError where it is another training's, DataError where damaged."""
        content = read_state(path)
        theirs, ours = content["config"], json.loads(json.dumps(config.to_metadata()))
        for name in sorted((theirs.keys() | ours.keys()) - {"dataset"}):  # known by its fingerprint, wherever it lies
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
        progress: dict[str, Any] = content["progress"]
        for name, value in progress.items():
            setattr(self, name, value)


def read_state(path: Path) -> dict[str, Any]:
    """What `TrainingState.save` wrote to `path`; raises DataError where it is damaged or an older version's."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return {name: content[name] for name in CONTENT}
    except Exception as error:  # torch's unpickler raises whatever it trips over
        raise DataError(f"{path} cannot be read as a training's state; start without --resume.") from error
