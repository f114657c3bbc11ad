"""How soon a training reaches the loss of the article's ten epochs: vae-train, the article's own loop, and pythae.

    python -m benchmarks.learning [--data-dir DIR] [--rounds N]

All train the article's network on all 60,000 images of MNIST. benchmarks/contenders/pythae_digits.py says how to
install pythae.
"""

from __future__ import annotations

import argparse
import io
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.contenders import pythae_digits
from benchmarks.harness.pages import table, write_page
from benchmarks.training import ALONE, ARTICLE, article_epochs
from training.config.fit_config import FitConfig
from training.config.presets import PRESETS
from training.data.load import load
from training.fitting.initialization import new_model
from training.fitting.loop import new_state, train_epochs
from training.metrics.elbo import evaluate
from vae import VAE
from vae.noise import DRAWS, SEED

EPOCHS = 10
"""Of the article, and of pythae."""
EPOCHS_TO_REACH = 5
"""Epochs of the training SHORT that reach the loss of the article's ten: four do not, by the validation images."""


def article(data_dir: Path, seed: int) -> VAE:
    torch.manual_seed(seed)
    model, epochs = article_epochs(data_dir)
    deque(zip(range(EPOCHS), epochs, strict=False), maxlen=0)
    return model


def ours(config: FitConfig) -> Callable[[Path, int], VAE]:
    def train(data_dir: Path, seed: int) -> VAE:
        images, _ = load("mnist", data_dir)
        own = replace(config, seed=seed, validation=0)
        state = new_state(own, new_model(own, images), ALONE.device)
        deque(train_epochs(own, state, images, ALONE), maxlen=0)
        return state.model

    return train


def pythae(data_dir: Path, seed: int) -> VAE:
    return pythae_digits.train(data_dir, seed, EPOCHS)


SHORT = replace(
    PRESETS["default"],
    epochs=EPOCHS_TO_REACH,
    optimizer="adam",
    learning_rate=3e-3,
    batch_size=128,
    input_dropout=0.0,
)
CONTENDERS: dict[str, tuple[Callable[[Path, int], VAE], int]] = {
    f"{ARTICLE}, {EPOCHS} epochs": (article, EPOCHS),
    f"pythae 0.1.2, {EPOCHS} epochs": (pythae, EPOCHS),
    f"vae-train --preset article, {EPOCHS} epochs": (ours(PRESETS["article"]), EPOCHS),
    f"vae-train --optimizer adam --learning-rate 3e-3 --batch-size 128 --input-dropout 0 --epochs {EPOCHS_TO_REACH}": (
        ours(SHORT),
        EPOCHS_TO_REACH,
    ),
    f"vae-train, {EPOCHS} epochs": (ours(PRESETS["default"]), EPOCHS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each, with seeds 0, 1, … (default: 3)")
    options = parser.parse_args()
    logging.disable(logging.INFO)  # pythae reports each step of its set-up
    _, test = load("mnist", options.data_dir)
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    losses: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for seed in range(options.rounds):
        for name, (train, _) in CONTENDERS.items():
            started = time.perf_counter()
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):  # progress bars
                model = train(options.data_dir, seed)
            seconds[name].append(time.perf_counter() - started)
            losses[name].append(evaluate(model.eval(), test.images, draws=DRAWS, seed=SEED).neg_elbo)
            print(f"{name}, seed {seed}: {seconds[name][-1]:.1f} s, test -ELBO {losses[name][-1]:.2f}", flush=True)
    first = statistics.median(seconds[next(iter(CONTENDERS))])
    rows = [
        (
            name,
            f"{(median := statistics.median(seconds[name])):.1f}",
            f"{median / first:.2f}",
            f"{60_000 * epochs / median:,.0f}",
            f"{statistics.mean(losses[name]):.2f} ({min(losses[name]):.2f} to {max(losses[name]):.2f})",
        )
        for name, (_, epochs) in CONTENDERS.items()
    ]
    head = ("training", "s", "of the article's", "images/s", "test −ELBO")
    write_page(
        "learning",
        "How soon a training reaches a loss",
        "The network of Krishna Bhattarai's "
        "[article on variational autoencoders](https://krishnabhattarai.com/variationalautoencoder) "
        "(784-392-392-3 and back) on the 60,000 training images of MNIST, on all cores, "
        f"{options.rounds} trainings of each in turn. Seconds include the loading of the images, not that of the "
        "packages; the losses are means over the trainings, lowest to highest, in nats per image.",
        table(head, rows),
    )


if __name__ == "__main__":
    main()
