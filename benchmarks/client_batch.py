"""A million images through the client: images per second and peak memory, to clients.md.

    python -m benchmarks.client_batch [--images N]

measures a tenth of the images, and all. The service is one process; it, the client and the machine's other work share
the processors.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.contenders import VAE_SERVE
from benchmarks.harness.load import serving
from benchmarks.harness.pages import table, write_section
from vae_client import Client

SIZE, IN_FLIGHT = 1000, 4
"""Images in a request, and requests under way."""
ROWS = 10_000
"""Images that are written to the file at a time."""


def measure(count: int) -> tuple[str, ...]:
    """A row of the table: encode `count` images by a service of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(VAE_SERVE) as (_, port),
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        path = Path(folder) / "images.npy"
        write_images(path, count)
        images = np.load(path, mmap_mode="r")
        before = peak = anonymous_mb()
        means = []
        start = time.perf_counter()
        for posterior in client.map(client.encode, images, size=SIZE, in_flight=IN_FLIGHT, progress=True):
            means.append(posterior.mean)
            peak = max(peak, anonymous_mb())
        mean = np.concatenate(means)
        seconds = time.perf_counter() - start
        if not np.array_equal(mean[-10:], client.encode(images[-10:]).mean):
            raise RuntimeError("The last means are not those of the last images.")
    megabytes = (images.nbytes / 1e6, before, peak, mean.nbytes / 1e6)
    file, *memory = (f"{value:,.0f}" for value in megabytes)
    return f"{count:,}", file, f"{count / seconds:,.0f}", *memory


def write_images(path: Path, count: int) -> None:
    """Noise, uint8 (count, 28, 28), in an .npy file."""
    random = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    for start in range(0, count, ROWS):
        images[start : start + ROWS] = random.integers(0, 256, images[start : start + ROWS].shape, np.uint8)


def anonymous_mb() -> float:
    """Memory of this process, MB, without the pages of the mapped file, which the system can take back."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - memory.shared) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    options = parser.parse_args()
    rows = [measure(images) for images in (options.images // 10, options.images)]
    write_section(
        "A million images by Client.map",
        f"client_batch --images {options.images}",
        f"`client.map(client.encode, images)`, {SIZE} a request, {IN_FLIGHT} in flight: 28×28 bytes "
        "each, mapped from an .npy file, to their means, which are kept. The service is one process, on the same "
        "cores. Memory is the client's own, without the pages of the file. Goal: no more of it for ten times as many "
        "images, but for their means.",
        table(("images", "their MB", "images/s", "memory before, MB", "at its peak, MB", "of which means, MB"), rows),
    )


if __name__ == "__main__":
    main()
