"""The files that a training writes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.config.options import ConfigError


@dataclass(frozen=True)
class Outputs:
    """Paths of these files, all beside the checkpoint and named after it."""

    checkpoint: Path

    @property
    def state(self) -> Path:
        """The training state that --resume reads."""
        return self.checkpoint.with_suffix(".state.pt")

    @property
    def history(self) -> Path:
        """The metrics of each epoch, as JSON lines."""
        return self.checkpoint.with_suffix(".history.jsonl")

    @property
    def card(self) -> Path:
        """The model card."""
        return self.checkpoint.with_suffix(".md")

    @property
    def config(self) -> Path:
        """The options, which --config reads."""
        return self.checkpoint.with_suffix(".config.yaml")

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's folder of logs."""
        return self.checkpoint.with_suffix(".tensorboard")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock these files against other trainings until the body or the process ends.

        The lock is on an empty hidden file, which stays. Raises ConfigError if another training holds it.
        """
        with self.checkpoint.with_name(f".{self.checkpoint.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"--out {self.checkpoint} is being written by another vae-train fit: wait for it, or give another "
                    "file."
                ) from None
            yield
