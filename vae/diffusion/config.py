"""The configuration of a diffusion model's autoencoder. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from vae.diffusion.dtypes import Dtype
from vae.diffusion.normalisation import Normalisation


@dataclass(frozen=True)
class DiffusionConfig:
    """The shapes and the normalisation of an autoencoder of images or videos."""

    likelihood: ClassVar[str] = "gaussian"
    """Of variance 1, without its constant."""

    architecture: str
    """The name of its class in diffusers."""
    image_shape: tuple[int, ...]
    """(C, H, W), or (C, T, H, W) of videos: the nominal shape. The network accepts other sizes."""
    latent_shape: tuple[int, ...]
    """(C', h, w) or (C', t, h, w) for an image or a video of the nominal shape."""
    stride: int
    """Pixels per latent position, along height and width."""
    normalisation: Normalisation
    """What a diffusion model's latents are of the network's."""
    temporal_stride: int = 1
    """Frames per latent frame after the first one, which is of one frame."""
    even_latents_whole: bool = False
    """Whether each frame of an even number of latent frames is of `temporal_stride` frames, the first one too, as of
    CogVideoX."""
    has_frame_axis: bool = False
    """Whether the network of images computes videos of one frame: their latents (C', 1, h, w) are accepted too."""
    frame_rate: int = 24
    """Frames per second of a video, where a request gives none."""
    dtype: Dtype = "float32"
    """In which the network computes."""

    @property
    def is_video(self) -> bool:
        """Whether it is a model of videos."""
        return len(self.image_shape) == 4

    @property
    def scaling_factor(self) -> float | None:
        """The normalisation's scale where it is the same for all channels."""
        return self.normalisation.scale if isinstance(self.normalisation.scale, float) else None

    @property
    def shift_factor(self) -> float | None:
        """The normalisation's mean where it is the same for all channels."""
        return self.normalisation.mean if isinstance(self.normalisation.mean, float) else None

    def image_shape_of(self, latent_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape of the image or video decoded from such a latent; None if it cannot be decoded."""
        if self.has_frame_axis and len(latent_shape) == 4 and latent_shape[1] == 1:
            latent_shape = (latent_shape[0], *latent_shape[2:])
        if len(latent_shape) != len(self.latent_shape) or latent_shape[0] != self.latent_shape[0]:
            return None
        if min(latent_shape) < 1:
            return None
        _, *frames, height, width = latent_shape
        sides = height * self.stride, width * self.stride
        return self.image_shape[0], *map(self._frames_of, frames), *sides

    def latent_shape_of(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the latent that an image or video of an accepted shape is encoded to."""
        _, *frames, height, width = image_shape
        latent_frames = (ceil(count / self.temporal_stride) for count in frames)
        return self.latent_shape[0], *latent_frames, height // self.stride, width // self.stride

    def accepts_shape(self, image_shape: tuple[int, ...]) -> bool:
        """Return whether an image or video of this shape can be encoded."""
        if len(image_shape) != len(self.image_shape) or min(image_shape) < 1:
            return False
        return self.image_shape_of(self.latent_shape_of(image_shape)) == image_shape

    def image_shape_near(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape that a picture is brought to: its sides, rounded down to multiples of `stride`."""
        side = self.stride
        sides = max(side, height - height % side), max(side, width - width % side)
        return *self.image_shape[:-2], *sides

    def frames_near(self, count: int) -> list[int]:
        """Return the numbers of frames, near `count`, of videos that can be encoded and that are decoded."""
        latent_frames = ceil(count / self.temporal_stride)
        return sorted({self._frames_of(each) for each in range(max(1, latent_frames - 1), latent_frames + 2)})

    def _frames_of(self, latent_frames: int) -> int:
        if self.even_latents_whole and latent_frames % 2 == 0:
            return self.temporal_stride * latent_frames
        return self.temporal_stride * (latent_frames - 1) + 1
