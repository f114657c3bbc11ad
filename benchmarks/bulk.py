"""Ten thousand latents in one request, against the same engine without a server."""

from __future__ import annotations

import io
import json
import sys
import time
from http.client import HTTPConnection

import numpy as np

from benchmarks.calls import CALLS
from benchmarks.client import TIMEOUT_S, free_port, wait_until_answered
from benchmarks.contender import CONTENDERS
from benchmarks.pinned import output_of, pinned

ROWS = 10_000
LATENT_DIM = 3
NPY = "application/x-npy"


def measure(core: int, seconds: int) -> dict[str, float]:
    """Latents per second: in process, npy → npy and JSON → npy."""
    z = np.random.default_rng(0).standard_normal((ROWS, LATENT_DIM), np.float32)
    npy = io.BytesIO()
    np.save(npy, z)
    command = [sys.executable, "-m", "benchmarks.inprocess", "bulk", str(ROWS), str(seconds)]
    rates = {"in_process": float(output_of(command, core))}
    port = free_port()
    with pinned(CONTENDERS["ours"].start_command(port), core) as process:
        wait_until_answered(process, port, CALLS["decode"])
        rates["npy"] = _rate(port, NPY, npy.getvalue(), seconds)
        rates["json"] = _rate(port, "application/json", json.dumps(z.tolist()).encode(), seconds)
    return rates


def _rate(port: int, content_type: str, body: bytes, seconds: int) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    buffer = bytearray(1024 + 4 * ROWS * 28 * 28)
    headers = {"Content-Type": content_type, "Accept": NPY}
    calls, start = -1, 0.0
    while calls < 1 or time.perf_counter() - start < seconds:
        if calls == 0:  # the one before was to warm up
            start = time.perf_counter()
        connection.request("POST", "/decode", body, headers)
        response = connection.getresponse()
        length = response.readinto(buffer)
        if response.status != 200:
            raise RuntimeError(f"{ROWS} latents as {content_type}: {response.status} {buffer[:length].decode()}")
        calls += 1
    rate = calls * ROWS / (time.perf_counter() - start)
    images = np.load(io.BytesIO(buffer))
    connection.close()
    if images.shape != (ROWS, 1, 28, 28):
        raise RuntimeError(f"{ROWS} latents as {content_type} gave an array {images.shape}.")
    return rate
