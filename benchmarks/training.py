"""An epoch of MNIST: vae-train against the article's loop, in alternating rounds on the same cores.

    python -m benchmarks.training [--data-dir DIR] [--rounds N] [--seeds N]

All train the article's model: the article's loop, written afresh (a DataLoader over torchvision's data set with
ToTensor, the loss read with .item() at each step, plain Adam, batch 128), `vae-train --preset article` and the default
recipe. Each runs with all instructions of the processor and with AVX2 alone. Only the loop is timed; the default
recipe's validation is left out. A second table compares the images per second of vae-train's loop, for each
architecture, with a plain loop over the same network with the same optimizer and batches of the same images in memory.
`--seeds` trains the default recipe to its end with so many seeds in either way and prints the test −ELBO: two minutes a
seed on two cores.
"""

from __future__ import annotations

import argparse
import functools
import io
import multiprocessing
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest import mock

import torch
from torch.nn.functional import binary_cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.harness.pages import describe_machine, table
from training.config.fit_config import FitConfig
from training.config.presets import PRESETS
from training.data.dataset import Dataset
from training.data.load import load
from training.fitting.distributed import Processes
from training.fitting.initialization import new_model
from training.fitting.loop import new_state, train_epochs
from training.metrics.elbo import evaluate
from vae import VAE, VAEConfig, elbo
from vae.config import Architecture
from vae.noise import DRAWS, SEED

ALL, AVX2 = "all instructions", "AVX2 alone"
INSTRUCTIONS = {ALL: {}, AVX2: {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
ARTICLE, ADAM, DEFAULT = LOOPS = ("the article's loop", "vae-train --preset article", "vae-train, default recipe")
RECIPE_OF = {ADAM: PRESETS["article"], DEFAULT: PRESETS["default"]}
ALONE = Processes(0, 1, torch.device("cpu"))
PLAIN_IMAGES = 10_000
"""Training images of a round of the second table."""


def article_epochs(data_dir: Path) -> tuple[VAE, Iterator[None]]:
    """A model, and the article's loop, which trains it for an epoch a step."""
    model = VAE(VAEConfig())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(MNIST(data_dir, transform=ToTensor()), batch_size=128, shuffle=True)

    def train() -> Iterator[None]:
        while True:
            total = 0.0
            for inputs, _ in loader:
                optimizer.zero_grad()
                logits, mean, log_variance = model(inputs)
                reconstructed = torch.sigmoid(logits)
                reconstruction = binary_cross_entropy(
                    reconstructed.view(-1, 784), inputs.view(-1, 784), reduction="sum"
                )
                kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
                loss = reconstruction + kl
                loss.backward()
                total += loss.item()
                optimizer.step()
            yield

    return model, train()


def plain_epoch(config: FitConfig, train: Dataset) -> Callable[[], None]:
    """A plain loop with Adam, one epoch a call."""
    model = new_model(config, train)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)

    def epoch() -> None:
        for indices in torch.randperm(len(train)).split(config.batch_size):
            x = train.images[indices].float() / 255
            logits, mean, log_variance = model(x)
            loss = -elbo(logits, x, mean, log_variance).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def against_plain(data_dir: Path, rounds: int) -> Iterator[Sequence[str]]:
    """A row for each architecture: images per second of either loop, medians of alternating rounds, and their ratio."""
    train, _ = load("mnist", data_dir)
    train, _ = train.hold_out(len(train) - PLAIN_IMAGES)
    for architecture in get_args(Architecture):
        config = replace(PRESETS["article"], architecture=architecture)
        loops = (our_epoch(config, train), plain_epoch(config, train))
        speeds: list[list[float]] = [[], []]
        for _ in range(rounds + 1):
            for epoch, own in zip(loops, speeds, strict=True):
                start = time.perf_counter()
                epoch()
                own.append(len(train) / (time.perf_counter() - start))
        ours, plain = (statistics.median(own[1:]) for own in speeds)  # the first round warms up
        yield architecture, f"{ours:,.0f}", f"{plain:,.0f}", f"{ours / plain:.2f}"


def our_epoch(config: FitConfig, train: Dataset) -> Callable[[], None]:
    """vae-train's loop, one epoch a call."""
    state = new_state(config, new_model(config, train), ALONE.device)
    epochs = train_epochs(replace(config, epochs=10_000), state, train, ALONE)

    def epoch() -> None:
        with redirect_stderr(io.StringIO()):  # its progress bar
            next(epochs)

    return epoch


@functools.cache
def loop(name: str, data_dir: Path) -> Callable[[], None]:
    """One of LOOPS, kept for all epochs of this process."""
    if name == ARTICLE:
        _, epochs = article_epochs(data_dir)
        return lambda: next(epochs)
    train, _ = load("mnist", data_dir)
    config = RECIPE_OF[name]
    return our_epoch(config, train.split(config.validation_share(len(train)))[0])


def epoch_seconds(name: str, data_dir: Path) -> float:
    epoch = loop(name, data_dir)
    start = time.perf_counter()
    epoch()
    return time.perf_counter() - start


def final_loss(seed: int, data_dir: Path) -> float:
    """Test −ELBO after all epochs of the default recipe on all training images, nats."""
    config = replace(PRESETS["default"], seed=seed)
    train, test = load("mnist", data_dir)
    state = new_state(config, new_model(config, train), ALONE.device)
    with redirect_stderr(io.StringIO()):
        deque(train_epochs(config, state, train, ALONE), maxlen=0)
    return evaluate(state.model, test.images, draws=DRAWS, seed=SEED).neg_elbo


def start_processes(stack: ExitStack) -> dict[str, ProcessPoolExecutor]:
    """A process for each of INSTRUCTIONS: torch reads these variables as it is imported."""
    context = multiprocessing.get_context("spawn")
    pools = {name: stack.enter_context(ProcessPoolExecutor(1, context)) for name in INSTRUCTIONS}
    for name, environment in INSTRUCTIONS.items():
        with mock.patch.dict(os.environ, environment):
            pools[name].submit(os.getpid).result()  # starts it
    return pools


def rows(seconds: dict[tuple[str, str], list[float]]) -> Iterator[Sequence[str]]:
    """A row for each loop: median, lowest to highest, and the median as a part of the article's, for INSTRUCTIONS."""
    medians = {key: statistics.median(times) for key, times in seconds.items()}
    for name in LOOPS:
        cells = []
        for instructions in INSTRUCTIONS:
            times, own = seconds[instructions, name], medians[instructions, name]
            cells.append(f"{own:.2f} ({min(times):.2f} to {max(times):.2f})")
            cells.append(f"{own / medians[instructions, ARTICLE]:.2f}")
        yield name, *cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=0)
    options = parser.parse_args()
    print(f"{describe_machine()}\n", flush=True)
    with ExitStack() as stack:
        pools = start_processes(stack)
        seconds: dict[tuple[str, str], list[float]] = {(each, name): [] for each in INSTRUCTIONS for name in LOOPS}
        for _ in range(options.rounds):
            for (instructions, name), times in seconds.items():
                times.append(pools[instructions].submit(epoch_seconds, name, options.data_dir).result())
        units = ("s", "of the article's")
        print(table(("loop", *(f"{name}, {unit}" for name in INSTRUCTIONS for unit in units)), rows(seconds)))
        ratio = statistics.median(seconds[AVX2, DEFAULT]) / statistics.median(seconds[AVX2, ARTICLE])
        reached = "reached" if ratio <= 1 else "missed"
        print(f"\nGoal, the default recipe no slower than the article's loop with AVX2 alone: {reached}, {ratio:.2f}.")
        header = ("architecture", "vae-train, images/s", "plain loop, images/s", "ratio")
        print(f"\n{table(header, against_plain(options.data_dir, options.rounds))}", flush=True)
        for seed in range(options.seeds):
            for instructions, pool in pools.items():
                loss = pool.submit(final_loss, seed, options.data_dir).result()
                print(f"{DEFAULT}, seed {seed}, {instructions}: test -ELBO {loss:.2f}", flush=True)


if __name__ == "__main__":
    main()
