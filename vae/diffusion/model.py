"""An autoencoder of diffusers with the methods of `vae.VAE`.

AutoencoderKL is that of latent diffusion (Rombach et al. 2022, arXiv:2112.10752); `classes` has all that can be used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vae.diffusion.classes import CLASSES, configuration
from vae.diffusion.dtypes import Dtype
from vae.diffusion.tiles import decode_tiles, encode_tiles
from vae.diffusion.tiling import Tiling

LOWEST_LOG_VARIANCE = -30.0
"""The least log-variance of a posterior in diffusers: that of an encoder without noise, whose latent is the mean."""
DECODE_TIMESTEP, DECODE_NOISE_SCALE = 0.05, 0.025
"""What decoders with timestep conditioning are told of the noise in latents, and how much is added: the values that
LTX-Video recommends."""
NOISE_SEED = 0
"""Of that noise, and of the noise that decoders add to feature maps: the same for each image or video."""


class DiffusionModel(nn.Module):
    """Encoder x → q(z|x) = N(mean, exp(log_variance)) and decoder z → the mean of p(x|z) = N(image, I).

    Has the methods of `vae.VAE`. Images are (N, C, H, W) and their latents (N, C', h, w), videos (N, C, T, H, W) and
    (N, C', t, h, w). Latents are the network's: `config.normalisation` makes them of a diffusion model's. Arguments and
    results are float32 on the network's device; the network computes in `config.dtype`.

    Images larger than `tiling` lets be computed whole are computed in tiles, which limits the memory.
    """

    tiling: Tiling
    between_tiles: Callable[[], None]
    """Called between two tiles; what it raises ends the computation."""

    def __init__(self, network: Any, dtype: Dtype = "float32") -> None:
        """Wrap `network`, an object of one of `classes.CLASSES`, which then computes in `dtype` (see `configuration`).

        Raises:
            CheckpointError: Its configuration is unusable.

        """
        super().__init__()
        self.config = configuration(network, dtype)
        self._dtype: torch.dtype = getattr(torch, self.config.dtype)
        self._encoded = CLASSES[self.config.architecture].encoded
        settings = network.config
        self._has_noise = settings.get("timestep_conditioning") or any(settings.get("decoder_inject_noise", ()))
        self.network = network
        self.to(self._dtype)
        self.tiling = Tiling(self.config.stride)
        self.between_tiles = lambda: None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and log-variance of q(z|x) from images or videos in [0, 1].

        Of an encoder without noise (AutoencoderTiny, AutoencoderDC) the mean is the latent, and the log-variance
        LOWEST_LOG_VARIANCE.
        """
        mean, log_variance = encode_tiles(self._encode, x, self.tiling, self.between_tiles).float().chunk(2, 1)
        return mean.contiguous(), log_variance.contiguous()

    def _encode(self, x: Tensor) -> Tensor:
        """Return mean and log-variance, along the channels."""
        x = (2 * x - 1).to(self._dtype)
        encoded = getattr(self.network.encode(x.unsqueeze(2) if self.config.has_frame_axis else x), self._encoded)
        if self._encoded == "latent_dist":
            mean, log_variance = encoded.mean, encoded.logvar
        else:
            mean, log_variance = encoded, torch.full_like(encoded, LOWEST_LOG_VARIANCE)
        moments = torch.cat([mean, log_variance], 1)
        return moments.squeeze(2) if self.config.has_frame_axis else moments

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents to images or videos, approximately in [0, 1]."""
        return self.decode_raw(z).div_(2).add_(0.5)

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode latents to images or videos in diffusers' range: about [-1, 1], not clipped.

        Their memory format can be channels_last.
        """
        return decode_tiles(self._decode, z, self.tiling, self.between_tiles).float()

    def _decode(self, z: Tensor) -> Tensor:
        has_frame_axis = self.config.has_frame_axis
        z = (z.unsqueeze(2) if has_frame_axis and z.ndim == 4 else z).to(self._dtype)
        images = self._decode_noisy(z) if self._has_noise else self.network.decode(z).sample
        image: Tensor = images[:, :, 0] if has_frame_axis else images
        return image

    def _decode_noisy(self, z: Tensor) -> Tensor:
        """Decode with the noise of LTX-Video's decoders, which is the same for each row of a batch."""
        videos = []
        with torch.random.fork_rng([z.device] if z.is_cuda else []):
            for latent in z.split(1):
                torch.manual_seed(NOISE_SEED)
                videos.append(self._decode_conditioned(latent))
        return torch.cat(videos)

    def _decode_conditioned(self, z: Tensor) -> Tensor:
        timestep = None
        if self.network.config.timestep_conditioning:
            noise = torch.randn(z.shape, dtype=z.dtype).to(z.device)
            z = (1 - DECODE_NOISE_SCALE) * z + DECODE_NOISE_SCALE * noise
            timestep = z.new_tensor([DECODE_TIMESTEP])
        video: Tensor = self.network.decode(z, timestep).sample
        return video

    def decode_pieces(self, z: Tensor, take: Callable[[Tensor], None]) -> None:
        """Decode the latents of videos and give their frames to `take` as soon as they are computed.

        Frames that are taken are not kept. They are one piece where a class computes all frames at once, and where
        they are computed in tiles.

        Args:
            z: Latents (N, C', t, h, w).
            take: Gets frames (N, C, T, H, W), approximately in [0, 1]. It may call `encode` and `decode`.

        """
        piece = CLASSES[self.config.architecture].piece
        if piece is None or len(self.tiling.tiles(*z.shape[-2:])) > 1:
            take(self.decode(z))
            return

        is_taking = False

        def take_output(_: nn.Module, __: object, output: Any) -> Any:
            nonlocal is_taking
            if is_taking:  # the output is that of a `decode` which `take` calls
                return output
            state = dict(vars(self.network))  # Wan's cache of features is an attribute, which each call begins anew
            is_taking = True
            take(piece(self.network, output).float().div(2).add_(0.5))
            is_taking = False
            vars(self.network).update(state)
            return (output[0][:, :, :0], *output[1:]) if isinstance(output, tuple) else output[:, :, :0]

        hook = self.network.decoder.register_forward_hook(take_output)
        try:
            self.decode_raw(z)
        finally:
            hook.remove()

    def to_image_(self, decoded: Tensor) -> Tensor:
        """Clip the output of `decode` to [0, 1], in place."""
        return decoded.clamp_(0, 1)

    def reconstruction_loss(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Compute half of the squared error, summed over channels and pixels.

        That is −log N(x; image, I) without its constant, ½·log 2π per value, which would dominate the loss. The ELBO
        minus this constant is a lower bound of log p(x).

        Args:
            decoded: Output (N, …) of `decode`; the image is `decoded` clipped to [0, 1].
            x: Images or videos (N, …) in [0, 1].

        Returns:
            Losses (N,) in nats.

        """
        return (decoded.clamp(0, 1) - x).square().flatten(1).sum(1) / 2

    def pixel_losses(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Compute the loss of each pixel of images `x`, summed over channels: (N, 1, H, W), nats."""
        return (decoded.clamp(0, 1) - x).square().sum(1, keepdim=True) / 2
