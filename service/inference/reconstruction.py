"""What reconstructing images computes."""

from __future__ import annotations

from dataclasses import dataclass

from service.inference.backend import FloatArray


@dataclass(frozen=True)
class Reconstruction:
    """Results of `reconstruct` for N images; losses in nats, (N,) each."""

    mean: FloatArray
    log_variance: FloatArray
    z: FloatArray
    pixels: FloatArray
    reconstruction_loss: FloatArray
    kl_divergence: FloatArray
