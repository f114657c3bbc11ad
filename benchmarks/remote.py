"""What the service adds to an AutoencoderKL's own time where diffusers' `remote_decode` sends a latent of 4×64×64.

python -m benchmarks.remote [REQUESTS]

Writes to clients.md.

The network has random weights, and is made small: what is added does not depend on them. Its own time is that of
diffusers' `decode` in the server's process, and is taken off for each request by itself. "exchange" is a request on a
connection that is kept, "remote_decode" all that a caller waits for: a connection for each, and the picture decoded.
"barest" is an exchange with the least that can answer: a loop around a socket that checks nothing, and has no thread.
"""

from __future__ import annotations

import io
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from diffusers.utils.remote_utils import prepare_decode, remote_decode
from PIL import Image

from benchmarks.harness.load import CALLS, Call, ask, connect, free_port, wait_until_ready
from benchmarks.harness.pages import table, write_section
from service.formats.images import JPEG_QUALITY
from service.inference.torch_backend import lay_out
from service.malloc import tune_malloc
from service.models.opening import open_models
from service.processes.listener import bind
from service.processes.server import Server
from service.settings import read_settings

OUTPUTS: dict[str, dict[str, Any]] = {
    "pil, jpg": {},
    "pil, png": {"image_format": "png"},
    "pt": {"output_type": "pt", "return_type": "pt"},
    "pt, partial_postprocess": {"output_type": "pt", "return_type": "pt", "partial_postprocess": True},
}
SCALING = 0.18215
BLOCKS = 4
NOMINAL = 512
ALIKE = 0.01
"""Mean difference of two answers' numbers, in grey levels or of [-1, 1]."""
GOALS_MS = {"pil, jpg": 4, "pil, png": 5, "pt": 2, "pt, partial_postprocess": 2}
"""That the service may add."""


def serve(folder: Path, port: int, own: Synchronized[float]) -> None:
    """The service, with `own` set to the seconds of the network's last batch."""
    settings = read_settings(["--checkpoint", str(folder), "--port", str(port), "--log-level", "warning"])
    opened = open_models(settings)
    (loaded,) = opened.loaded.values()
    backend: Any = loaded.backend
    _time_network(backend.model.network, own)
    Server(settings, lambda: opened).serve_forever(bind(settings))


def serve_barely(folder: Path, port: int, own: Synchronized[float]) -> None:
    """The same answers to the same four calls, one connection at a time."""
    torch.set_num_threads(1)
    tune_malloc()
    network = AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
    lay_out(network)
    _time_network(network, own)
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            caller, _ = listener.accept()
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with caller, caller.makefile("rb") as received:
                while line := received.readline():
                    fields = dict(field.lower().split(b": ", 1) for field in iter(received.readline, b"\r\n"))
                    body = received.read(int(fields.get(b"content-length", 0)))
                    answer = _answer(network, line, body) if body else b"ready"
                    caller.sendmsg([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer), answer])


def _answer(network: Any, target: bytes, body: bytes) -> bytes | memoryview:
    with torch.inference_mode():
        z = torch.frombuffer(bytearray(body), dtype=torch.half).float().reshape(1, 4, 64, 64)
        images = network.decode(z / SCALING).sample
        if b"output_type=pt" in target and b"partial_postprocess=True" not in target:
            return memoryview(images.to(torch.half, memory_format=torch.contiguous_format).numpy()).cast("B")
        pixels = images.div_(2).add_(0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    if b"output_type=pt" in target:
        return memoryview(pixels).cast("B")
    buffer = io.BytesIO()
    if b"image_format=png" in target:
        Image.fromarray(pixels[0]).save(buffer, "PNG", compress_level=1)
    else:
        Image.fromarray(pixels[0]).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _time_network(network: Any, own: Synchronized[float]) -> None:
    decode = network.decode

    def timed(z: torch.Tensor) -> Any:
        start = time.perf_counter()
        result = decode(z)
        own.value = time.perf_counter() - start
        return result

    network.decode = timed


def _network(widths: tuple[int, ...]) -> Any:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * BLOCKS,
        up_block_types=("UpDecoderBlock2D",) * BLOCKS,
        norm_num_groups=8,
        sample_size=NOMINAL,
    )


@contextmanager
def _running(target: Callable[[Path, int, Synchronized[float]], None], folder: Path) -> Iterator[tuple[int, Any]]:
    """A server's port, and the seconds that its network took for the last batch."""
    processes = multiprocessing.get_context("spawn")
    own: Synchronized[float] = processes.Value("d", 0)
    port = free_port()
    server = processes.Process(target=target, args=(folder, port, own))
    server.start()
    try:
        wait_until_ready(port, CALLS["readyz"])
        yield port, own
    finally:
        server.terminate()
        server.join()


def compare_times(requests: int) -> None:
    """The service's part of each request."""
    z = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)).half()
    rows = []
    missed: dict[str, list[str]] = {"exchange": [], "remote_decode": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _network((8,) * BLOCKS).save_pretrained(folder)
        with _running(serve, folder) as (port, own), _running(serve_barely, folder) as (barest_port, barest_own):
            url, connection, barest_connection = f"http://127.0.0.1:{port}", connect(port), connect(barest_port)
            for output, options in OUTPUTS.items():
                sent = {key: value for key, value in options.items() if key != "return_type"}
                prepared = prepare_decode(z, scaling_factor=SCALING, **sent)
                path = f"/remote/decode?{urlencode(prepared['params'], doseq=True)}"
                call = Call("POST", path, prepared["data"], prepared["headers"])
                client = partial(remote_decode, f"{url}/remote/decode", z, scaling_factor=SCALING, **options)
                exchange, barest = partial(ask, connection, call), partial(ask, barest_connection, call)
                _check_alike(exchange(), barest(), options)
                added = {
                    "exchange": _added_ms(exchange, own, requests),
                    "barest": _added_ms(barest, barest_own, requests),
                    "remote_decode": _added_ms(client, own, requests),
                }
                rows.append((output, *(f"{ms:.2f}" for ms in (*added.values(), 1000 * own.value))))
                for way in missed:
                    missed[way] += [output] * (added[way] > GOALS_MS[output])
    verdict = ", ".join(f"as {way} by {' and '.join(outputs) or 'none'}" for way, outputs in missed.items())
    write_section(
        "diffusers' remote_decode",
        f"remote {requests}",
        f"A float16 latent of 4×64×64 to an image of 3×512×512; medians of {requests} requests, milliseconds beyond "
        "those of the network itself, which is made small. An exchange is a request on a connection that is kept, "
        "the barest one with a loop around a socket, in one thread, that checks nothing and leaves pictures to Pillow; "
        "`remote_decode` makes a connection for each, and reads the picture. Goals: the service adds no more "
        "than 2 ms to its model's own time for a tensor, 4 for a JPEG, and 5 for a PNG; "
        f"missed {verdict}.",
        table(("answer", "exchange, ms", "barest exchange, ms", "remote_decode, ms", "the network itself, ms"), rows),
    )


def _added_ms(ask_once: Callable[[], object], own: Synchronized[float], requests: int) -> float:
    """Milliseconds beyond the network's own time, the median of the requests."""
    added = []
    for _ in range(requests + 2):
        start = time.perf_counter()
        ask_once()
        added.append((time.perf_counter() - start - own.value) * 1000)
    return statistics.median(added[2:])


def _check_alike(one: bytes, other: bytes, options: dict[str, Any]) -> None:
    """Raise RuntimeError unless two answers hold the same numbers, but for rounding."""

    def values(answer: bytes) -> npt.NDArray[np.float64]:
        if options.get("output_type") == "pt":
            return np.frombuffer(answer, np.uint8 if "partial_postprocess" in options else np.float16).astype(float)
        with Image.open(io.BytesIO(answer)) as image:
            return np.asarray(image, float).ravel()

    difference = float(np.abs(values(one) - values(other)).mean())
    if difference > ALIKE:
        raise RuntimeError(f"The barest server's numbers for {options} differ by {difference:.3g} in the mean.")


if __name__ == "__main__":
    compare_times(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
