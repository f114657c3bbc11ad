"""The servers that benchmarks.remote asks, each with its network's own time told."""

from __future__ import annotations

import io
import socket
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image

from service.formats.images import JPEG_QUALITY
from service.inference.loading import load_checkpoint
from service.inference.torch_backend import lay_out
from service.malloc import tune_malloc
from service.processes.listener import bind
from service.processes.server import Server
from service.settings import read_settings


def serve(folder: Path, port: int, own: Synchronized[float]) -> None:
    """A service that tells in `own` how long the network took for its last batch, in seconds."""
    settings = read_settings(["--checkpoint", str(folder), "--port", str(port), "--log-level", "warning"])
    served = load_checkpoint(settings)
    torch_network: Any = served.backend
    _time_network(torch_network.model.network, own)
    Server(settings, lambda: served).serve_forever(bind(settings))


def serve_barely(folder: Path, port: int, own: Synchronized[float]) -> None:
    """The same answers to the same four calls."""
    torch.set_num_threads(1)
    tune_malloc()
    network = AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
    lay_out(network)
    _time_network(network, own)
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            caller, _ = listener.accept()
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with caller, caller.makefile("rb") as came:
                while line := came.readline():
                    fields = dict(field.lower().split(b": ", 1) for field in iter(came.readline, b"\r\n"))
                    body = came.read(int(fields.get(b"content-length", 0)))
                    answer = _answer(network, line, body) if body else b"ready"
                    caller.sendmsg([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer), answer])


def _answer(network: Any, target: bytes, body: bytes) -> bytes | memoryview:
    with torch.inference_mode():
        z = torch.frombuffer(bytearray(body), dtype=torch.half).float().reshape(1, 4, 64, 64)
        images = network.decode(z / 0.18215).sample
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
