"""The model card beside a checkpoint: its training, the command that repeats it, and its metrics."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

from training.config.fit_config import FitConfig
from training.config.options import OLD_NAMES, as_argument, flag
from training.config.presets import PRESETS
from training.metrics.report import as_markdown
from vae import Checkpoint, VAEConfig
from vae.files import write_atomically
from vae.hub import as_front_matter, card_metadata

MARK = "Written by vae-train fit; without this line it is never replaced."
"""In the second line; in the first one of cards of earlier versions, which began without metadata."""


def write_card(path: Path, checkpoint: Checkpoint) -> bool:
    """Write the card of `checkpoint` to `path`; return False if `path` is a file that vae-train did not write."""
    if path.exists() and not _is_ours(path):
        return False
    write_atomically(path, card(checkpoint).encode())
    return True


def remove_card(path: Path) -> None:
    """Remove the card of an earlier checkpoint at `path`; leave any other file."""
    if path.exists() and _is_ours(path):
        path.unlink()


def card(checkpoint: Checkpoint) -> str:
    """Return the card as Markdown with the metadata that the Hugging Face Hub reads."""
    training, config = checkpoint.training, checkpoint.model.config
    shape = "×".join(map(str, config.image_shape))
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    started_from = training.get("started_from") or {}
    name = f"{started_from['checkpoint']}, " if "checkpoint" in started_from else ""
    started = (
        f", from the weights of {name}the checkpoint with SHA-256 {started_from['sha256']}" if started_from else ""
    )
    kept = training.get("kept_epoch")
    selected = f", of which epoch {kept['epoch']} was kept" if kept and kept != training["last_epoch"] else ""
    held_out = "all but those held out for validation" if training["validation"] else "all of them"
    metadata = card_metadata(checkpoint.name, training, checkpoint.metrics)
    return f"""{as_front_matter(metadata, MARK)}
# {checkpoint.name}

A variational autoencoder ({config.architecture}, hidden width {config.hidden_dim}, {parameters:,} parameters) of
images of {shape} in {describe_latents(config)}, with a {config.likelihood} likelihood.

## Training
{training["training_images"]:,} training images of {training["dataset"]} ({held_out}),
{training["epochs_finished"]} epochs{selected}, {training["seconds"]:.0f} seconds, torch {training["torch"]}{started}:

```sh
{command(checkpoint)}
```

## Figures
{as_markdown(checkpoint.metrics, config.likelihood)}

SHA-256 of `{checkpoint.name}.safetensors`: `{checkpoint.sha256}`
"""


def describe_latents(config: VAEConfig) -> str:
    """Return `3 latent dimensions`, or `latents of 8×4×4` where they are maps."""
    if config.latent_map:
        return f"latents of {'×'.join(map(str, config.latent_map))}"
    return f"{config.latent_dim} latent dimensions"


def command(checkpoint: Checkpoint) -> str:
    """Return the command that trains `checkpoint` again: every option with a value, except paths of this machine.

    The checkpoint that it started from is named without its folder.
    """
    words = ["vae-train", "fit"]
    preset = PRESETS.get(checkpoint.training.get("recipe", ""), FitConfig())
    for each in fields(FitConfig):
        value = checkpoint.training.get(OLD_NAMES.get(each.name, each.name))
        if value == each.metadata.get("unset") and getattr(preset, each.name) is None:
            continue
        if isinstance(value, bool):
            words.append(flag(each.name) if value else "--no-" + flag(each.name)[2:])
        elif value is not None:
            words += [flag(each.name), as_argument(value)]
    if name := (checkpoint.training.get("started_from") or {}).get("checkpoint"):
        words += ["--init-from", name]
    return shlex.join([*words, "--out", f"{checkpoint.name}.safetensors"])


def _is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return MARK in file.readline() + file.readline()
