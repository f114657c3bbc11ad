"""Images of diffusion models through the service, beside diffusers called directly.

python -m benchmarks.direct [--rounds N] [--latents SIDE ...] [--dtypes TYPE ...]

Each contender decodes the same latent by the same network, with random weights: the service in a process on core 0,
asked over one connection from core 1; diffusers in a process on core 0, as its documentation calls it. They take turns,
one image each. It writes direct.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from benchmarks.harness.load import CALLS, free_port, wait_until_ready
from benchmarks.harness.pages import table, write_page
from benchmarks.large import ask, create_network, serve
from vae.diffusion.dtypes import Dtype

GOAL = 1.0
NETWORKS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "Stable Diffusion's AutoencoderKL": (AutoencoderKL, create_network),
    "AutoencoderTiny (TAESD)": (AutoencoderTiny, AutoencoderTiny),
}
"""Label → its class, and what creates it."""


def serve_pinned(folder: Path, port: int, dtype: str) -> None:
    """Run the service on core 0."""
    os.sched_setaffinity(0, {0})
    serve(folder, port, dtype)


def decode_directly(folder: Path, kind: Any, dtype: str, orders: Connection) -> None:
    """Decode a latent of each side that is received, and send the seconds, on core 0."""
    os.sched_setaffinity(0, {0})
    torch.set_num_threads(1)
    network = kind.from_pretrained(folder, torch_dtype=getattr(torch, dtype)).eval()
    while side := orders.recv():
        z = torch.randn(1, 4, side, side).to(network.dtype)
        start = time.perf_counter()
        with torch.no_grad():
            images = network.decode(z).sample
            images.half().numpy().tobytes()
        orders.send(time.perf_counter() - start)


def compare(kind: Any, create: Callable[[], Any], dtype: Dtype, sides: list[int], rounds: int) -> list[list[float]]:
    """Return for each side the seconds per image of diffusers and of the service, medians of the rounds."""
    processes = multiprocessing.get_context("spawn")
    orders, received = processes.Pipe()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        torch.manual_seed(0)
        create().save_pretrained(folder)
        server = processes.Process(target=serve_pinned, args=(folder, port, dtype))
        direct = processes.Process(target=decode_directly, args=(folder, kind, dtype, received))
        server.start()
        direct.start()
        try:
            wait_until_ready(port, CALLS["readyz"])
            found = []
            for side in sides:
                times: tuple[list[float], list[float]] = ([], [])
                for _ in range(rounds + 1):
                    orders.send(side)
                    times[0].append(orders.recv())
                    times[1].append(ask(port, 8 * side))
                found.append([statistics.median(each[1:]) for each in times])  # kernels are chosen in the first round
            return found
        finally:
            orders.send(0)
            server.terminate()
            server.join()
            direct.join()


def run(rounds: int, sides: list[int], dtypes: list[Dtype]) -> None:
    """Measure everything and write the page."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {1})
    rows = []
    for label, (kind, create) in NETWORKS.items():
        for dtype in dtypes:
            for side, (direct, served) in zip(sides, compare(kind, create, dtype, sides, rounds), strict=True):
                speeds = f"{1 / direct:.3g}", f"{1 / served:.3g}", f"{direct / served:.2f}"
                rows.append((label, dtype, f"{side}×{side}", *speeds))
                print(*rows[-1], sep=", ", flush=True)
    os.sched_setaffinity(0, cores)
    write_page(
        "direct",
        "Images of diffusion models through the service",
        f"Decoding one latent of 4×h×w to an image of 3×8h×8w, float16 numbers in both directions; images per second, "
        f"medians of {rounds} rounds in turn, each on the same core, one thread. Goal: at least {GOAL} of what "
        "diffusers called directly gives.",
        table(
            ("network", "dtype", "latent", "diffusers, images/s", "service, images/s", "service / diffusers"),
            rows,
            text=3,
        ),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latents", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    options = parser.parse_args()
    run(options.rounds, options.latents, options.dtypes)
