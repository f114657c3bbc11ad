"""The same rows in every binary protocol: npy, safetensors, Arrow, and the Open Inference Protocol's tensors.

python -m benchmarks.protocols [SECONDS]

Rows per second on one kept connection, best of rounds in turn, and the service's processor time for a row, of /decode
(latents to images) and /encode (images to posteriors), to clients.md. Service and caller share the machine; the caller
writes each request once. That all protocols give the same rows is tested in tests/service.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc
from safetensors.numpy import save

from benchmarks.contenders import VAE_SERVE
from benchmarks.harness.load import Call, ask, connect, serving
from benchmarks.harness.pages import table, write_section
from benchmarks.harness.processes import ProcessTree

ROWS = (1, 64, 1000, 10_000)
ROUNDS = 7
GOAL = 0.1
"""Of the rows per second of npy that the Open Inference Protocol may lack."""

Array = npt.NDArray[np.float32]


class Cost(NamedTuple):
    """Of a protocol: rows per second, and microseconds of the service's processor time for a row."""

    rate: float
    processor: float


def calls(path: str, array: Array, tensor: str, model_input: str, outputs: Sequence[str]) -> dict[str, Call]:
    """A request of the same rows in each protocol: their safetensors name, and those of the inference protocol."""
    file = io.BytesIO()
    np.save(file, array)
    parameters = {"binary_data_size": array.nbytes}
    tensors = [{"name": model_input, "datatype": "FP32", "shape": list(array.shape), "parameters": parameters}]
    requested = [{"name": output, "parameters": {"binary_data": True}} for output in outputs]
    head = json.dumps({"inputs": tensors, "outputs": requested}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}

    def plain(content_type: str, body: bytes) -> Call:
        return Call("POST", path, body, {"Content-Type": content_type, "Accept": content_type})

    return {
        "npy": plain("application/x-npy", file.getvalue()),
        "oip": Call("POST", "/v2/models/mnist/infer", head + array.tobytes(), length),
        "safetensors": plain("application/x-safetensors", save({tensor: array})),
        "arrow": plain("application/vnd.apache.arrow.stream", arrow(array)),
    }


def arrow(array: Array) -> bytes:
    """An Arrow IPC stream of one column."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"rows": pa.FixedShapeTensorArray.from_numpy_ndarray(array)})
    with ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def measure(
    tree: ProcessTree, connection: HTTPConnection, requests: Mapping[str, Call], rows: int, seconds: float
) -> dict[str, Cost]:
    """Each protocol, in turn with the others; `rows` in a request."""
    rates, answered, processor = (dict.fromkeys(requests, 0.0) for _ in range(3))
    for _ in range(ROUNDS):
        for name, call in requests.items():
            count, before, start = 0, tree.cpu_seconds(), time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds:
                ask(connection, call)
                count += rows
            rates[name] = max(rates[name], count / elapsed)
            processor[name] += tree.cpu_seconds() - before
            answered[name] += count
    return {name: Cost(rates[name], 1e6 * processor[name] / answered[name]) for name in requests}


def report(measured: Mapping[str, Mapping[str, Cost]], seconds: float) -> list[str]:
    """Paragraphs and tables; beside each value the difference from npy's."""
    names = list(next(iter(measured.values())))
    head = ["", *(name if name == "npy" else f"{name}, beside npy" for name in names)]

    def rows(field: str) -> Iterator[list[str]]:
        for workload, costs in measured.items():
            values = {name: getattr(cost, field) for name, cost in costs.items()}
            beside = {name: f"{value:,.4g}, {value / values['npy'] - 1:+.1%}" for name, value in values.items()}
            yield [workload, *(beside | {"npy": f"{values['npy']:,.4g}"}).values()]

    lacks = {workload: 1 - costs["oip"].rate / costs["npy"].rate for workload, costs in measured.items()}
    short = [f"{workload} ({lack:.1%} fewer)" for workload, lack in lacks.items() if lack > GOAL]
    return [
        f"`oip` is the Open Inference Protocol with binary tensors, as Triton's client sends them. {ROUNDS} rounds of "
        f"{seconds:g} s for each protocol in turn, one connection, the service on one core. Goal: `oip` within "
        f"{GOAL:.0%} of npy's rows per second; {'missed by ' + ', '.join(short) if short else 'reached by all'}.",
        "Rows per second, the best round:",
        table(head, rows("rate")),
        "Processor time of the service for a row, µs:",
        table(head, rows("processor")),
    ]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.2
    random = np.random.default_rng(0)
    measured: dict[str, dict[str, Cost]] = {}
    with serving(VAE_SERVE, 0) as (tree, port):
        connection = connect(port)
        for rows in ROWS:
            z, x = random.standard_normal((rows, 3), np.float32), random.random((rows, 1, 28, 28), np.float32)
            decode = calls("/decode", z, "z", "z", ["image"])
            encode = calls("/encode", x, "pixels", "image", ["mean", "log_variance"])
            for name, requests in ((f"decode {rows:,}", decode), (f"encode {rows:,}", encode)):
                measured[name] = measure(tree, connection, requests, rows, seconds)
    write_section("The same rows in each protocol", "protocols", *report(measured, seconds))


if __name__ == "__main__":
    main()
