"""Throughput over the size of a micro-batch, on the CPU or on a GPU: how large to set VAE_MICRO_BATCH_LIMIT.

    python -m benchmarks.batches [--device cuda] [--checkpoint PATH]

Writes benchmarks/batches.md. The engine is called in process, by as many callers as keep all of its lanes busy; "one
lane" computes no batch while another is copied, which makes a difference on a GPU alone.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.sections import table
from service.inference.engine import Engine
from service.inference.torch_backend import choose_network
from service.settings import read_settings
from vae import load

ROWS = (1, 4, 16, 64, 256, 1024, 4096)
CALLERS = 4
SECONDS = 2


async def latents_per_second(engine: Engine, rows: int, seconds: float = SECONDS) -> float:
    """Decoded in `seconds` for CALLERS at a time, `rows` for each."""
    z = np.random.default_rng(0).standard_normal((rows, *engine.config.latent_shape), np.float32)
    await engine.decode(z)
    calls, start = 0, time.perf_counter()

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() - start < seconds:
            await engine.decode(z)
            calls += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return calls * rows / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint", type=Path, default=read_settings([]).checkpoint)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = choose_network(load(options.checkpoint, options.device).model, device=options.device)
    max_concurrent_batches = sorted({1, network.max_concurrent_batches})
    lines = []
    for rows in ROWS:
        cells = []
        for count in max_concurrent_batches:
            network.max_concurrent_batches = count
            engine = Engine(network, micro_batch_limit=rows, threaded=True)
            cells.append(f"{asyncio.run(latents_per_second(engine, rows)):,.0f}")
            engine.close()
        lines.append((str(rows), *cells))
        print(*lines[-1], flush=True)
    where = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "one thread"
    head = ("rows of a micro-batch", *("one lane, latents/s", "two lanes, latents/s")[: len(max_concurrent_batches)])
    page = f"{describe_machine()}; {where}. `python -m benchmarks.batches` wrote this.\n\n{table(head, lines)}\n"
    (Path(__file__).parent / "batches.md").write_text(f"# Latents decoded a second, by the micro-batch\n\n{page}")


if __name__ == "__main__":
    main()
