"""What is computed without a server, in a process of its own: it is to be pinned as the server is.

python -m benchmarks.inprocess picture              the picture of the latent that is measured, 784 bytes, in hex
python -m benchmarks.inprocess bulk ROWS SECONDS    latents per second of the service's engine, ROWS in one call
"""

from __future__ import annotations

import asyncio
import sys
import time

import numpy as np
import torch

from benchmarks.calls import LATENT
from service.inference.engine import Engine
from service.inference.torch_backend import choose_network
from service.settings import read_settings
from vae import load


def picture() -> str:
    with torch.inference_mode():
        pixels = load(read_settings([]).checkpoint).model.decode(torch.tensor([LATENT])).sigmoid()
    return pixels.mul(255).round().to(torch.uint8).numpy().tobytes().hex()


async def bulk(rows: int, seconds: float) -> float:
    settings = read_settings([])
    torch.set_num_threads(settings.torch_threads)
    model = load(settings.checkpoint, settings.device).model
    engine = Engine(choose_network(model), micro_batch_limit=settings.micro_batch_limit)
    z = np.random.default_rng(0).standard_normal((rows, model.config.latent_dim), np.float32)
    await engine.decode(z)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        await engine.decode(z)
        calls += 1
    return calls * rows / (time.perf_counter() - start)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["picture"]:
            print(picture())
        case ["bulk", rows, seconds]:
            print(asyncio.run(bulk(int(rows), float(seconds))))
