"""An epoch of MNIST: vae-train against the article's loop, in alternating rounds on the same cores.

    python -m benchmarks.training [--data-dir DIR] [--rounds N]

Both train the article's model with batch 128. The article's loop is written afresh: a DataLoader over torchvision's
data set with ToTensor, the loss read with .item() at each step, plain Adam. Each contender trains from the same seed;
what is timed is the loop alone. At the end the test −ELBO of ten epochs in float32 is set against that of the faster
matrix products.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections import deque
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.machine import describe_machine
from training.config import RECIPES, FitConfig
from training.data import load
from training.evaluate import evaluate
from training.loop import new_state, train_epochs
from training.network import new_model
from training.workers import Workers
from vae import VAE, VAEConfig

PRECISIONS = ("highest", "medium")
ALONE = Workers(0, 1, torch.device("cpu"))


def article_epoch(data_dir: Path) -> Callable[[], None]:
    """The article's loop, one epoch a call."""
    model = VAE(VAEConfig())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(MNIST(data_dir, transform=ToTensor()), batch_size=128, shuffle=True)

    def epoch() -> None:
        total = 0.0
        for inputs, _ in loader:
            optimizer.zero_grad()
            logits, mean, log_variance = model(inputs)
            reconstructed = torch.sigmoid(logits)
            reconstruction = binary_cross_entropy(reconstructed.view(-1, 784), inputs.view(-1, 784), reduction="sum")
            kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            loss = reconstruction + kl
            loss.backward()
            total += loss.item()
            optimizer.step()

    return epoch


def our_epoch(config: FitConfig, data_dir: Path) -> Callable[[], None]:
    """vae-train's loop, one epoch a call."""
    train, _ = load("mnist", data_dir)
    state = new_state(config, new_model(config, train), ALONE.device)
    epochs = train_epochs(replace(config, epochs=10_000), state, train, ALONE)

    def epoch() -> None:
        torch.set_float32_matmul_precision(config.matmul_precision)
        with redirect_stderr(io.StringIO()):  # its progress bar
            next(epochs)
        torch.set_float32_matmul_precision("highest")

    return epoch


def final_loss(config: FitConfig, data_dir: Path) -> float:
    """Test −ELBO after all epochs, nats."""
    train, test = load("mnist", data_dir)
    state = new_state(config, new_model(config, train), ALONE.device)
    torch.set_float32_matmul_precision(config.matmul_precision)
    with redirect_stderr(io.StringIO()):
        deque(train_epochs(config, state, train, ALONE), maxlen=0)
    torch.set_float32_matmul_precision("highest")
    return evaluate(state.model, test.images, draws=10, seed=0).neg_elbo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(describe_machine())
    article = RECIPES["article"]
    contenders = {"article's loop": article_epoch(options.data_dir)}
    for precision in PRECISIONS:
        config = replace(article, matmul_precision=precision)
        contenders[f"vae-train, {precision}"] = our_epoch(config, options.data_dir)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, epoch in contenders.items():
            start = time.perf_counter()
            epoch()
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["article's loop"])
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"{name:<20} {median:6.2f} s an epoch ({spread}), {median / base:.3f} of the article's loop")
    for precision in PRECISIONS:
        loss = final_loss(replace(article, matmul_precision=precision), options.data_dir)
        print(f"vae-train, {precision}: test -ELBO {loss:.2f} nats after {article.epochs} epochs")


if __name__ == "__main__":
    main()
