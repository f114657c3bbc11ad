"""What the service adds to an AutoencoderKL's own time where diffusers' `remote_decode` sends a latent of 4×64×64.

python -m benchmarks.remote [REQUESTS]
python -m benchmarks.remote tiled [SIDES]

Both write to clients.md.

The network has random weights, and is made small: what is added does not depend on them. Its own time is that of
diffusers' `decode` in the server's process, and is taken off for each request by itself. "exchange" is a request on a
connection that is kept, "remote_decode" all that a caller waits for: a connection for each, and the picture decoded.
"barest" is an exchange with the least that can answer: a loop around a socket that checks nothing, and has no thread.

`tiled` is for large images, SIDES times as high and wide as the nominal one: seconds and memory of the network alone, a
quarter as wide as Stable Diffusion's and half as deep, on one core, with the tiles that the service has it cut, and
without.
"""

from __future__ import annotations

import io
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from diffusers.utils.remote_utils import prepare_decode, remote_decode
from PIL import Image

from benchmarks.client import free_port
from benchmarks.remote_servers import serve, serve_barely
from benchmarks.sections import table, write_section
from vae.autoencoder_kl import AutoencoderKL as Model

START_LIMIT_S = 120
OUTPUTS: dict[str, dict[str, Any]] = {
    "pil, jpg": {},
    "pil, png": {"image_format": "png"},
    "pt": {"output_type": "pt", "return_type": "pt"},
    "pt, partial_postprocess": {"output_type": "pt", "return_type": "pt", "partial_postprocess": True},
}
BLOCKS = 4
QUARTER = (32, 64, 128, 128)
NOMINAL = 512
SIDES = (1, 2, 3)
"""Of an image, in nominal ones."""
ALIKE = 0.01
"""Mean difference of two answers' numbers, in grey levels or of [-1, 1]."""
GOAL_MS = 2
"""That the service may add."""


class Added(NamedTuple):
    """Milliseconds beyond the network's own, and these."""

    output: str
    exchange: float
    barest: float
    remote_decode: float
    own: float


def main() -> None:
    if sys.argv[1:2] == ["tiled"]:
        compare_tiles([int(side) for side in sys.argv[2:]] or SIDES)
    else:
        compare_times(int(sys.argv[1]) if len(sys.argv) > 1 else 50)


def compare_times(requests: int) -> None:
    """The service's part of each request."""
    z = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)).half()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        with _running(serve, Path(folder)) as service, _running(serve_barely, Path(folder)) as barest:
            for name, options in OUTPUTS.items():
                sent = {key: value for key, value in options.items() if key != "return_type"}
                call = prepare_decode(z, scaling_factor=0.18215, **sent)
                path = f"/remote/decode?{urlencode(call['params'], doseq=True)}"

                def client(options: dict[str, Any] = options) -> None:
                    remote_decode(
                        f"http://127.0.0.1:{service.port}/remote/decode", z, scaling_factor=0.18215, **options
                    )

                exchange, barest_exchange = (partial(_exchange, it.connection, path, call) for it in (service, barest))
                _check_alike(exchange(), barest_exchange(), options)
                rows.append(
                    Added(
                        name,
                        _added(exchange, service.own, requests),
                        _added(barest_exchange, barest.own, requests),
                        _added(client, service.own, requests),
                        service.own.value * 1000,
                    )
                )
    cells = [(row.output, *(f"{value:.2f}" for value in row[1:])) for row in rows]
    missed = {way: [row.output for row in rows if getattr(row, way) > GOAL_MS] for way in ("exchange", "remote_decode")}
    told = [f"as {way} by {' and '.join(outputs) or 'none'}" for way, outputs in missed.items()]
    write_section(
        "diffusers' remote_decode",
        f"remote {requests}",
        f"A float16 latent of 4×64×64 to an image of 3×512×512; medians of {requests} requests, milliseconds beyond "
        "those of the network itself, which is made small. An exchange is a request on a connection that is kept, "
        "the barest one with a loop around a socket, in one thread, that checks nothing and leaves pictures to Pillow; "
        "`remote_decode` makes a connection for each, and reads the picture. Goal: the service adds no more than "
        f"{GOAL_MS} ms to its model's own time; missed {', '.join(told)}.",
        table(("answer", "exchange, ms", "barest exchange, ms", "remote_decode, ms", "the network itself, ms"), cells),
    )


class Started(NamedTuple):
    """A server that runs, and a connection to it."""

    port: int
    connection: HTTPConnection
    own: Synchronized[float]
    """Seconds that the network took for its last batch."""


@contextmanager
def _running(serve: Callable[[Path, int, Synchronized[float]], None], folder: Path) -> Iterator[Started]:
    processes = multiprocessing.get_context("spawn")
    own: Synchronized[float] = processes.Value("d", 0)
    port = free_port()
    server = processes.Process(target=serve, args=(folder, port, own))
    server.start()
    try:
        yield Started(port, _connect(port), own)
    finally:
        server.terminate()
        server.join()


def _exchange(connection: HTTPConnection, path: str, call: dict[str, Any]) -> bytes:
    connection.request("POST", path, call["data"], call["headers"])
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path} was answered with {response.status}.")
    return answer


def _check_alike(one: bytes, other: bytes, options: dict[str, Any]) -> None:
    """Raise RuntimeError unless two answers hold the same numbers, but for what rounding does to them."""

    def values(answer: bytes) -> npt.NDArray[np.float64]:
        if options.get("output_type") == "pt":
            return np.frombuffer(answer, np.uint8 if "partial_postprocess" in options else np.float16).astype(float)
        with Image.open(io.BytesIO(answer)) as image:
            return np.asarray(image, float).ravel()

    difference = float(np.abs(values(one) - values(other)).mean())
    if difference > ALIKE:
        raise RuntimeError(f"The barest server's numbers for {options} are others: by {difference:.3g} in the mean.")


def compare_tiles(sides: Sequence[int]) -> None:
    """Each pass in a process of its own, which has no memory of another."""
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for side in (NOMINAL * times for times in sides):
            passes = [(side, encodes, tiled) for encodes in (False, True) for tiled in (False, True)]
            took = [processes.apply(_pass, one) for one in passes]
            rows.append((f"{side}×{side}", *(f"{seconds:.1f} s, {mb:,.0f} MB" for seconds, mb in took)))
    write_section(
        "Large images, tiled",
        " ".join(("remote tiled", *map(str, sides))),
        f"Seconds of one pass on one core, and the peak of memory beyond what the process had before: a network a "
        f"quarter as wide as Stable Diffusion's and half as deep, nominal side {NOMINAL}. The service has larger "
        "images computed in tiles.",
        table(("pixels", "decode, whole", "decode, tiled", "encode, whole", "encode, tiled"), rows),
    )


def _pass(side: int, encodes: bool, tiled: bool) -> tuple[float, float]:
    """Seconds, and megabytes beyond those before."""
    torch.set_num_threads(1)
    model = Model(_network(QUARTER).eval().requires_grad_(False))
    if not tiled:
        model.network.disable_tiling()
    before, start = _megabytes("VmRSS"), time.perf_counter()
    with torch.inference_mode():
        if encodes:
            model.encode(torch.rand(1, 3, side, side))
        else:
            model.to_image_(model.decode(torch.randn(1, 4, side // 8, side // 8)))
    return time.perf_counter() - start, _megabytes("VmHWM") - before


def _megabytes(field: str) -> float:
    """Of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


def _write(folder: Path) -> None:
    _network((8,) * BLOCKS).save_pretrained(folder)


def _network(widths: tuple[int, ...]) -> Any:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * BLOCKS,
        up_block_types=("UpDecoderBlock2D",) * BLOCKS,
        norm_num_groups=8,
        sample_size=NOMINAL,
    )


def _connect(port: int) -> HTTPConnection:
    give_up = time.monotonic() + START_LIMIT_S
    while True:
        connection = HTTPConnection("127.0.0.1", port)
        try:
            connection.request("GET", "/readyz")
            connection.getresponse().read()
        except ConnectionError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)
        else:
            return connection


def _added(ask: Callable[[], object], own: Synchronized[float], requests: int) -> float:
    """Milliseconds beyond the network's own time, the median of the requests."""
    added = []
    for _ in range(requests + 2):
        start = time.perf_counter()
        ask()
        added.append((time.perf_counter() - start - own.value) * 1000)
    return statistics.median(added[2:])


if __name__ == "__main__":
    main()
