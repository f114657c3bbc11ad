"""Importing and using the client imports no heavy packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HEAVY = (
    "torch",
    "PIL",
    "tqdm",
    "fastapi",
    "pydantic",
    "orjson",
    "safetensors",
    "pictures",
    "service",
    "training",
    "vae",
    "weights",
)
CODE = """
import sys
import numpy
from vae_client import AsyncClient, Client
with Client({url!r}) as client:
    posterior = client.encode(numpy.zeros((28, 28), numpy.uint8))
    client.decode(posterior.mean)
    client.encode("docs/seven.png")
    list(client.map(client.decode, [posterior.mean] * 3))
print([name for name in {heavy!r} if name in sys.modules])
"""


def test_torch_pillow_and_tqdm_are_not_imported(url: str) -> None:
    code = CODE.format(url=url, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
