"""Export encoder and decoder to files that run without this project."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vae import VAE, Checkpoint

Format = Literal["onnx", "torch-export"]
Arrays = tuple[np.ndarray, ...]

TOLERANCE = 1e-5
"""Largest accepted absolute difference from the checkpoint per value; float32 rounding stays below it."""
BATCHES = (1, 2, 7, 64)
"""Batch sizes with which an exported file is checked."""


class ExportError(Exception):
    """An exported file computes other values than the checkpoint."""


class Encoder(nn.Module):
    """Images (N, C, H, W) in [0, 1] → mean and log-variance, (N, *latent_shape) each."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode, without sampling."""
        return self.model.encode(image)


class Decoder(nn.Module):
    """Latents (N, *latent_shape) → images (N, C, H, W) in [0, 1]."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> tuple[Tensor]:
        """Decode to pixels, not to the parameters of p(x|z)."""
        return (self.model.to_image_(self.model.decode(z)),)


def export(checkpoint: Checkpoint, file_format: Format, folder: Path) -> list[Path]:
    """Export the encoder and the decoder, with a dynamic batch size.

    Loads each file again and compares it with the checkpoint on random batches.

    Args:
        checkpoint: The model.
        file_format: `onnx` or `torch-export`.
        folder: Output folder.

    Returns:
        The paths of NAME.encoder and NAME.decoder.

    Raises:
        ExportError: A file differs from the checkpoint by more than TOLERANCE. The file is removed.

    """
    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint.model
    write, read, suffix = (_write_onnx, _read_onnx, "onnx") if file_format == "onnx" else (_write_pt2, _read_pt2, "pt2")
    image_shape, latent_shape = model.config.image_shape, model.config.latent_shape
    paths = []
    for part, module, shape, names in (
        ("encoder", Encoder(model), image_shape, ("image", "mean", "log_variance")),
        ("decoder", Decoder(model), latent_shape, ("z", "image")),
    ):
        path = folder / f"{checkpoint.name}.{part}.{suffix}"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # torch's exporters use deprecated parts of torch
            write(module.eval(), torch.rand(2, *shape), names, path)
        difference = _largest_difference(module, read(path), shape)
        if not difference <= TOLERANCE:
            path.unlink()
            raise ExportError(
                f"{path} differed from the checkpoint by {difference:g}, more than {TOLERANCE:g}, and was removed: "
                "try the other --format."
            )
        paths.append(path)
    return paths


def _write_onnx(module: nn.Module, example: Tensor, names: tuple[str, ...], path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        module,
        (example,),
        path,
        input_names=names[:1],
        output_names=names[1:],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _read_onnx(path: Path) -> Callable[[Tensor], Arrays]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # by default it sends usage data to Microsoft
    import onnxruntime  # noqa: PLC0415 - only needed here

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (argument.name for argument in session.get_inputs())
    return lambda rows: tuple(session.run(None, {name: rows.numpy()}))


def _write_pt2(module: nn.Module, example: Tensor, _names: tuple[str, ...], path: Path) -> None:
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(program, path)


def _read_pt2(path: Path) -> Callable[[Tensor], Arrays]:
    run = torch.export.load(path).module()
    return lambda rows: tuple(output.detach().numpy() for output in run(rows))


def _largest_difference(module: nn.Module, run: Callable[[Tensor], Arrays], shape: tuple[int, ...]) -> float:
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for count in BATCHES:
        rows = torch.rand(count, *shape, generator=generator)
        with torch.inference_mode():
            expected = module(rows)
        for ours, theirs in zip(expected, run(rows), strict=True):
            if ours.shape != theirs.shape:
                return float("inf")
            largest = max(largest, float(np.abs(ours.numpy() - theirs).max()))
    return largest
