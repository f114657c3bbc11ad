"""The columns of scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from vae import VAE, Calibration, References, kl_divergence
from vae.score import score


@dataclass(frozen=True)
class Scoring:
    """Which scores of an image are computed, and how."""

    draws: int | None
    """Posterior samples per image for its ELBO; None leaves the ELBO out."""
    samples: int
    """Importance samples per image for its bound; 0 leaves the bound out."""
    seed: int
    """Seed of the noise of both."""
    calibration: Calibration | None
    level: float
    """Percentile above which an image is anomalous."""
    references: References | None
    """Of the checkpoint, for outlier factors."""

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Names and types of the columns."""
        names = ["reconstruction_loss", "kl_divergence"]
        if self.draws is not None:
            names += ["elbo", "elbo_standard_error"]
        if self.samples:
            names.append("importance_weighted_bound")
        if self.references:
            names.append("outlier_factor")
        columns = dict.fromkeys(names, pa.float32())
        if self.calibration and self.calibration.applies(names, self.samples):
            columns |= {"percentile": pa.float32(), "anomalous": pa.bool_()}
        return columns

    @property
    def options(self) -> str:
        """The options on which the columns depend; empty for the losses alone."""
        options = []
        if self.draws is not None:
            options += [f"--draws {self.draws}", f"--seed {self.seed}"]
        if self.samples:
            options.append(f"--importance-samples {self.samples}")
        if "anomalous" in self.columns:
            options.append(f"--level {self.level}")
        return " ".join(options)

    def compute(
        self, model: VAE, pixels: Tensor, mean: Tensor, log_variance: Tensor
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Compute the columns, (n,) each, of images (n, C, H, W) in [0, 1] with their posteriors."""
        if self.draws is None:
            loss = model.reconstruction_loss(model.decode(mean), pixels)
            found = {"reconstruction_loss": loss, "kl_divergence": kl_divergence(mean, log_variance)}
        else:
            found = score(model, pixels, draws=self.draws, samples=self.samples, seed=self.seed).as_dict()
        values = {name: tensor.cpu().numpy() for name, tensor in found.items()}
        if self.references:
            values["outlier_factor"] = self.references.outlier_factor(mean.cpu().numpy())
        columns = self.columns
        if self.calibration and "percentile" in columns:
            values["percentile"] = self.calibration.percentile(values)
            values["anomalous"] = values["percentile"] > np.float32(self.level)
        return {name: values[name] for name in columns}
