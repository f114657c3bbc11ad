"""The variational autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vae.architectures import network
from vae.config import VAEConfig
from vae.likelihoods import new_likelihood
from vae.metadata import CheckpointMetadata
from vae.modules import head, sequential
from vae.noise import DRAWS, SEED
from vae.objective import reconstruction_loss
from vae.score import Scores, score


class VAE(nn.Module):
    """Encoder x → q(z|x) = N(mean, exp(log_variance)) and decoder z → parameters of p(x|z).

    Parameter names are those of the article's state_dict, so its checkpoints load unchanged. All tensors are of the
    model's dtype, float32 by default, and on its device.
    """

    metadata: CheckpointMetadata | None = None
    """What the checkpoint says that the model was loaded from: `save_pretrained` writes it, and `score` takes its
    references. Set it to None after training further."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        layers = network(config)
        self.encoder, self.decoder = sequential(layers.encoder), sequential(layers.decoder)
        self.mean_layer, self.log_variance_layer = head(layers.head), head(layers.head)
        self.likelihood = new_likelihood(config)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the posterior of images.

        Args:
            x: Images (N, C, H, W) in [0, 1].

        Returns:
            Mean and log-variance of q(z|x), each (N, *config.latent_shape).

        """
        hidden = self.encoder(x.flatten(1))
        return self.mean_layer(hidden).contiguous(), self.log_variance_layer(hidden).contiguous()

    def decode(self, z: Tensor) -> Tensor:
        """Compute the parameters of p(x|z): (N, C, H, W), or (N, 2·C, H, W) with log-scales.

        For a Bernoulli likelihood they are the logits of the image; `vae.likelihoods` has the others. The latents are
        (N, *config.latent_shape).
        """
        parameters: Tensor = self.decoder(z)
        return parameters.reshape(-1, *self.config.output_shape)

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode latents (N, *config.latent_shape) to images (N, C, H, W) in [-1, 1], the range that diffusers uses."""
        return self.to_image_(self.decode(z)) * 2 - 1

    def to_image_(self, decoded: Tensor) -> Tensor:
        """Turn the output of `decode` into images (N, C, H, W) in [0, 1], the means of p(x|z), in place."""
        return self.likelihood.to_image_(decoded)

    def reconstruction_loss(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Compute the loss of images `x` (N, C, H, W) given the output of `decode`; see `vae.reconstruction_loss`."""
        return reconstruction_loss(decoded, x, self.likelihood)

    def pixel_losses(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Compute the loss of each pixel of images `x`, summed over channels: (N, 1, H, W), nats."""
        return self.likelihood.pixel_losses(decoded, x).sum(1, keepdim=True)

    def score(self, x: Tensor, *, draws: int = DRAWS, samples: int = 0, seed: int = SEED) -> Scores:
        """Compute how unusual images are; see `vae.score.score`. The references are those of `metadata`."""
        references = self.metadata.references if self.metadata else None
        return score(self, x, draws=draws, samples=samples, seed=seed, references=references)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images, draw one sample of each posterior and decode it.

        Args:
            x: Images (N, C, H, W) in [0, 1].
            generator: Source of the noise; torch's default generator if None.

        Returns:
            Output of `decode` for the sample; mean and log-variance of q(z|x), each (N, *config.latent_shape).

        """
        mean, log_variance = self.encode(x)
        return self.decode(reparameterize(mean, log_variance, generator=generator)), mean, log_variance

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Decode latents drawn from the prior N(0, I).

        Args:
            n: Number of images.
            generator: Source of the latents, on any device; torch's default generator if None.

        Returns:
            Images (n, C, H, W) in [0, 1], without gradients.

        """
        weight = self.mean_layer.weight
        device = weight.device if generator is None else generator.device
        z = torch.randn(n, *self.config.latent_shape, generator=generator, dtype=weight.dtype, device=device)
        return self.to_image_(self.decode(z.to(weight.device)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode the posterior means of images `x` (N, C, H, W) in [0, 1] to such images, without gradients."""
        return self.to_image_(self.decode(self.encode(x)[0]))

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        device: str = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> VAE:
        """Load a model from a file, a folder or the Hugging Face Hub.

        Args:
            path_or_repo: A checkpoint of `vae-train fit` or `vae.save`; the article's `.pt`; a folder of
                `save_pretrained`; or the id of a repository on the Hub, `user/name`.
            device: Where to put the model.
            revision: Branch, tag or commit of the repository; None for its main branch.
            token: Access token; None for the one that `hf auth login` stored.
            cache_dir: Folder for downloads; None for the Hub's own.
            local_files_only: Whether to use an earlier download only.

        Returns:
            The model in float32, in evaluation mode and without gradients.

        Raises:
            CheckpointError: It is missing, damaged, or cannot be downloaded.
            ModuleNotFoundError: The repository needs huggingface_hub, of the extra `hub`.

        """
        from vae import hub  # noqa: PLC0415 - imports this module

        return hub.from_pretrained(path_or_repo, device, revision, token, cache_dir, local_files_only=local_files_only)

    def save_pretrained(self, folder: str | Path, *, card: str | None = None) -> None:
        """Write `model.safetensors`, a checkpoint that `vae-serve` takes, and the model card `README.md`.

        Args:
            folder: Where to write; it is created if it is missing.
            card: The model card in Markdown; by default a short one, unless the folder has one.

        Raises:
            OSError: A file cannot be written.

        """
        from vae import hub  # noqa: PLC0415

        hub.save_pretrained(self, Path(folder), card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | None = None,
        commit_message: str = "Upload a VAE",
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Upload the files of `save_pretrained` to a repository on the Hugging Face Hub.

        Args:
            repo_id: The repository, `user/name`; it is created if it is missing.
            card: The model card in Markdown, such as the one beside a checkpoint of `vae-train fit`; by default a short
                one, unless the repository has one.
            commit_message: Message of the commit.
            private: Whether a new repository is private.
            token: Access token; None for the one that `hf auth login` stored.
            revision: Branch; None for the main branch.

        Returns:
            URL of the commit.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: The Hub rejected it.
            ModuleNotFoundError: huggingface_hub, of the extra `hub`, is not installed.

        """
        from vae import hub  # noqa: PLC0415

        return hub.push_to_hub(self, repo_id, card, commit_message, token, revision, private=private)


def reparameterize(
    mean: Tensor, log_variance: Tensor, *, generator: torch.Generator | None = None, noise: Tensor | None = None
) -> Tensor:
    """Draw one sample z = mean + ε·exp(½·log_variance) of each posterior, with ε ~ N(0, I).

    Args:
        mean: Means (N, …).
        log_variance: Log-variances, of the same shape.
        generator: Source of ε; torch's default generator if None.
        noise: ε itself, of the same shape, instead of drawing it.

    Returns:
        Latents (N, …).

    """
    if noise is None:
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + noise * torch.exp(0.5 * log_variance)
