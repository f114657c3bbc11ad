"""Which shapes are taken: errors for wrong ones, and for pictures that would be too large."""

from __future__ import annotations

from math import ceil, sqrt

from service.api.remote.options import Config
from service.errors import InvalidInput, Problem, TooLarge
from vae.diffusion.config import DiffusionConfig
from vae.diffusion.normalisation import Normalisation

JPEG_SIDE = 65_500
"""Longest side in pixels; this is libjpeg's limit, the format's is 65,535."""


def check_patches(normalisation: Normalisation, latents_shape: tuple[int, ...]) -> None:
    """Raise InvalidInput for latents (N, C', h, w) that do not consist of whole patches."""
    *_, height, width = latents_shape
    if height % (size := normalisation.patch_size) or width % size:
        problem = f"Latents of {height}×{width} cannot be scaled in patches of {size}×{size}; send do_scaling=false."
        raise InvalidInput(Problem("query", "/do_scaling", problem))


def check_jpeg(count: int, image_shape: tuple[int, ...]) -> None:
    """Raise TooLarge for a grid, as square as possible, that exceeds the size of a JPEG."""
    _, height, width = image_shape
    columns = ceil(sqrt(count))
    height, width = ceil(count / columns) * height, columns * width
    if max(height, width) > JPEG_SIDE:
        sides = f"{height}×{width} pixels; a JPEG has at most {JPEG_SIDE} on a side"
        raise TooLarge(f"The picture would have {sides}. Ask for image_format=png or output_type=pt.")


def check_single(count: int) -> None:
    """Raise InvalidInput for several videos where the response has the frames of one."""
    if count != 1:
        problem = f"shape has {count} videos; send them one by one, or ask for output_type=pt."
        raise InvalidInput(Problem("query", "/shape", problem))


def refuse_images(config: Config) -> None:
    """Raise InvalidInput for a model of images, which makes no video."""
    if not config.is_video:
        problem = f"output_type is mp4; {config.architecture} is a model of images: ask for pil or pt."
        raise InvalidInput(Problem("query", "/output_type", problem))


def wrong_shape(shape: tuple[int, ...], expected: str) -> InvalidInput:
    """Return the error for a tensor of another shape than `expected`."""
    return InvalidInput(Problem("query", "/shape", f"shape is {list(shape)}; {expected} is expected."))


def batch_of(shape: tuple[int, ...], config: Config, multiple: int = 1, frames: int | None = None) -> str:
    """Return the shape of a batch for an error, with what its sides may be, and its frames near `frames`."""
    sizes = ""
    if isinstance(config, DiffusionConfig):
        multiples = f", multiples of {multiple}" if multiple > 1 else ""
        lengths = f"{', '.join(map(str, config.frames_near(frames)))} frames and " if frames else ""
        any_length = "any number of frames and " if config.is_video and not frames else ""
        sizes = f" (of {lengths or any_length}any height and width{multiples})"
    return f"[{', '.join(map(str, ('N', *shape)))}]{sizes}"
