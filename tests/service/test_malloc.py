import ctypes
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.vae.autoencoder import write_folder

pytestmark = pytest.mark.slow

PASSES = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from service.inference.torch_backend import TorchBackend
from vae.diffusion.loading import load_diffusers

torch.set_num_threads(1)
network = TorchBackend(load_diffusers(Path(sys.argv[1])).model)

def faults(z):
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    network.decode(z)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

with ThreadPoolExecutor(1, initializer=network.begin_thread) as thread:
    print(*thread.map(faults, [np.zeros((1, 4, 32, 32), np.float32)] * 12))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="mallopt is glibc's")
def test_a_pass_reuses_the_memory_of_the_last_one(tmp_path: Path) -> None:
    """By default glibc returns it in between, and the next pass has thousands of page faults."""
    widths = {"block_out_channels": (8,) * 4, "sample_size": 256}
    blocks = {
        f"{way}_block_types": (f"{way.title()}{side}Block2D",) * 4
        for way, side in (("down", "Encoder"), ("up", "Decoder"))
    }
    write_folder(tmp_path, **widths, **blocks)
    result = subprocess.run(
        [sys.executable, "-c", PASSES, tmp_path], capture_output=True, check=True, text=True, timeout=120
    )
    assert median(map(int, result.stdout.split()[4:])) < 100
