"""Requests per second and latencies of one contender."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import wrk
from benchmarks.calls import CALLS
from benchmarks.client import Answer, free_port, wait_until_answered
from benchmarks.contender import CONTENDERS
from benchmarks.pinned import pinned

WARM_UP_S = 1
USUAL = 32
CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CURVES = ("bare", "noop", "ours")
OTHER_CALLS = ("encode", "reconstruct", "sample")


def measure(name: str, curve: Iterable[int], core: int, seconds: int, picture: bytes) -> dict[str, dict[str, Any]]:
    """Loads by `call/connections`; RuntimeError where the contender does not answer with `picture`."""
    contender = CONTENDERS[name]
    calls = [("decode", connections) for connections in (curve if name in CURVES else (USUAL,))]
    if name == "ours":
        calls += [(call, USUAL) for call in OTHER_CALLS]
    port = free_port()
    with pinned(contender.start_command(port), core, contender.environment) as process:
        answer = wait_until_answered(process, port, CALLS["decode"])
        if contender.decodes:
            check_picture(answer, picture)
        wrk.run(port, CALLS["decode"], USUAL, WARM_UP_S)
        return {
            f"{call}/{connections}": asdict(wrk.run(port, CALLS[call], connections, seconds))
            for call, connections in calls
        }


def check_picture(answer: Answer, picture: bytes) -> None:
    """Raise RuntimeError unless `answer` is a PNG that differs from `picture` by one grey level at most."""
    if answer.media_type != "image/png":
        raise RuntimeError(f"The answer is {answer.media_type}, not image/png: {answer.body[:200]!r}")
    with Image.open(io.BytesIO(answer.body), formats=["PNG"]) as image:
        got = np.asarray(image.convert("L"), np.int16).ravel()
    difference = int(np.abs(got - np.frombuffer(picture, np.uint8)).max())
    if difference > 1:
        raise RuntimeError(f"The picture differs from the model's by {difference} of 255.")
