"""What the service adds to an AutoencoderKL's own time where diffusers' `remote_decode` sends a latent of 4×64×64.

python -m benchmarks.remote [REQUESTS]
python -m benchmarks.remote tiled [SIDES]

Both write to clients.md.

The network has random weights, and is made small: what is added does not depend on them. Its own time is that of
diffusers' `decode` in the server's process, and is taken off for each request by itself. "exchange" is a request on a
connection that is kept, "remote_decode" all that a caller waits for: a connection for each, and the picture decoded.
"barest" is an exchange with the least that can answer: a loop around a socket that checks nothing, and has no thread.

`tiled` is for large images, SIDES times as high and wide as the nominal one: seconds and memory of the network alone, a
quarter as wide as Stable Diffusion's and half as deep, on one core, with the service's tiles, and without.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
from benchmarks.harness.processes import sampled_rss_mb
from service.formats.images import JPEG_QUALITY
from service.inference.loading import load_checkpoint
from service.inference.torch_backend import lay_out
from service.malloc import tune_malloc
from service.processes.listener import bind
from service.processes.server import Server
from service.settings import read_settings
from vae.diffusion.model import DiffusionModel as Model

OUTPUTS: dict[str, dict[str, Any]] = {
    "pil, jpg": {},
    "pil, png": {"image_format": "png"},
    "pt": {"output_type": "pt", "return_type": "pt"},
    "pt, partial_postprocess": {"output_type": "pt", "return_type": "pt", "partial_postprocess": True},
}
SCALING = 0.18215
BLOCKS = 4
QUARTER = (32, 64, 128, 128)
NOMINAL = 512
SIDES = (1, 2, 3)
"""Of an image, in nominal ones."""
ALIKE = 0.01
"""Mean difference of two answers' numbers, in grey levels or of [-1, 1]."""
GOAL_MS = 2
"""That the service may add."""


def serve(folder: Path, port: int, own: Synchronized[float]) -> None:
    """The service, with `own` set to the seconds of the network's last batch."""
    settings = read_settings(["--checkpoint", str(folder), "--port", str(port), "--log-level", "warning"])
    loaded = load_checkpoint(settings)
    backend: Any = loaded.backend
    _time_network(backend.model.network, own)
    Server(settings, lambda: loaded).serve_forever(bind(settings))


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
                    missed[way] += [output] * (added[way] > GOAL_MS)
    verdict = ", ".join(f"as {way} by {' and '.join(outputs) or 'none'}" for way, outputs in missed.items())
    write_section(
        "diffusers' remote_decode",
        f"remote {requests}",
        f"A float16 latent of 4×64×64 to an image of 3×512×512; medians of {requests} requests, milliseconds beyond "
        "those of the network itself, which is made small. An exchange is a request on a connection that is kept, "
        "the barest one with a loop around a socket, in one thread, that checks nothing and leaves pictures to Pillow; "
        "`remote_decode` makes a connection for each, and reads the picture. Goal: the service adds no more than "
        f"{GOAL_MS} ms to its model's own time; missed {verdict}.",
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


def compare_tiles(sides: Sequence[int]) -> None:
    """Each pass in a process of its own, whose memory no other pass has used."""
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for side in (NOMINAL * times for times in sides):
            passes = [(side, encodes, tiled) for encodes in (False, True) for tiled in (False, True)]
            rows.append((f"{side}×{side}", *(processes.apply(_pass, one) for one in passes)))
    write_section(
        "Large images, tiled",
        " ".join(("remote tiled", *map(str, sides))),
        f"Seconds of one pass on one core, and the peak of memory beyond what the process had before: a network a "
        f"quarter as wide as Stable Diffusion's and half as deep, nominal side {NOMINAL}. The service has larger "
        "images computed in tiles.",
        table(("pixels", "decode, whole", "decode, tiled", "encode, whole", "encode, tiled"), rows),
    )


def _pass(side: int, encodes: bool, tiled: bool) -> str:
    """A cell: seconds, and megabytes beyond those before."""
    torch.set_num_threads(1)
    model = Model(_network(QUARTER).eval().requires_grad_(False))
    if not tiled:
        model.network.disable_tiling()
    with sampled_rss_mb(os.getpid()) as samples, torch.inference_mode():
        start = time.perf_counter()
        if encodes:
            model.encode(torch.rand(1, 3, side, side))
        else:
            model.to_image_(model.decode(torch.randn(1, 4, side // 8, side // 8)))
        seconds = time.perf_counter() - start
    return f"{seconds:.1f} s, {max(samples) - samples[0]:,.0f} MB"


if __name__ == "__main__":
    if sys.argv[1:2] == ["tiled"]:
        compare_tiles([int(side) for side in sys.argv[2:]] or SIDES)
    else:
        compare_times(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
