"""Ways to run a decoder on one core: microseconds for a batch, difference from torch, seconds to set up.

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
from service.inference.backend import OnnxBackend
from service.inference.onnx_graph import translate
from service.inference.torch_backend import lay_out
from service.settings import BUNDLED
from training.export import Decoder
from vae import VAE, VAEConfig
from vae.checkpoint import load

FloatArray = npt.NDArray[np.float32]
Decode = Callable[[FloatArray], FloatArray]
ROWS = (1, 2, 8, 32, 64)
REPEATS = 300


def torch_as_loaded(model: VAE) -> Decode:
    return _in_torch(Decoder(model))


def torch_laid_out(model: VAE) -> Decode:
    lay_out(model)
    return _in_torch(Decoder(model))


def torch_bfloat16(model: VAE) -> Decode:
    decode = torch_as_loaded(model)

    def autocast(z: FloatArray) -> FloatArray:
        with torch.autocast("cpu", torch.bfloat16):
            return decode(z)

    return autocast


def torch_compiled(model: VAE) -> Decode:
    decoder = Decoder(model)
    decoder.compile(dynamic=True)
    return _in_torch(decoder)


def onnx_runtime(model: VAE) -> Decode:
    return OnnxBackend(translate(model)).decode


def bundled() -> VAE:
    return load(BUNDLED).model


def convolutions() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig("conv", (3, 64, 64), hidden_dim=64)).eval().requires_grad_(False)


ENGINES = {
    "torch, as the checkpoint is loaded": torch_as_loaded,
    "torch, matrices laid out by inputs (`VAE_RUNTIME=torch`)": torch_laid_out,
    "torch, bfloat16 autocast": torch_bfloat16,
    "torch.compile": torch_compiled,
    "ONNX Runtime, translated layer by layer (served)": onnx_runtime,
}
MODELS = {
    "The bundled model": bundled,
    "Convolutions, 3×64×64, 64 channels where they are coarsest": convolutions,
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
    tables = "\n\n".join(f"{title}:\n\n{table(make)}" for title, make in MODELS.items())
    page = f"# Ways to decode\n\n{machine}, one core; `python -m benchmarks.engines` wrote this.\n\n{tables}\n"
    (Path(__file__).parent / "engines.md").write_text(page)


def table(make_model: Callable[[], VAE]) -> str:
    z = np.random.default_rng(0).standard_normal((max(ROWS), *make_model().config.latent_shape), np.float32)
    wanted = torch_as_loaded(make_model())(z)
    lines = [
        f"| engine | {' | '.join(f'{rows} rows, µs' for rows in ROWS)} | differs by | set up, s |",
        "|---|" + "---:|" * (len(ROWS) + 2),
    ]
    for name, make in ENGINES.items():
        start = time.perf_counter()
        decode = make(make_model())
        difference = np.abs(decode(z) - wanted).max()
        seconds = time.perf_counter() - start
        times = " | ".join(f"{microseconds(decode, z[:rows]):.0f}" for rows in ROWS)
        lines.append(f"| {name} | {times} | {difference:.0e} | {seconds:.1f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
