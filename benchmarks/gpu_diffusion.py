"""The decoder of Stable Diffusion's autoencoder on a GPU: what precision, compilation, layout and streams give.

`benchmarks.gpu` calls it for a section of its page.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.large import create_network

DTYPES = (torch.float16, torch.bfloat16)
STREAMS = (1, 2)
SIDE, QUICK_SIDE = 64, 2
"""Height and width of the latent."""
HEAD = ("dtype", "torch.compile", "channels last", "streams", "images/s", "peak memory, MB")


def measure(device: torch.device, seconds: float, *, quick: bool) -> list[Sequence[str]]:
    """Decode latents one by one in each of the ways; `quick` leaves compilation out, and takes small latents."""
    z = torch.randn(1, 4, *2 * (QUICK_SIDE if quick else SIDE,), device=device)
    rows: list[Sequence[str]] = []
    for dtype, compiled, channels_last in itertools.product(
        DTYPES, (False,) if quick else (False, True), (False, True)
    ):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = create_network().to(device, dtype, memory_format=layout).eval().requires_grad_(False)
        if compiled:
            network.decode = torch.compile(network.decode)
        for streams in STREAMS:
            speed, peak = _measure_streams(network, z.to(dtype, memory_format=layout), streams, seconds)
            row = (str(dtype).removeprefix("torch."), _yes(compiled), _yes(channels_last), str(streams))
            rows.append((*row, f"{speed:.2f}", f"{peak / 1e6:,.0f}"))
    return rows


def _measure_streams(network: Any, z: Tensor, streams: int, seconds: float) -> tuple[float, float]:
    """Images per second of so many threads with a stream each, and the peak of allocated bytes; 0 on a CPU."""
    is_cuda = z.device.type == "cuda"
    _decode(network, z)  # compiles, and chooses kernels
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(z.device)
    counts = [0] * streams
    start = time.perf_counter()

    def run(index: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream(z.device)) if is_cuda else nullcontext():
            while not counts[index] or time.perf_counter() - start < seconds:
                _decode(network, z)
                counts[index] += 1

    threads = [threading.Thread(target=run, args=(index,)) for index in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    peak = torch.cuda.max_memory_allocated(z.device) if is_cuda else 0
    return sum(counts) / (time.perf_counter() - start), float(peak)


def _decode(network: Any, z: Tensor) -> None:
    with torch.inference_mode():
        network.decode(z).sample.to("cpu")  # waits for the stream


def _yes(value: bool) -> str:
    return "yes" if value else "no"
