"""TensorBoard's logs of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from training.config.fit_config import FitConfig
from vae.files import name_in_errors


class TensorBoard:
    """A `Logger` that writes TensorBoard's files to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, config: FitConfig) -> None:
        """Do nothing: each `log` opens a file of its own, so that an interrupt loses none."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write each metric as a scalar: `train_neg_elbo` → `train/neg_elbo`."""
        with name_in_errors(self.folder), SummaryWriter(self.folder) as writer:
            for name, value in metrics.items():
                writer.add_scalar(name.replace("_", "/", 1), value, step)

    def finish(self, error: BaseException | None) -> None:
        """Do nothing."""
