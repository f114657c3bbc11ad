"""Ways to run the bundled decoder on one core: microseconds for a batch, difference from torch, seconds to set up.

    python -m benchmarks.engines [--core N]

Writes benchmarks/engines.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.machine import describe_machine
from service.network import OnnxNetwork
from service.onnx_graph import translate
from service.settings import BUNDLED
from service.torch_network import lay_out
from training.export import Decoder
from vae.checkpoint import load

FloatArray = npt.NDArray[np.float32]
Decode = Callable[[FloatArray], FloatArray]
ROWS = (1, 2, 8, 32, 64)
REPEATS = 300


def torch_as_loaded() -> Decode:
    return _in_torch(Decoder(load(BUNDLED).model))


def torch_laid_out() -> Decode:
    model = load(BUNDLED).model
    lay_out(model)
    return _in_torch(Decoder(model))


def torch_bfloat16() -> Decode:
    decode = torch_as_loaded()

    def autocast(z: FloatArray) -> FloatArray:
        with torch.autocast("cpu", torch.bfloat16):
            return decode(z)

    return autocast


def torch_compiled() -> Decode:
    decoder = Decoder(load(BUNDLED).model)
    decoder.compile(dynamic=True)
    return _in_torch(decoder)


def onnx_runtime() -> Decode:
    return OnnxNetwork(translate(load(BUNDLED).model)).decode


ENGINES = {
    "torch, as the checkpoint is loaded": torch_as_loaded,
    "torch, matrices laid out by inputs (`VAE_RUNTIME=torch`)": torch_laid_out,
    "torch, bfloat16 autocast": torch_bfloat16,
    "torch.compile": torch_compiled,
    "ONNX Runtime, translated layer by layer (served)": onnx_runtime,
}


def _in_torch(decoder: nn.Module) -> Decode:
    def decode(z: FloatArray) -> FloatArray:
        with torch.inference_mode():
            pixels: FloatArray = decoder(torch.from_numpy(z))[0].float().numpy()
        return pixels

    return decode


def microseconds(decode: Decode, z: FloatArray) -> float:
    """Median of many."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        decode(z)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args()
    machine = describe_machine()
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    z = np.random.default_rng(0).standard_normal((max(ROWS), 3), np.float32)
    wanted = torch_as_loaded()(z)
    lines = [
        f"| engine | {' | '.join(f'{rows} rows, µs' for rows in ROWS)} | differs by | set up, s |",
        "|---|" + "---:|" * (len(ROWS) + 2),
    ]
    for name, make in ENGINES.items():
        start = time.perf_counter()
        decode = make()
        difference = np.abs(decode(z) - wanted).max()
        seconds = time.perf_counter() - start
        times = " | ".join(f"{microseconds(decode, z[:rows]):.0f}" for rows in ROWS)
        lines.append(f"| {name} | {times} | {difference:.0e} | {seconds:.1f} |")
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    page = f"# Ways to decode\n\n{machine}, one core; `python -m benchmarks.engines` wrote this.\n\n{table}\n"
    (Path(__file__).parent / "engines.md").write_text(page)


if __name__ == "__main__":
    main()
