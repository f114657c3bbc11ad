"""Large images beside small ones: memory and time in tiles, the estimate of the memory, and who waits for whom.

python -m benchmarks.large [--side PIXELS] [--small PIXELS] [--dtype TYPE] [--seconds SECONDS]

Prints a page and, for the sides of the goals, 2048×2048 images beside 512×512 ones, writes it to large.md. The network
is Stable Diffusion's, with random weights, on one core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch
from diffusers import AutoencoderKL

from benchmarks.harness.load import CALLS, free_port, wait_until_ready
from benchmarks.harness.pages import table, write_page
from service.inference.torch_backend import lay_out
from service.inference.torch_memory import measure_memory, peak_memory
from service.malloc import map_large_blocks, tune_malloc
from service.processes.listener import bind
from service.processes.server import Server
from service.settings import read_settings
from vae.diffusion.model import DiffusionModel
from vae.diffusion.tiling import Tiling

CALLERS = 8
"""Of small images, each with one request at a time."""
MEMORY_GOAL, TIME_GOAL, ESTIMATE_GOAL, WAITING_GOAL = 0.25, 1.15, 0.25, 3.0
CPU = torch.device("cpu")


def create_network() -> Any:
    """Stable Diffusion's autoencoder, 83.7 M parameters, with random weights."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=512,
    )


def measure_pass(side: int, dtype: Any, tiled: bool) -> tuple[float, float, float]:
    """Seconds of a decoding, its peak of memory in MB, and what was estimated; in a process of its own."""
    torch.set_num_threads(1)
    model = DiffusionModel(create_network(), dtype).eval().requires_grad_(False)
    lay_out(model)
    memory = measure_memory(model, CPU, None if tiled else 10**12, 1)
    model.tiling = memory.tiling if tiled else Tiling(8, whole=side**2)
    tune_malloc()
    z = torch.randn(1, 4, side // 8, side // 8)
    with torch.inference_mode():
        start = time.perf_counter()
        peak = peak_memory(model, CPU, partial(model.decode_raw, z))
        seconds = time.perf_counter() - start
    map_large_blocks()
    return seconds, peak / 1e6, memory.estimate(memory.decode, (3, side, side)) / 1e6


def serve(folder: Path, port: int, dtype: str) -> None:
    """Run the service."""
    arguments = {"checkpoint": folder, "port": port, "dtype": dtype, "request-deadline": 3600, "log-level": "warning"}
    settings = read_settings([f"--{name}={value}" for name, value in arguments.items()])
    Server(settings).serve_forever(bind(settings))


def ask(port: int, side: int) -> float:
    """Decode one latent to side×side pixels; returns the seconds."""
    z = np.random.default_rng(0).standard_normal((1, 4, side // 8, side // 8)).astype(np.float16)
    query = urlencode([("shape", size) for size in z.shape] + [("dtype", "float16"), ("output_type", "pt")])
    connection = HTTPConnection("127.0.0.1", port, timeout=3600)
    start = time.perf_counter()
    connection.request("POST", f"/remote/decode?{query}", z.tobytes(), {"content-type": "tensor/binary"})
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"The service answered {response.status}.")
    return time.perf_counter() - start


def measure_waiting(port: int, small: int, large: int | None, seconds: float) -> list[float]:
    """Seconds of each small request within so many seconds, beside one large request after another or none."""
    times: list[float] = []
    ends = time.monotonic() + seconds

    def call(side: int, record: list[float]) -> None:
        while time.monotonic() < ends:
            record.append(ask(port, side))

    threads = [threading.Thread(target=call, args=(small, times)) for _ in range(CALLERS)]
    if large:
        threads.append(threading.Thread(target=call, args=(large, [])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def run(side: int, small: int, dtype: str, seconds: float) -> None:
    """Measure everything and write the section."""
    processes = multiprocessing.get_context("spawn")
    with processes.Pool(1, maxtasksperchild=1) as pool:
        whole, tiled = (pool.apply(measure_pass, (side, dtype, tiles)) for tiles in (False, True))
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        create_network().save_pretrained(folder)
        server = processes.Process(target=serve, args=(folder, port, dtype))
        server.start()
        try:
            wait_until_ready(port, CALLS["readyz"])
            alone = measure_waiting(port, small, None, seconds)
            beside = measure_waiting(port, small, side, seconds)
        finally:
            server.terminate()
            server.join()
    p99 = [float(np.quantile(times, 0.99)) for times in (alone, beside)]
    rows = [
        ("memory in tiles / whole", f"{tiled[1] / whole[1]:.2f}", f"≤ {MEMORY_GOAL}", f"{tiled[1]:,.0f} MB"),
        ("time in tiles / whole", f"{tiled[0] / whole[0]:.2f}", f"≤ {TIME_GOAL}", f"{tiled[0]:.1f} s"),
        *(
            (f"estimate / memory used, {what}", f"{estimate / peak:.2f}", f"1 ± {ESTIMATE_GOAL}", f"{peak:,.0f} MB")
            for what, (_, peak, estimate) in (("whole", whole), ("in tiles", tiled))
        ),
        (
            "p99 of small requests beside a large one / alone",
            f"{p99[1] / p99[0]:.2f}",
            f"≤ {WAITING_GOAL}",
            f"{p99[1]:.1f} s",
        ),
    ]
    paragraphs = (
        f"The autoencoder of Stable Diffusion with random weights, on one core, decoding; {CALLERS} callers of "
        f"{small}×{small} images, beside one of {side}×{side}; {dtype}.",
        table(("what", "measured", "goal", "in tiles, or beside a large one"), rows),
    )
    if (side, small) == (2048, 512):
        write_page("large", "Large images beside small ones", *paragraphs)
    else:
        print("\n\n".join(paragraphs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--small", type=int, default=512)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    run(options.side, options.small, options.dtype, options.seconds)
