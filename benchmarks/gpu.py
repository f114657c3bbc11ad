"""What is measured on a GPU, in under fifteen minutes: training to its end, the service, both against the CPU.

    python -m benchmarks.gpu [--data-dir DIR] [--device cuda:1]

Trains the default recipe on MNIST once for each precision of torch's float32 matrix products, serves the first
checkpoint, compares the service's answers with those of the CPU, and measures the decoder over the size of a
micro-batch, and that of Stable Diffusion's autoencoder in float16 and bfloat16. Writes benchmarks/gpu.md. `--quick`
does all of it with one epoch and tenths of a second, and writes nothing: with `--device cpu` it tries this program out
where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import vae
from benchmarks import gpu_diffusion
from benchmarks.batches import latents_per_second
from benchmarks.contenders import VAE_SERVE
from benchmarks.harness.load import serving
from benchmarks.harness.pages import describe_machine, table, write_page
from service.inference.engine import Engine
from service.inference.loading import load_checkpoint
from service.settings import read_settings
from training.data.dataset import to_pixels
from training.data.load import load
from vae_client import Client

PRECISIONS = ("highest", "high", "medium")
ROWS = (1, 16, 256, 4096)
SECONDS = 2.0
IMAGES = 256
"""Compared with the CPU."""
TOLERANCE = 1e-2
"""Largest difference from the CPU, absolute and relative: a GPU's convolutions may round to TF32."""


def device_name(device: str) -> str:
    """For the page; ends the process where the device cannot be used."""
    if device == "cpu":
        return "CPU"
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here: run this where there is one, or try it out with --device cpu --quick.")
    return torch.cuda.get_device_name(device)


def train(folder: Path, precision: str, options: argparse.Namespace) -> tuple[Path, Sequence[str]]:
    """The checkpoint of `vae-train fit`, run to its end, and a row of the table."""
    out = folder / f"{precision}.safetensors"
    command = [sys.executable, "-m", "training", "fit", "--device", options.device, "--data-dir", options.data_dir]
    more = ["--epochs", "1", "--hidden-dim", "16"] if options.quick else []
    start = time.perf_counter()
    subprocess.run([*command, "--out", out, "--matmul-precision", precision, *more], check=True)
    seconds = time.perf_counter() - start
    history = [json.loads(line) for line in out.with_suffix(".history.jsonl").read_text().splitlines()]
    epochs = np.diff([0, *(record["seconds"] for record in history)])
    loss = vae.load(out).metrics["test_neg_elbo"]
    return out, (precision, f"{epochs[0]:.2f}", f"{epochs[-1]:.2f}", f"{seconds:.0f}", f"{loss:.2f}")


def differences(url: str, checkpoint: Path, data_dir: Path) -> list[Sequence[str]]:
    """Largest differences of the service's answers from the CPU's; raises RuntimeError above TOLERANCE."""
    network = load_checkpoint(read_settings(["--checkpoint", str(checkpoint)])).backend
    images = load("mnist", data_dir)[1].images[:IMAGES]
    mean, log_variance = network.encode(to_pixels(images).numpy())
    with Client(url) as client:
        posterior, decoded = client.encode(images.numpy()), client.decode(mean)
    pairs = {
        "mean of q(z|x)": (posterior.mean, mean),
        "log-variance": (posterior.log_variance, log_variance),
        "image, 0 to 1": (decoded.pixels, network.decode(mean)),
    }
    for name, (served, expected) in pairs.items():
        if not np.allclose(served, expected, TOLERANCE, TOLERANCE):
            difference = np.abs(served - expected).max()
            raise RuntimeError(f"{name}: the service on the GPU differs from the CPU by {difference:g}.")
    return [(name, f"{np.abs(served - expected).max():.1e}") for name, (served, expected) in pairs.items()]


def throughput(checkpoint: Path, device: str, seconds: float) -> list[Sequence[str]]:
    """Latents decoded a second, for each size of a micro-batch."""
    network = load_checkpoint(read_settings(["--checkpoint", str(checkpoint), "--device", device])).backend
    engines = {size: Engine(network, micro_batch_limit=size, threaded=True) for size in ROWS}
    return [(str(size), f"{latents_per_second(engine, size, seconds):,.0f}") for size, engine in engines.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    name = device_name(options.device)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        precisions = PRECISIONS[:1] if options.quick else PRECISIONS
        checkpoints, trained = zip(*(train(Path(temporary), each, options) for each in precisions), strict=True)
        checkpoint = checkpoints[0]
        with serving([*VAE_SERVE, "--device", options.device, "--checkpoint", str(checkpoint)]) as (_, port):
            compared = differences(f"http://127.0.0.1:{port}", checkpoint, options.data_dir)
        seconds = SECONDS / 20 if options.quick else SECONDS
        decoded = throughput(checkpoint, options.device, seconds)
        diffusion = gpu_diffusion.measure(torch.device(options.device), seconds, quick=options.quick)
    paragraphs = [
        f"{name}, {(time.perf_counter() - start) / 60:.1f} minutes in all.",
        "`vae-train fit`, default recipe; the first epoch compiles the network:",
        table(("matrix products", "first epoch, s", "last epoch, s", "all of fit, s", "test −ELBO"), trained),
        "Largest difference of the service's answers from the CPU's:",
        table(("of", "difference"), compared),
        "The decoder in process:",
        table(("rows of a micro-batch", "latents/s"), decoded),
        "Stable Diffusion's decoder with random weights, one latent of 4×64×64 after the other, with a thread for each "
        "stream:",
        table(gpu_diffusion.HEAD, diffusion, text=4),
    ]
    if options.quick:
        print("\n\n".join((describe_machine(), *paragraphs)))
    else:
        write_page("gpu", "On a GPU", *paragraphs)


if __name__ == "__main__":
    main()
