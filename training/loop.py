"""Training: a data set in, a checkpoint with its figures and its latents out."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import vae
from training.config import ConfigError, FitConfig
from training.data import Dataset, load_mnist, to_pixels
from training.evaluate import DRAWS, SEED, Figures, evaluate, latent_means
from vae.model import reparameterize

LOG_EVERY = 50
"""Steps between two readings of the running averages: a reading waits for the device."""


class TrainingError(Exception):
    """A training that cannot go on; the message is a sentence that says how to mend it."""


def fit(config: FitConfig) -> None:
    """Train as `config` says: a checkpoint after every epoch, its figures and latents after the last.

    Raises ConfigError, DataError or TrainingError; a KeyboardInterrupt says what was kept.
    """
    device = resolve_device(config.device)
    train, test = load_mnist(config.data_dir, train=True), load_mnist(config.data_dir, train=False)
    train, validation = train.hold_out(config.validation)
    print(f"Training on MNIST: {train.describe()}.")
    print(f"Held out for validation: {len(validation):,} more. Test: {len(test):,}.")
    print(f"Recipe {config.recipe}: {config.epochs} epochs in batches of {config.batch_size} on {device}.", flush=True)
    config.out.parent.mkdir(parents=True, exist_ok=True)

    kept = "no epoch was finished, nothing was written"
    try:
        model = new_model(config, train).to(device)
        torch.set_float32_matmul_precision(config.matmul_precision)
        training: dict[str, Any] = {}
        for training in train_epochs(config, model, train.to(device), validation.to(device)):
            vae.LatentSet.path_beside(config.out).unlink(missing_ok=True)  # what an older checkpoint left
            vae.save(config.out, model, training=training, figures={})
            kept = f"{config.out} holds epoch {training['epochs_finished']}, whole, without figures and latents"
        torch.set_float32_matmul_precision("highest")
        figures = evaluate(model, test.images.to(device), draws=DRAWS, seed=SEED, progress=True)
        latents = vae.LatentSet(latent_means(model, test.images.to(device)), test.labels)
        vae.save(config.out, model, training=training, figures=figures.as_dict("test_"))
        latents.save(config.out, vae.load(config.out).sha256)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted: {kept}.") from None
    print(f"test: {figures.describe()} (nats per image)")
    print(f"Wrote {config.out} and {vae.LatentSet.path_beside(config.out)}.")


def train_epochs(config: FitConfig, model: vae.VAE, train: Dataset, validation: Dataset) -> Iterator[dict[str, Any]]:
    """Train `model` in place, on the device where all three lie; after each epoch, yield how it was trained so far."""
    device = train.images.device
    generator = torch.Generator(device).manual_seed(config.seed)
    optimizers = new_optimizers(config, model)
    steps = config.epochs * math.ceil(len(train) / config.batch_size)
    step, seconds = 0, 0.0
    bar = tqdm(total=config.epochs * len(train), unit=" images", unit_scale=True, mininterval=_bar_interval())
    with bar:
        for epoch in range(1, config.epochs + 1):
            started, seen, sums = time.perf_counter(), 0, torch.zeros(2, device=device)
            bar.set_description(f"epoch {epoch}/{config.epochs}")
            for indices in torch.randperm(len(train), generator=generator, device=device).split(config.batch_size):
                x = to_pixels(train.images[indices])

                mean, log_variance = model.encode(hide_pixels(x, config.input_dropout, generator))
                logits = model.decode(reparameterize(mean, log_variance, generator=generator))
                reconstruction = vae.reconstruction_loss(logits, x).sum()
                kl = vae.kl_divergence(mean, log_variance).sum()
                loss = (reconstruction + kl) / len(x)

                loss.backward()
                for optimizer in optimizers:
                    optimizer.param_groups[0]["lr"] = learning_rate(config, step, steps)
                    optimizer.step()
                    optimizer.zero_grad()
                step += 1

                seen += len(x)
                sums += torch.stack([reconstruction.detach(), kl.detach()])
                bar.update(len(x))
                if step % LOG_EVERY == 0:
                    bar.set_postfix_str(_running(sums, seen).describe("loss"), refresh=False)

            seconds += time.perf_counter() - started
            figures = {"train": _running(sums, seen)}
            bar.set_postfix_str(figures["train"].describe("loss"))
            if len(validation):
                figures["validation"] = evaluate(model, validation.images, draws=1, seed=SEED)
            words = "   ".join(f"{part}: {figure.describe()}" for part, figure in figures.items())
            tqdm.write(f"epoch {epoch}/{config.epochs}   {words}   {seconds:.1f} s", file=sys.stdout)
            if not math.isfinite(figures["train"].neg_elbo):
                raise TrainingError(f"The loss is no finite number in epoch {epoch}: lower --learning-rate.")
            yield config.recorded() | {
                "dataset": "mnist",
                "training_images": len(train),
                "epochs_finished": epoch,
                "seconds": round(seconds, 2),
                "torch": torch.__version__,
                **{f"{part}_figures": figure.as_dict() for part, figure in figures.items()},
            }


def learning_rate(config: FitConfig, step: int, steps: int) -> float:
    """Of step 0 ≤ `step` < `steps`: a linear rise over the warm-up, then constant or half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / (steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def hide_pixels(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Dropout (Srivastava et al. 2014) with noise from `generator`: a `share` of `x` is 0, the rest is scaled up."""
    if share == 0:
        return x
    kept = torch.empty_like(x).bernoulli_(1 - share, generator=generator)
    return x * kept / (1 - share)


def new_optimizers(config: FitConfig, model: vae.VAE) -> list[torch.optim.Optimizer]:
    """Adam (Kingma & Ba 2015), beside Muon where asked for; their learning rates are set at each step.

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix. It suits those between wide layers; scaled to
    the step size of Adam, it shares Adam's learning rate (Liu et al. 2025, arXiv:2502.16982).
    """
    narrow = model.config.latent_dim
    matrices: dict[str, nn.Parameter] = {}
    if config.optimizer == "muon":
        matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2 and min(p.shape) > narrow}
    others = [p for name, p in model.named_parameters() if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(others, fused=True)]
    if matrices:
        muon = torch.optim.Muon(matrices.values(), weight_decay=0, ns_steps=3, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)  # 3 Newton-Schulz steps: measured no worse than the usual 5, and faster
    return optimizers


def new_model(config: FitConfig, train: Dataset) -> vae.VAE:
    """A model for the images of `train`, its weights drawn by `config.seed`."""
    with torch.random.fork_rng(devices=[]):  # torch's initialisers know the global generator alone
        torch.manual_seed(config.seed)
        shape = vae.VAEConfig(image_shape=train.image_shape, hidden_dim=config.hidden_dim, latent_dim=config.latent_dim)
        model = vae.VAE(shape)
    last = model.decoder[-1]
    if config.output_bias and isinstance(last, nn.Linear):
        mean_image = train.images.sum(0).flatten() / (255 * len(train))
        last.bias.data = torch.logit(mean_image, eps=1e-4)
    return model


def resolve_device(name: str) -> torch.device:
    """The device called `name`, the machine's GPU or else its processor for `auto`; raises ConfigError."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device is {name}, which cannot be used here; auto or cpu can.") from error


def _running(sums: Tensor, seen: int) -> Figures:
    reconstruction, kl = (sums / seen).tolist()
    return Figures(reconstruction, kl)


def _bar_interval() -> float:
    return 0.2 if sys.stderr.isatty() else 10  # seconds; a log file should not fill with bars
