"""Ways to run a decoder on one core: microseconds for a batch, difference from torch, seconds to set up.

    python -m benchmarks.engines [--repeats N]

Writes benchmarks/engines.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.harness.pages import table, write_page
from service.inference.onnx_backend import OnnxBackend
from service.inference.torch_backend import lay_out
from service.settings import BUNDLED
from training.export import Decoder
from vae import VAE, VAEConfig
from vae.checkpoint import load

FloatArray = npt.NDArray[np.float32]
Decode = Callable[[FloatArray], FloatArray]
ROWS = (1, 2, 8, 32, 64)


def in_torch(model: VAE) -> Decode:
    return run(Decoder(model))


def laid_out(model: VAE) -> Decode:
    lay_out(model)
    return in_torch(model)


def in_onnx_runtime(model: VAE) -> Decode:
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return OnnxBackend(model.config, arrays).decode


def compiled(model: VAE) -> Decode:
    decoder = Decoder(model)
    decoder.compile(dynamic=True)
    return run(decoder)


def run(decoder: nn.Module) -> Decode:
    def decode(z: FloatArray) -> FloatArray:
        with torch.inference_mode():
            pixels: FloatArray = decoder(torch.from_numpy(z))[0].float().numpy()
        return pixels

    return decode


def convolutions() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig("conv", (3, 64, 64), hidden_dim=64)).eval().requires_grad_(False)


ENGINES: dict[str, Callable[[VAE], Decode]] = {
    "torch, as the checkpoint is loaded": in_torch,
    "torch, matrices laid out by inputs (`VAE_RUNTIME=torch`)": laid_out,
    "torch, bfloat16 autocast": lambda model: torch.autocast("cpu", torch.bfloat16)(in_torch(model)),
    "torch.compile": compiled,
    "ONNX Runtime (served)": in_onnx_runtime,
}
MODELS: dict[str, Callable[[], VAE]] = {
    "The bundled model": lambda: load(BUNDLED).model,
    "Convolutions, 3×64×64, 64 channels where they are coarsest": convolutions,
}


def microseconds(decode: Decode, z: FloatArray, repeats: int) -> float:
    """Median of so many calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        decode(z)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e6


def compare(make_model: Callable[[], VAE], repeats: int) -> str:
    """A table with a row for each of ENGINES."""
    z = np.random.default_rng(0).standard_normal((max(ROWS), *make_model().config.latent_shape), np.float32)
    expected = in_torch(make_model())(z)
    rows = []
    for name, make in ENGINES.items():
        start = time.perf_counter()
        decode = make(make_model())
        difference = np.abs(decode(z) - expected).max()
        seconds = time.perf_counter() - start
        times = [f"{microseconds(decode, z[:count], repeats):.0f}" for count in ROWS]
        rows.append((name, *times, f"{difference:.0e}", f"{seconds:.1f}"))
    return table(("engine", *(f"{count} rows, µs" for count in ROWS), "differs by", "set up, s"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300, help="calls of which the median is taken")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    tables = [shard for title, make in MODELS.items() for shard in (f"{title}:", compare(make, options.repeats))]
    os.sched_setaffinity(0, cores)
    write_page("engines", "Ways to decode", "All on one core.", *tables)


if __name__ == "__main__":
    main()
