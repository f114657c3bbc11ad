"""Measures the memory that a model of diffusers takes, by computing two small images at the start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from service.inference.compute_memory import ComputeMemory, PeakMemory, TooLittleMemory, free_memory
from service.malloc import KEEP_FREE, map_large_blocks, trim_malloc
from vae.diffusion.model import DiffusionModel
from vae.metadata import CheckpointError

SIDES = (128, 256)
"""Sides of the two images in pixels, of 8 per latent position at most; videos have half of them. Of smaller ones, the
buffers of convolutions, which grow with an image's width, are too large a part to tell its growth with the pixels."""
COMPARED_SIDE = 64
"""Side, likewise, of the images by which rows of batches are compared."""
LATENT_FRAMES = 3
"""Latent frames of a video that is computed: it has a first frame and others."""
FEATURE_MAPS = 4
"""Copies of the largest feature map that a pass holds, where its memory cannot be measured: about those of Stable
Diffusion's decoder on a CPU."""
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_memory(model: DiffusionModel, device: torch.device, setting: int | None, workers: int) -> ComputeMemory:
    """Measure passes of two sizes, and add what malloc keeps.

    Raises CheckpointError where `setting` bytes suffice for no image.
    """
    config, kept = model.config, KEEP_FREE if device.type == "cpu" else 0
    decoded: list[tuple[int, float]] = []
    encoded: list[tuple[int, float]] = []
    map_large_blocks()  # free blocks that malloc keeps would not be counted when they are used again
    with torch.inference_mode():
        sides = [side // 2 if config.is_video else side for side in SIDES]
        latents = [_latent(model, side, index + 1, device) for index, side in enumerate(sides)]
        model.encode(model.decode(latents[0]))  # the first pass chooses kernels, and allocates what they keep
        for z in latents:
            shape = config.image_shape_of(tuple(z.shape[1:])) or config.image_shape
            x = torch.rand(1, *shape, device=device)
            decoded.append((x[0, 0].numel(), kept + peak_memory(model, device, partial(model.decode_raw, z))))
            encoded.append((x[0, 0].numel(), kept + peak_memory(model, device, partial(model.encode, x))))
        batches = _rows_are_independent(model, _latent(model, COMPARED_SIDE, 1, device))
    least = 2.0 * x.shape[1] * x.element_size()  # the image, and a copy
    try:
        return ComputeMemory.plan(
            PeakMemory.fit(encoded[0], encoded[1], least),
            PeakMemory.fit(decoded[0], decoded[1], least),
            config.stride,
            setting=setting,
            free=_free(device) / workers,
            batches=batches,
        )
    except TooLittleMemory as error:
        advice = "Raise VAE_COMPUTE_MEMORY." if setting else "Set VAE_COMPUTE_MEMORY, or give the service more memory."
        raise CheckpointError(f"{error} {advice}") from error


def _latent(model: DiffusionModel, side: int, least: int, device: torch.device) -> Tensor:
    """Return a latent of about `side`×`side` pixels, of 2·least×2·least positions at least."""
    frames = (LATENT_FRAMES,) if model.config.is_video else ()
    positions = max(side // max(8, model.config.stride), 2 * least)
    shape = 1, model.config.latent_shape[0], *frames, positions, positions
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _rows_are_independent(model: DiffusionModel, z: Tensor) -> bool:
    """Does a row have the same results alone and beside others, in both directions?"""
    if model.config.is_video:
        return False  # a video is a batch of frames already
    rows = torch.cat([z, z.flip(-1), z.flip(-2)])
    images = model.decode(rows)
    moments = torch.cat(model.encode(images), 1)
    return all(
        torch.equal(model.decode(rows[index : index + 1])[0], images[index])
        and torch.equal(torch.cat(model.encode(images[index : index + 1]), 1)[0], moments[index])
        for index in range(len(rows))
    )


def peak_memory(model: nn.Module, device: torch.device, compute: Callable[[], object]) -> float:
    """The largest number of bytes that `compute` has allocated at a time.

    On CUDA as PyTorch's allocator counts them; on Linux the growth of the process's largest resident size, to which its
    kernels' buffers belong; elsewhere FEATURE_MAPS times the largest output of a layer.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        compute()
        return float(torch.cuda.max_memory_allocated(device) - before)
    trim_malloc()
    try:
        CLEAR_REFS.write_text("5")  # sets VmHWM to VmRSS, see proc(5)
        before = _resident_peak()
    except (OSError, StopIteration):
        return FEATURE_MAPS * _largest_feature_map(model, compute)
    compute()
    return float(_resident_peak() - before)


def _resident_peak() -> int:
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _largest_feature_map(model: nn.Module, compute: Callable[[], object]) -> int:
    """The bytes of the largest output of a layer of `model` during `compute`."""
    largest = 0

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        compute()
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _free(device: torch.device) -> float:
    """Bytes that can still be allocated on `device`."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()
