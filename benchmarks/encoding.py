"""Bulk encoding of a .npy file: images a second against the bare model, and memory.

    python -m benchmarks.encoding [--images N] [--rounds N]

writes benchmarks/encoding.md.

The bare model encodes images that lie in memory as float32 and decodes their means, in batches of the same size and
with the same threads: what is set against it reads, converts, computes both losses and writes Parquet besides. Rounds
alternate. Memory is the peak resident set of the whole command, for a tenth of the images and for all of them. The
images are digits, repeated, in a temporary folder.
"""

from __future__ import annotations

import argparse
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.lib.format import open_memmap

from benchmarks.machine import describe_machine
from training.data.dataset import to_pixels
from training.encode.command import encode
from vae import kl_divergence, load, reconstruction_loss

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("encoding.md")
CHECKPOINT = ROOT / "weights" / "mnist.safetensors"
BATCH = 1000
TIMED = 32_768
"""Images of a round."""


def write_digits(path: Path, images: int) -> None:
    """(images, 28, 28) uint8: the sample of the tests, again and again."""
    with np.load(ROOT / "tests" / "data" / "digits.npz") as sample:
        digits = sample["images"]
    array = open_memmap(path, "w+", np.uint8, (images, *digits.shape[1:]))
    for start in range(0, images, len(digits)):
        array[start : start + len(digits)] = digits[: images - start]


def contenders(folder: Path) -> dict[str, Callable[[], None]]:
    """What is timed: each takes TIMED images."""
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

    return {"bare model": bare, "bare model and losses": bare_with_losses, "vae-train encode": bulk}


def peak_mebibytes(path: Path, out: Path) -> tuple[float, float]:
    """Largest resident set of the command, and its seconds.

    As /proc has it while the command runs: what wait4 tells afterwards counts this process's memory too.
    """
    command = [sys.executable, "-m", "training", "encode", str(path), "--out", str(out), "--device", "cpu"]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *(int(kibibytes) for kibibytes in re.findall(r"VmHWM:\s+(\d+) kB", status))])
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}.")
    return peak / 1024, time.perf_counter() - start


def time_all(folder: Path, rounds: int) -> Iterator[Sequence[str]]:
    """Rows of a table: images a second, and against the bare model in the same round."""
    timed = contenders(folder)
    seconds: dict[str, list[float]] = {each: [] for each in timed}
    for turn in range(rounds + 1):
        for each, call in timed.items():
            start = time.perf_counter()
            call()
            if turn:  # the one before was to warm up
                seconds[each].append(time.perf_counter() - start)
    for each, times in seconds.items():
        ratios = [bare / own for bare, own in zip(seconds["bare model"], times, strict=True)]
        rate = TIMED / statistics.median(times)
        yield each, f"{rate:,.0f}", f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"


def weigh(folder: Path, images: int) -> Sequence[str]:
    """A row of a table: what the command takes for so many."""
    path, out = folder / f"{images}.npy", folder / f"{images}"
    write_digits(path, images)
    peak, wall = peak_mebibytes(path, out)
    rows = sum(pq.read_metadata(file).num_rows for file in out.glob("part-*.parquet"))
    mebibytes = path.stat().st_size / 2**20
    path.unlink()
    return f"{rows:,}", f"{mebibytes:,.0f}", f"{peak:,.0f}", f"{wall:.1f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speed = table(
            (f"{TIMED:,} images, {BATCH:,} a batch", "images/s", "of the bare model", "lowest to highest"),
            time_all(folder, options.rounds),
        )
        memory = table(
            ("images of the .npy", "its MiB", "peak of the resident set, MiB", "s, with the start of Python"),
            [weigh(folder, images) for images in (options.images // 10, options.images)],
        )
    PAGE.write_text(
        f"# Bulk encoding, measured\n\n{describe_machine()}; `python -m benchmarks.encoding` wrote this: "
        f"uint8 digits from a .npy file, medians of {options.rounds} alternating rounds, all with "
        f"{torch.get_num_threads()} threads. The bare model encodes float32 images that lie in memory and decodes "
        "their means; `vae-train encode` reads, converts, computes both losses and writes Parquet besides. The goal is "
        f"0.6 of it.\n\n{speed}\n\nMemory is that of the whole command:\n\n{memory}\n"
    )
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
