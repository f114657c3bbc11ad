"""CIFAR-10 in colour: bits/dim, reconstructions and speed of each architecture, over sizes of the latent.

    python -m benchmarks.colour PICTURES [--checkpoints DIR] [--data-dir DIR]

PICTURES has the folders `train` and `test`, with pictures of 32×32 in a folder per class. Trains each of MODELS on
`train`, an hour or more on two cores; with --checkpoints, trains none and measures those that DIR has. All pictures of
`test` are measured. Writes benchmarks/colour.md, and the figure docs/colour.webp.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path

import torch
from matplotlib.figure import Figure
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchvision.utils import make_grid

import vae
from benchmarks.harness.pages import table, write_page
from benchmarks.harness.processes import ROOT
from benchmarks.training import our_epoch
from training import Dataset, FitConfig, fit
from training.data.dataset import to_pixels
from training.data.load import load
from training.fitting.initialization import new_model
from training.fitting.outputs import Outputs
from training.metrics.elbo import evaluate
from training.plots.grids import examples
from vae.noise import DRAWS, SEED

FIGURE = ROOT / "docs" / "colour.webp"
BASE = FitConfig(likelihood="logistic", scale="pixel", augment="flip", epochs=8, input_dropout=0.0)
MODELS = {
    "mlp-32": replace(BASE, architecture="mlp", latent_dim=32),
    "mlp-128": replace(BASE, architecture="mlp", latent_dim=128),
    "conv-32": replace(BASE, architecture="conv", latent_dim=32),
    "conv-128": replace(BASE, architecture="conv", latent_dim=128),
    "resnet-32": replace(BASE, architecture="resnet", latent_dim=32),
    "resnet-128": replace(BASE, architecture="resnet", latent_dim=128),
    "resnet-888": replace(BASE, architecture="resnet", latent_shape=(8, 8, 8)),
}
"""Names of checkpoints → their trainings."""
SPEED_IMAGES = 1024
"""Training images of a round in which the speed is measured: four steps, in one of which Muon updates a matrix."""
SPEED_ROUNDS = 6
"""The first warms up; other work on the machine slows some of them."""
COLUMNS = 10
"""Images in a row of the figure: one per class."""
WALK = (1, 7)
"""Columns of the two pictures between which the figure walks: an automobile and a horse."""
VQ_VAE = "van den Oord et al. 2017, arXiv:1711.00937, section 4.1"
IAF = "Kingma et al. 2016, arXiv:1606.04934, table 2"
VLAE = "Chen et al. 2017, arXiv:1611.02731, table 5"
NVAE = "Vahdat & Kautz 2020, arXiv:2007.03898, table 1, and <https://github.com/NVlabs/NVAE>"
VDVAE = "Child 2021, arXiv:2011.10650, and <https://github.com/openai/vdvae>"
PUBLISHED = (
    ("VAE: strided convolutions and two residual blocks of 256 channels", "1", "4.51", VQ_VAE),
    ("VQ-VAE: the same network", "1, discrete", "4.67", VQ_VAE),
    ("deep convolutional VAE (Gregor et al. 2016, arXiv:1604.08772)", "not told", "4.54", f"as quoted by {VQ_VAE}"),
    ("convolutional DRAW (Gregor et al. 2016)", "several", "3.58", f"as quoted by {IAF}"),
    ("ResNet VAE with IAF", "several", "3.11 †", IAF),
    ("DenseNet VLAE, with an autoregressive decoder", "several", "2.95 †", VLAE),
    ("NVAE, 55 hours on eight V100", "30", "2.91", NVAE),
    ("Very Deep VAE, 39 million parameters, nearly a week on two GPUs", "45", "2.87", VDVAE),
)
"""Networks, their layers of latents, bits/dim on the test set and sources."""


@dataclass(frozen=True)
class Quality:
    """Means over images."""

    bits_per_dim: float
    """−ELBO in bits per value."""
    kl_bits_per_dim: float
    """The share of it that is the KL divergence."""
    psnr: float
    """Peak signal-to-noise ratio of 8-bit reconstructions, dB."""
    ssim: float
    """Structural similarity of the same reconstructions, −1 to 1."""


def reconstruct(model: vae.VAE, images: Tensor) -> Tensor:
    """Decode the posterior means of uint8 images (N, C, H, W) to such images."""
    batches = [model.reconstruct(to_pixels(batch)).mul_(255).round_().byte() for batch in images.split(500)]
    return torch.cat(batches)


def similarity(images: Tensor, others: Tensor) -> tuple[float, float]:
    """Return PSNR, dB, and SSIM of uint8 images (N, C, H, W) and `others`, means over images.

    SSIM is that of Wang et al. (2004, doi:10.1109/TIP.2003.819861), a Gaussian window of 11×11 with σ = 1.5, averaged
    over channels.
    """
    pairs = list(zip(images.numpy(), others.numpy(), strict=True))
    psnr = [peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs]
    ssim = [
        structural_similarity(
            *pair, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for pair in pairs
    ]
    return statistics.fmean(psnr), statistics.fmean(ssim)


def measure(model: vae.VAE, images: Tensor) -> Quality:
    """Measure a model on uint8 images (N, C, H, W)."""
    losses = evaluate(model, images, draws=DRAWS, seed=SEED)
    nats = model.config.pixels * log(2)
    return Quality(losses.neg_elbo / nats, losses.kl_divergence / nats, *similarity(images, reconstruct(model, images)))


def images_per_second(config: FitConfig, train: Dataset) -> float:
    """Return the images trained in a second of processor time of one core, in the fastest of SPEED_ROUNDS."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    epoch = our_epoch(config, train)
    seconds = []
    for _ in range(SPEED_ROUNDS):
        start = time.process_time()
        epoch()
        seconds.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return len(train) / min(seconds)


def train_all(pictures: Path, checkpoints: Path, data_dir: Path) -> None:
    """Train MODELS, with their checkpoints in the folder `checkpoints`."""
    for name, config in MODELS.items():
        out = checkpoints / f"{name}.safetensors"
        fit(replace(config, dataset=f"folder:{pictures / 'train'}", data_dir=data_dir, out=out))


def finished(checkpoints: Path) -> dict[str, vae.VAE]:
    """Load those of MODELS whose training has ended, which the model card is a sign of."""
    paths = {name: checkpoints / f"{name}.safetensors" for name in MODELS}
    return {name: vae.load(path).model for name, path in paths.items() if Outputs(path).card.exists()}


def load_test(pictures: Path, data_dir: Path) -> Dataset:
    """Load all pictures of the folder `test`, which `load` splits."""
    parts = load(f"folder:{pictures / 'test'}", data_dir)
    images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return replace(parts[0], images=images, labels=labels)


def latents(config: FitConfig) -> str:
    return "×".join(map(str, config.latent_shape or (config.latent_dim,)))


def rows(models: dict[str, vae.VAE], test: Dataset, train: Dataset) -> Iterator[Sequence[str]]:
    """Yield a row for each of MODELS, with dashes for what cannot be measured without its training."""
    part, _ = train.hold_out(max(0, len(train) - SPEED_IMAGES))
    for name, config in MODELS.items():
        parameters = sum(each.numel() for each in new_model(config, part).parameters())
        quality = ["–"] * 4
        if name in models:
            own = measure(models[name], test.images)
            quality = [f"{own.bits_per_dim:.3f}", f"{own.kl_bits_per_dim:.3f}", f"{own.psnr:.2f}", f"{own.ssim:.3f}"]
        speed = images_per_second(config, part)
        row = [config.architecture, latents(config), *quality, f"{parameters:,}", f"{speed:,.0f}"]
        print(*row, flush=True)
        yield row


def draw(models: dict[str, vae.VAE], test: Dataset) -> Figure:
    """Plot test pictures and their reconstructions, samples of the prior, and a walk, a row for each of `models`."""
    chosen = examples(test.labels, COLUMNS)
    x = to_pixels(test.images[chosen])
    start, end = (x[[column]] for column in WALK)
    reconstructed, sampled, walked = [x], [], []
    for model in models.values():
        reconstructed.append(model.reconstruct(x))
        sampled.append(model.sample(COLUMNS, torch.Generator().manual_seed(0)))
        with torch.inference_mode():
            first, last = model.encode(torch.cat([start, end]))[0]
            steps = torch.stack([torch.lerp(first, last, t) for t in torch.linspace(0, 1, COLUMNS - 2)])
            walked.append(torch.cat([start, model.to_image_(model.decode(steps)), end]))
    names = [f"{name.partition('-')[0]}, {latents(MODELS[name])}" for name in models]
    blocks = {
        "test pictures and their reconstructions": (["test picture", *names], reconstructed),
        "samples: latents drawn from the prior": (names, sampled),
        "walks between the latents of two test pictures, which are left and right": (names, walked),
    }
    heights = [len(images) for _, images in blocks.values()]
    figure = Figure(figsize=(8, 0.68 * sum(heights) + 0.9), layout="constrained")
    for plot, (title, (labels, images)) in zip(
        figure.subplots(len(blocks), height_ratios=heights), blocks.items(), strict=True
    ):
        grid = make_grid(torch.cat(images), nrow=COLUMNS, padding=1, pad_value=1)
        plot.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        cell = x.shape[2] + 1
        plot.set_yticks([cell * (row + 0.5) for row in range(len(labels))], labels)
        plot.set_xticks([])
        plot.tick_params(length=0)
        plot.spines[:].set_visible(False)
        plot.set_title(title, fontsize="medium")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    checkpoints = options.checkpoints or Path("out/colour")
    if not options.checkpoints:
        train_all(options.pictures, checkpoints, options.data_dir)
    models = finished(checkpoints)
    test = load_test(options.pictures, options.data_dir)
    train, _ = load(f"folder:{options.pictures / 'train'}", options.data_dir)
    head = ["network", "latent", "bits/dim", "KL, bits/dim", "PSNR, dB", "SSIM", "parameters", "images/s"]
    write_page(
        "colour",
        "CIFAR-10 in colour",
        f"{len(test):,} test pictures of CIFAR-10, in copies that were compressed again as JPEG: bits/dim of these are "
        "not those of the original pictures.",
        "Each network is trained once by `vae-train fit --dataset folder:PICTURES/train --likelihood logistic --scale "
        "pixel --augment flip --epochs 8 --input-dropout 0 --seed 0` with `--architecture` and `--latent-dim`, or "
        "`--latent-shape 8,8,8`, on five sixths of the training pictures: a folder's own test set and the validation "
        "images are held out.",
        table(head, rows(models, test, train), text=2),
        f"bits/dim is −ELBO, with {DRAWS} posterior samples per image, divided by ln 2 and the number of values of an "
        "image; KL is its part that is the KL divergence. Reconstructions are those of the posterior mean, rounded to "
        "8 bits; PSNR and SSIM (Wang et al. 2004) are means over pictures. Images/s are those of training, per second "
        f"of processor time of one core, in the fastest of {SPEED_ROUNDS} rounds of {SPEED_IMAGES:,} images. –: not "
        "measured.",
        "Published results on the original pictures:",
        table(["model", "layers of latents", "bits/dim", "source"], PUBLISHED, text=4),
        "† Estimated by importance sampling, which comes closer to −log₂ p(x) than −ELBO. Comparable with the networks "
        "above are the models with one layer of latents. Even these were trained longer: 250,000 steps of 128 images "
        "are about a hundred times as many images as in the trainings above; how many latents they have is not told. "
        "The others are hierarchical, and were trained for days on GPUs where the time is told.",
    )
    resnets = {name: model for name, model in models.items() if name.startswith("resnet")}
    if resnets:
        draw(resnets, test).savefig(FIGURE, dpi=120, bbox_inches="tight", pil_kwargs={"quality": 90})


if __name__ == "__main__":
    main()
