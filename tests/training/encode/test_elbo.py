"""The column `elbo` is the mean over posterior samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vae
from tests.training.encode.encoding import BUNDLED, Images, encode, pixels_of, rows_of

pytestmark = pytest.mark.slow


def test_draws_add_the_elbo_whatever_the_batch(npy: Path, tmp_path: Path, images: Images) -> None:
    for name, size in (("whole", "200"), ("cut", "7")):
        assert encode(npy, tmp_path / name, "--draws", "10", "--seed", "5", "--batch-size", size) == 0
    (whole, cut) = (rows_of(tmp_path / name) for name in ("whole", "cut"))
    model, x = vae.load(BUNDLED).model, pixels_of(images)
    mean, log_variance = model.encode(x)
    noise = torch.from_numpy(np.random.Generator(np.random.PCG64(5)).standard_normal((10, 3), np.float32))
    logits = [model.decode(mean + each * torch.exp(log_variance / 2)) for each in noise]
    values = torch.stack([vae.elbo(each, x, mean, log_variance) for each in logits]).double()
    expected = {"elbo": values.mean(0), "elbo_standard_error": values.std(0) / 10**0.5}
    for name, each in expected.items():
        for rows in (whole, cut):
            np.testing.assert_allclose([row[name] for row in rows], each.numpy(), rtol=1e-4)
