"""Throughput over the size of a micro-batch, on the CPU or on a GPU: how large to set VAE_MICRO_BATCH_LIMIT.

    python -m benchmarks.batches [--device cuda] [--checkpoint PATH] [--seconds S]

Writes benchmarks/batches.md. The engine is called in process, by as many callers as keep all of its lanes busy; with
"one lane" no batch is computed while another is copied, which makes a difference on a GPU alone.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness.pages import table, write_page
from service.inference.engine import Engine
from service.inference.loading import load_checkpoint
from service.settings import read_settings

ROWS = (1, 4, 16, 64, 256, 1024, 4096)
CALLERS = 4


def latents_per_second(engine: Engine, rows: int, seconds: float, callers: int = CALLERS) -> float:
    """Decoded in `seconds` by so many callers, each of which sends `rows` at a time; closes the engine."""

    async def decode() -> float:
        z = np.random.default_rng(0).standard_normal((rows, *engine.config.latent_shape), np.float32)
        await engine.decode(z)
        calls, start = 0, time.perf_counter()

        async def call_repeatedly() -> None:
            nonlocal calls
            while time.perf_counter() - start < seconds:
                await engine.decode(z)
                calls += 1

        await asyncio.gather(*(call_repeatedly() for _ in range(callers)))
        return calls * rows / (time.perf_counter() - start)

    rate = asyncio.run(decode())
    engine.close()
    return rate


def service_rate(rows: int, seconds: float) -> float:
    """Latents per second of one caller, with the service's default settings."""
    settings = read_settings([])
    network = load_checkpoint(settings).backend
    return latents_per_second(Engine(network, micro_batch_limit=settings.micro_batch_limit), rows, seconds, callers=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint", type=Path, default=read_settings([]).checkpoint)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = load_checkpoint(
        read_settings(["--checkpoint", str(options.checkpoint), "--device", options.device])
    ).backend
    max_concurrent_batches = sorted({1, network.max_concurrent_batches})

    def rate(rows: int, count: int) -> str:
        network.max_concurrent_batches = count
        engine = Engine(network, micro_batch_limit=rows, threaded=True)
        return f"{latents_per_second(engine, rows, options.seconds):,.0f}"

    where = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "One thread"
    head = ("rows of a micro-batch", *("one lane, latents/s", "two lanes, latents/s")[: len(max_concurrent_batches)])
    rows = [(str(rows), *(rate(rows, count) for count in max_concurrent_batches)) for rows in ROWS]
    write_page("batches", "Latents decoded a second, by the micro-batch", f"{where}:", table(head, rows))


if __name__ == "__main__":
    main()
