"""The files that a training writes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.config import ConfigError


@dataclass(frozen=True)
class Outputs:
    """All of them lie beside the checkpoint, under its name."""

    checkpoint: Path

    @property
    def state(self) -> Path:
        """What --resume reads."""
        return self.checkpoint.with_suffix(".state.pt")

    @property
    def history(self) -> Path:
        """A JSON line for each epoch."""
        return self.checkpoint.with_suffix(".history.jsonl")

    @property
    def card(self) -> Path:
        """What the checkpoint was trained on, how, and its figures, for a person."""
        return self.checkpoint.with_suffix(".md")

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's folder of logs."""
        return self.checkpoint.with_suffix(".tensorboard")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings off these files until the body, or the process, ends.

        The lock lies on an empty hidden file, which stays. Raises ConfigError where another training holds it.
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
