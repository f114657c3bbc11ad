"""A million images through the client: `python -m benchmarks.client_batch` writes images per second and peak memory.

They go to clients.md, with those of a tenth of the images. The service is one process; it, the client and the machine's
other work share the processors.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.client import free_port
from benchmarks.sections import table, write_section
from vae_client import APIError, Client

START_LIMIT_S = 60
ROWS = 10_000
"""Images that are written to the file at a time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=1000, help="images in one request")
    parser.add_argument("--in-flight", type=int, default=4, help="requests under way")
    options = parser.parse_args()
    rows = [measure(images, options.size, options.in_flight) for images in (options.images // 10, options.images)]
    write_section(
        "A million images by Client.map",
        f"client_batch --images {options.images}",
        f"`client.map(client.encode, images)`, {options.size} a request, {options.in_flight} in flight: 28×28 bytes "
        "each, mapped from an .npy file, to their means, which are kept. The service is one process, on the same "
        "cores. Memory is the client's own, without the pages of the file. Goal: no more of it for ten times as many "
        "images, but for their means.",
        table(
            ("images", "their MB", "images/s", "memory before, MB", "at its peak, MB", "of which means, MB"),
            [(f"{row.images:,}", *(f"{value:,.0f}" for value in row[1:])) for row in rows],
        ),
    )


class Measured(NamedTuple):
    """Of so many images; sizes are MB."""

    images: int
    file: float
    rate: float
    before: float
    peak: float
    means: float


def measure(count: int, size: int, in_flight: int) -> Measured:
    """Encode `count` images by a service of its own."""
    port = free_port()
    command = [sys.executable, "-m", "service", "--port", str(port), "--log-level", "warning"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        write_images(path, count)
        images = np.load(path, mmap_mode="r")
        process = subprocess.Popen(command)
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                wait_until_ready(client)
                before = peak = memory_mb()
                means = []
                start = time.perf_counter()
                for posterior in client.map(client.encode, images, size=size, in_flight=in_flight, progress=True):
                    means.append(posterior.mean)
                    peak = max(peak, memory_mb())
                mean = np.concatenate(means)
                seconds = time.perf_counter() - start
                check(client, images, mean)
        finally:
            process.terminate()
            process.wait()
    return Measured(count, images.nbytes / 1e6, count / seconds, before, peak, mean.nbytes / 1e6)


def write_images(path: Path, count: int) -> None:
    """Noise, uint8 (count, 28, 28), in an .npy file."""
    random = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    for start in range(0, count, ROWS):
        images[start : start + ROWS] = random.integers(0, 256, images[start : start + ROWS].shape, np.uint8)


def wait_until_ready(client: Client) -> None:
    give_up = time.monotonic() + START_LIMIT_S
    while True:
        try:
            client.model()
        except APIError:
            if time.monotonic() > give_up:
                raise
        else:
            return


def check(client: Client, images: npt.NDArray[np.uint8], mean: npt.NDArray[np.float32]) -> None:
    """Raise RuntimeError unless the last images have the means that they have alone."""
    if not np.array_equal(mean[-10:], client.encode(images[-10:]).mean):
        raise RuntimeError("The last means are not those of the last images.")


def memory_mb() -> float:
    """Of this process, MB, without the pages of the mapped file, which the system takes back as it likes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
