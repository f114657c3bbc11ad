"""The article's network in NumPy and float64, to which the model and the service are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float64]
SLOPE = 0.3


@dataclass(frozen=True)
class Reference:
    """Computes with tensors named as in the article's state_dict."""

    tensors: dict[str, Floats]

    @classmethod
    def read(cls, path: Path) -> Reference:
        return cls({name: tensor.astype(np.float64) for name, tensor in load_file(path).items()})

    def encode(self, x: Floats) -> tuple[Floats, Floats]:
        """Images (N, 784) in [0, 1] → mean and log-variance, each (N, 3)."""
        hidden = leaky(self._linear("encoder.2", leaky(self._linear("encoder.0", x))))
        return self._linear("mean_layer", hidden), self._linear("log_variance_layer", hidden)

    def logits(self, z: Floats) -> Floats:
        """Latents (N, 3) → logits (N, 784)."""
        hidden = leaky(self._linear("decoder.2", leaky(self._linear("decoder.0", z))))
        return self._linear("decoder.4", hidden)

    def decode(self, z: Floats) -> Floats:
        """Latents (N, 3) → images (N, 784) in [0, 1]."""
        return sigmoid(self.logits(z))

    def _linear(self, name: str, x: Floats) -> Floats:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]


def leaky(x: Floats) -> Floats:
    return np.where(x >= 0, x, SLOPE * x)


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def reconstruction_loss(logits: Floats, x: Floats) -> Floats:
    """−Σ x·log p + (1 − x)·log(1 − p) with p = sigmoid(logits), (N,) nats."""
    return np.asarray((x * np.logaddexp(0, -logits) + (1 - x) * np.logaddexp(0, logits)).sum(1))


def kl_divergence(mean: Floats, log_variance: Floats) -> Floats:
    """−½·Σ(1 + log σ² − μ² − σ²), (N,) nats."""
    return np.asarray(-0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum(1))
