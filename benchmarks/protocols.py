"""The same rows in every binary protocol: npy, safetensors, Arrow, and the Open Inference Protocol's tensors.

python -m benchmarks.protocols [SECONDS]

Rows per second on one kept connection, best of rounds in turn, and the service's processor time for a row, of /decode
(latents to images) and /encode (images to posteriors), to clients.md. Service and caller share the machine; the caller
writes each request once, and reads the first answer.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPMessage
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc
from safetensors.numpy import load, save

from benchmarks.calls import CALLS
from benchmarks.client import TIMEOUT_S, free_port, wait_until_answered
from benchmarks.contender import CONTENDERS
from benchmarks.pinned import Pinned, pinned
from benchmarks.sections import table, write_section

NPY, SAFETENSORS, ARROW = "application/x-npy", "application/x-safetensors", "application/vnd.apache.arrow.stream"
LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/mnist/infer"
ROWS = (1, 64, 1000, 10_000)
ROUNDS = 7
GOAL = 0.1
"""Of the rows per second of npy that the Open Inference Protocol may lack."""

Array = npt.NDArray[Any]


class Request(NamedTuple):
    """One of a protocol, and how its answer is read."""

    path: str
    body: bytes
    headers: dict[str, str]
    read: Callable[[bytes, HTTPMessage], Array]
    rows: int = 1


class Cost(NamedTuple):
    """Of a protocol: rows per second, and microseconds of the service's processor time for a row."""

    rate: float
    processor: float


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.2
    port = free_port()
    measured: dict[str, dict[str, Cost]] = {}
    with pinned(CONTENDERS["ours"].start_command(port), 0) as process:
        wait_until_answered(process, port, CALLS["decode"])
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        for name, requests in workloads():
            check(connection, requests)
            measured[name] = measure(process, connection, requests, seconds)
    write_section("The same rows in each protocol", "protocols", *report(measured, seconds))


def workloads() -> Iterator[tuple[str, dict[str, Request]]]:
    """What is asked for, in each protocol."""
    random = np.random.default_rng(0)
    for rows in ROWS:
        z, x = random.standard_normal((rows, 3), np.float32), random.random((rows, 1, 28, 28), np.float32)
        yield f"decode {rows:,}", {name: each._replace(rows=rows) for name, each in decoding(z).items()}
        yield f"encode {rows:,}", {name: each._replace(rows=rows) for name, each in encoding(x).items()}


def measure(
    process: Pinned, connection: HTTPConnection, requests: Mapping[str, Request], seconds: float
) -> dict[str, Cost]:
    """Each protocol, in turn with the others."""
    rates, rows, processor = (dict.fromkeys(requests, 0.0) for _ in range(3))
    for _ in range(ROUNDS):
        for name, request in requests.items():
            before, start = process.cpu_seconds(), time.perf_counter()
            answered = repeat(connection, request, seconds) * request.rows
            rates[name] = max(rates[name], answered / (time.perf_counter() - start))
            processor[name] += process.cpu_seconds() - before
            rows[name] += answered
    return {name: Cost(rates[name], 1e6 * processor[name] / rows[name]) for name in requests}


def report(measured: Mapping[str, Mapping[str, Cost]], seconds: float) -> list[str]:
    """Paragraphs and tables; beside each value what it is more, or less, than npy's."""
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


def decoding(z: Array) -> dict[str, Request]:
    """Latents to images."""
    return {
        "npy": plain("/decode", npy(z), NPY, lambda body: np.load(io.BytesIO(body))),
        "oip": inference("z", z, "image"),
        "safetensors": plain("/decode", save({"z": z}), SAFETENSORS, lambda body: load(body)["pixels"]),
        "arrow": plain("/decode", arrow(z), ARROW, lambda body: column(body, "pixels").to_numpy_ndarray()),
    }


def encoding(x: Array) -> dict[str, Request]:
    """Images to means."""

    def means(body: bytes) -> Array:
        mean = column(body, "mean")
        return np.asarray(mean.flatten()).reshape(len(mean), -1)

    return {
        "npy": plain("/encode", npy(x), NPY, lambda body: np.load(io.BytesIO(body))[:, 0]),
        "oip": inference("image", x, "mean", "log_variance"),
        "safetensors": plain("/encode", save({"pixels": x}), SAFETENSORS, lambda body: load(body)["mean"]),
        "arrow": plain("/encode", arrow(x), ARROW, means),
    }


def plain(path: str, body: bytes, kind: str, read: Callable[[bytes], Array]) -> Request:
    """A request of the service's own, in a format and back."""
    return Request(path, body, {"Content-Type": kind, "Accept": kind}, lambda answer, _: read(answer))


def inference(name: str, array: Array, *outputs: str) -> Request:
    """A request of the Open Inference Protocol, whose tensors are binary."""
    size = {"binary_data_size": array.nbytes}
    tensor = {"name": name, "datatype": "FP32", "shape": list(array.shape), "parameters": size}
    wishes = [{"name": output, "parameters": {"binary_data": True}} for output in outputs]
    head = json.dumps({"inputs": [tensor], "outputs": wishes}).encode()

    def read(answer: bytes, headers: HTTPMessage) -> Array:
        length = int(headers[LENGTH])
        told = json.loads(answer[:length])["outputs"][0]
        end = length + told["parameters"]["binary_data_size"]
        return np.frombuffer(answer[length:end], "<f4").reshape(told["shape"])

    return Request(INFER, head + array.tobytes(), {LENGTH: str(len(head))}, read)


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def arrow(array: Array) -> bytes:
    """An Arrow IPC stream of one column."""
    sink = pa.BufferOutputStream()
    rows = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array[0].size)
    if array.ndim > 2:
        rows = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), array.shape[1:]), rows)
    batch = pa.record_batch({"rows": rows})
    with ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def column(body: bytes, name: str) -> Any:
    return ipc.open_stream(body).read_all()[name].combine_chunks()


def ask(connection: HTTPConnection, request: Request) -> tuple[bytes, HTTPMessage]:
    connection.request("POST", request.path, request.body, request.headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{request.path} was answered with {response.status}: {body[:200]!r}")
    return body, response.headers


def check(connection: HTTPConnection, requests: Mapping[str, Request]) -> None:
    """Raise RuntimeError unless all protocols give the same rows, to the bit."""
    answers = [request.read(*ask(connection, request)) for request in requests.values()]
    if not all(np.array_equal(answer, answers[0]) for answer in answers):
        raise RuntimeError(f"{', '.join(requests)} do not give the same rows.")


def repeat(connection: HTTPConnection, request: Request, seconds: float) -> int:
    """Ask again and again; how often."""
    count, stop = 0, time.perf_counter() + seconds
    while time.perf_counter() < stop:
        ask(connection, request)
        count += 1
    return count


if __name__ == "__main__":
    main()
