"""Bulk encoding of a .npy file: images a second against the bare model, and memory.

    python -m benchmarks.encoding [--images N] [--rounds N]

writes benchmarks/encoding.md. Rounds alternate. Memory is the peak resident set of the whole command, for a tenth of
the images and for all of them. The images are digits, repeated, in a temporary folder.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.lib.format import open_memmap

from benchmarks.harness.pages import span, table, write_page
from benchmarks.harness.processes import ROOT, launched, sampled_rss_mb
from training.data.dataset import to_pixels
from training.encode.command import encode
from vae import kl_divergence, load, reconstruction_loss

CHECKPOINT = ROOT / "weights" / "mnist.safetensors"
BATCH = 1000
TIMED = 32_768
"""Images of a round."""
BARE = "bare model"


def write_digits(path: Path, images: int) -> None:
    """(images, 28, 28) uint8: the tests' digits, repeated."""
    with np.load(ROOT / "tests" / "data" / "digits.npz") as sample:
        digits = sample["images"]
    array = open_memmap(path, "w+", np.uint8, (images, *digits.shape[1:]))
    for start in range(0, images, len(digits)):
        array[start : start + len(digits)] = digits[: images - start]


def contenders(folder: Path) -> dict[str, Callable[[], None]]:
    """Return each way of encoding TIMED images; the first two get them as float32 arrays in memory."""
    checkpoint = load(CHECKPOINT)
    model = checkpoint.model
    path = folder / "timed.npy"
    write_digits(path, TIMED)
    batches = [to_pixels(batch[:, None]) for batch in torch.from_numpy(np.load(path)).split(BATCH)]

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            model.decode(model.encode(batch)[0])

    @torch.inference_mode()
    def bare_with_losses() -> None:
        for batch in batches:
            mean, log_variance = model.encode(batch)
            reconstruction_loss(model.decode(mean), batch)
            kl_divergence(mean, log_variance)

    def bulk() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out, redirect_stderr(io.StringIO()), redirect_stdout(None):
            encode(checkpoint, path, Path(out), BATCH, "cpu", None)

    return {BARE: bare, "bare model and losses": bare_with_losses, "vae-train encode": bulk}


def speed(folder: Path, rounds: int) -> Iterator[Sequence[str]]:
    """Rows of a table: images a second, and against the bare model in the same round."""
    timed = contenders(folder)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds + 1):
        for name, call in timed.items():
            start = time.perf_counter()
            call()
            if turn:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        ratios = [bare / own for bare, own in zip(seconds[BARE], times, strict=True)]
        yield name, f"{TIMED / statistics.median(times):,.0f}", f"{statistics.median(ratios):.2f}", span(ratios)


def memory(folder: Path, images: int) -> Sequence[str]:
    """A row of a table: what the command takes for so many."""
    path, out = folder / f"{images}.npy", folder / f"{images}"
    write_digits(path, images)
    command = [sys.executable, "-m", "training", "encode", str(path), "--out", str(out), "--device", "cpu"]
    start = time.perf_counter()
    with launched(command) as tree, sampled_rss_mb(tree.main.pid) as samples:
        if tree.main.wait():
            tree.check()
        seconds = time.perf_counter() - start
    rows = sum(pq.read_metadata(file).num_rows for file in out.glob("part-*.parquet"))
    return f"{rows:,}", f"{path.stat().st_size / 1e6:,.0f}", f"{max(samples):,.0f}", f"{seconds:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeds = list(speed(folder, options.rounds))
        memories = [memory(folder, images) for images in (options.images // 10, options.images)]
    head = (f"{TIMED:,} images, {BATCH:,} a batch", "images/s", "of the bare model", "lowest to highest")
    write_page(
        "encoding",
        "Bulk encoding, measured",
        f"uint8 digits from a .npy file, medians of {options.rounds} alternating rounds, all with "
        f"{torch.get_num_threads()} threads. The bare model encodes float32 images that lie in memory and decodes "
        "their means; `vae-train encode` reads, converts, computes both losses and writes Parquet besides. The goal is "
        "0.6 of it.",
        table(head, speeds),
        "Memory is that of the whole command:",
        table(
            ("images of the .npy", "its MB", "peak of the resident set, MB", "s, with the start of Python"), memories
        ),
    )


if __name__ == "__main__":
    main()
