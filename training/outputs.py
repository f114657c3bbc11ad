"""The files that a training writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
