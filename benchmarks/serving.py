"""The service under load, against the limit of its server, a FastAPI that does nothing, and other servers.

    python -m benchmarks.serving [--rounds N] [--seconds S] [--only NAME ...] [--quick] [--out DIR]

wants Linux, two cores that have nothing else to do, `wrk` and `taskset`. It writes results.json, serving.md and
serving.png to DIR. benchmarks/contenders lists what is measured, benchmarks/report.py the goals.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import report
from benchmarks.contenders import CONTENDERS, PORT, VAE_SERVE, digits, framework_versions
from benchmarks.harness.load import CALLS, LATENT, Call, ask, connect, load, serving, wrk_version
from benchmarks.harness.pages import describe_machine
from benchmarks.harness.processes import launched
from benchmarks.report import CONNECTIONS, CURVE, CURVES

HERE = Path(__file__).parent
PACKAGES = ("starlette", "uvloop", "httptools", "pydantic", "numpy", "pillow")
DECODE, NPY = CALLS["decode"], "application/x-npy"
QUICK_CURVE = (1, 32, 128, 512)
WARM_UP_S = 1
STARTS = 3
READY_POLL_S = 0.002
BULK_ROWS = 10_000
WORKERS = (1, 2)
SLOW_PASS_S, SLOW_BATCH = 0.05, 64
SLOW_LEAST_S = 5
"""A load is at least as long: a second has twenty batches, of which the first and the last are cut."""
COUNTING_TURNS = 5


def measure_contender(name: str, core: int, options: argparse.Namespace) -> dict[str, Any]:
    """Loads by `call/connections`; RuntimeError where it does not answer with the model's picture."""
    contender = CONTENDERS[name]
    curve = QUICK_CURVE if options.quick else CURVE
    calls = [("decode", connections) for connections in (curve if name in CURVES else (CONNECTIONS,))]
    if name == "ours":
        calls += [(call, CONNECTIONS) for call in ("encode", "reconstruct", "sample")]
    with serving(contender.command, core, DECODE) as (_, port):
        if contender.decodes:
            check_picture(ask(connect(port), DECODE))
        load(port, DECODE, CONNECTIONS, WARM_UP_S)
        return {f"{call}/{count}": asdict(load(port, CALLS[call], count, options.seconds)) for call, count in calls}


def check_picture(png: bytes) -> None:
    """Raise RuntimeError unless it differs from the decoder's own picture by one grey level at most."""
    pictures = (png, *digits.decode(digits.load_model(), [LATENT]))
    got, expected = (np.asarray(Image.open(io.BytesIO(each), formats=["PNG"]).convert("L"), int) for each in pictures)
    if (difference := np.abs(got - expected).max()) > 1:
        raise RuntimeError(f"The picture differs from the model's by {difference} of 255.")


def measure_bulk(core: int, options: argparse.Namespace) -> dict[str, float]:
    """Latents per second, BULK_ROWS in a request: in process, npy → npy and JSON → npy."""
    z = np.random.default_rng(0).standard_normal((BULK_ROWS, len(LATENT)), np.float32)
    npy = io.BytesIO()
    np.save(npy, z)
    bodies = {"npy": (NPY, npy.getvalue()), "json": ("application/json", json.dumps(z.tolist()).encode())}
    program = f"from benchmarks.batches import service_rate; print(service_rate({BULK_ROWS}, {options.seconds}))"
    with launched([sys.executable, "-c", program], core) as tree:
        tree.main.wait()
        rates = {"in_process": float(tree.log_file.read_text())}
    with serving(VAE_SERVE, core) as (_, port):
        connection = connect(port)
        for name, (content_type, body) in bodies.items():
            call = Call("POST", "/decode", body, {"Content-Type": content_type, "Accept": NPY})
            images = np.load(io.BytesIO(ask(connection, call)))
            if images.shape != (BULK_ROWS, 1, 28, 28):
                raise RuntimeError(f"{BULK_ROWS} latents as {content_type} gave an array {images.shape}.")
            calls, start = 0, time.perf_counter()
            while (seconds := time.perf_counter() - start) < options.seconds:
                ask(connection, call)
                calls += 1
            rates[name] = calls * BULK_ROWS / seconds
    return rates


def measure_startup(core: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds from exec to ready, and those of `import torch`, in turn."""
    seconds: dict[str, list[float]] = {"import_torch": [], "ready": []}
    for _ in range(1 if options.quick else STARTS):
        start = time.perf_counter()
        with launched([sys.executable, "-c", "import torch"], core) as tree:
            tree.main.wait()
            seconds["import_torch"].append(time.perf_counter() - start)
        start = time.perf_counter()
        with serving(VAE_SERVE, core, interval=READY_POLL_S):
            seconds["ready"].append(time.perf_counter() - start)
    return seconds


def measure_workers(core: int, options: argparse.Namespace) -> dict[str, Any]:
    """Memory after a load, MB a process, and processor seconds per 1,000 requests, by the number of workers.

    Each worker has CONNECTIONS, so that batches are of the same size, however many workers there are.
    """
    result: dict[str, Any] = {}
    for count in WORKERS:
        with serving([*VAE_SERVE, "--workers", str(count)], core) as (tree, port):
            load(port, DECODE, count * CONNECTIONS, 2 * WARM_UP_S)
            before = tree.cpu_seconds()
            sent = load(port, DECODE, count * CONNECTIONS, options.seconds)
            spent = tree.cpu_seconds() - before
            result[str(count)] = {
                "memory_mb": tree.memory_mb(),
                "cpu_seconds_per_1000": 1000 * spent / sent.requests,
                "load": asdict(sent),
            }
    return result


def measure_slow(core: int, options: argparse.Namespace) -> dict[str, Any]:
    """A model that takes SLOW_PASS_S a batch: a load of a whole batch's connections, and /livez during another one."""
    seconds = max(options.seconds, SLOW_LEAST_S)
    command = [sys.executable, "-m", "benchmarks.variants", "slow", str(SLOW_PASS_S), "--port", PORT]
    with (
        serving([*command, "--micro-batch-limit", str(SLOW_BATCH)], core) as (_, port),
        ThreadPoolExecutor() as threads,
    ):
        load(port, DECODE, SLOW_BATCH, WARM_UP_S)
        decode = load(port, DECODE, SLOW_BATCH, seconds)
        livez = threads.submit(load, port, CALLS["livez"], 1, seconds)
        load(port, DECODE, SLOW_BATCH, seconds)
        loads = {"decode": asdict(decode), "livez": asdict(livez.result())}
    return {"best": SLOW_BATCH / SLOW_PASS_S, str(SLOW_BATCH): loads}


def measure_counting(core: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Requests per second of the service with and without counting for /metrics, in turn."""
    rates: dict[str, list[float]] = {"counted": [], "uncounted": []}
    uncounted = [sys.executable, "-m", "benchmarks.variants", "uncounted", "--port", PORT]
    with serving(VAE_SERVE, core) as (_, port), serving(uncounted, core) as (_, uncounted_port):
        ports = dict(zip(rates, (port, uncounted_port), strict=True))
        for each in ports.values():
            load(each, DECODE, CONNECTIONS, WARM_UP_S)
        for _ in range(COUNTING_TURNS):
            for name, each in ports.items():
                rates[name].append(load(each, DECODE, CONNECTIONS, max(1, options.seconds // 2)).rate)
    return rates


SECTIONS = {
    "bulk": measure_bulk,
    "startup": measure_startup,
    "workers": measure_workers,
    "slow": measure_slow,
    "counting": measure_counting,
}


def main() -> None:
    options = parse_options()
    missing = [program for program in ("wrk", "taskset") if shutil.which(program) is None]
    cores = sorted(os.sched_getaffinity(0))
    if missing or len(cores) < 2:
        sys.exit(f"make bench wants {', '.join([*missing, 'two cores'])}.")
    for name in CONTENDERS.keys() & set(options.only):
        CONTENDERS[name].set_up()
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "versions": {name: version(name) for name in PACKAGES} | framework_versions() | {"wrk": wrk_version()},
        "cores": cores[:2],
        "load_average": os.getloadavg()[0],
        "seconds": options.seconds,
        "failures": [],
        "rounds": [],
    }
    os.sched_setaffinity(0, {cores[1]})
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    for number in range(1, options.rounds + 1):
        measured: dict[str, Any] = {"loads": {}}
        results["rounds"].append(measured)
        for name in options.only:
            print(f"Round {number} of {options.rounds}: {name}", flush=True)
            try:
                if name in SECTIONS:
                    measured[name] = SECTIONS[name](cores[0], options)
                else:
                    measured["loads"][name] = measure_contender(name, cores[0], options)
            except Exception as error:  # the others are measured all the same
                print(error, file=sys.stderr)
                reason = str(error).partition("\n")[0] or type(error).__name__
                results["failures"].append(f"{name}, round {number}: {reason}")
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        report.write(options.out)
    print((options.out / "serving.md").read_text())


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*CONTENDERS, *SECTIONS]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="length of a load")
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="NAME", help=", ".join(every))
    parser.add_argument("--quick", action="store_true", help="one round of one second, fewer points: does it work?")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    return options


if __name__ == "__main__":
    main()
