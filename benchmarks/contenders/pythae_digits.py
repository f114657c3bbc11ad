"""pythae 0.1.2: the article's network on MNIST, trained by its BaseTrainer as its documentation says.

`pip install --no-deps pythae==0.1.2 cloudpickle imageio scikit-learn scipy joblib threadpoolctl`
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pythae import models  # type: ignore[import-not-found]  # not installed with the project
from pythae.data.datasets import BaseDataset  # type: ignore[import-not-found]  # as above
from pythae.models.base.base_utils import ModelOutput  # type: ignore[import-not-found]  # as above
from pythae.models.nn import BaseDecoder, BaseEncoder  # type: ignore[import-not-found]  # as above
from pythae.trainers import BaseTrainer, BaseTrainerConfig  # type: ignore[import-not-found]  # as above
from torch import Tensor
from torchvision.datasets import MNIST

from vae import VAE, VAEConfig


class Encoder(BaseEncoder):  # type: ignore[misc]  # as above
    """The encoder of `model`."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> ModelOutput:
        """Compute the posterior."""
        mean, log_variance = self.model.encode(x)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):  # type: ignore[misc]  # as above
    """The decoder of `model`."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> ModelOutput:
        """Decode images in [0, 1]."""
        return ModelOutput(reconstruction=torch.sigmoid(self.model.decode(z)))


def train(data_dir: Path, seed: int, epochs: int) -> VAE:
    """Train with Adam, learning rate 1e-3, batch 128, as the article does."""
    torch.manual_seed(seed)
    dataset = MNIST(data_dir)
    images = BaseDataset(dataset.data.unsqueeze(1) / 255, dataset.targets)
    network = VAE(VAEConfig())
    config = models.VAEConfig(input_dim=(1, 28, 28), latent_dim=3, reconstruction_loss="bce")
    with TemporaryDirectory() as folder:
        options = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=128,
            num_epochs=epochs,
            learning_rate=1e-3,
            seed=seed,
            no_cuda=True,
        )
        model = models.VAE(config, Encoder(network), Decoder(network))
        trainer = BaseTrainer(model, images, training_config=options)
        trainer.train()
    trained: VAE = trainer.model.encoder.model
    return trained
