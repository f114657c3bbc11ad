"""vae-serve with one thing changed; FLAGs are those of vae-serve.

python -m benchmarks.variants slow PASS_S FLAG ...     each batch takes PASS_S seconds to decode
python -m benchmarks.variants uncounted FLAG ...       nothing is counted for /metrics

Nothing here imports torch: a variant is measured beside vae-serve, which does without.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from service.__main__ import main
from service.inference.backend import FloatArray
from service.inference.onnx_backend import OnnxBackend
from service.telemetry.counters import Counters, Histogram


def slow_down(pass_s: float) -> None:
    decode = OnnxBackend.decode

    def slow_decode(network: OnnxBackend, z: FloatArray) -> FloatArray:
        end = time.perf_counter() + pass_s
        logits = decode(network, z)
        time.sleep(max(0, end - time.perf_counter()))
        return logits

    OnnxBackend.decode = slow_decode  # type: ignore[assignment,method-assign]  # patched for the measurement


class _Uncounted(Counter[tuple[str, str, int, str]]):
    def __setitem__(self, _key: object, _count: int) -> None:
        return None


def count_nothing() -> None:
    make = Counters.__init__

    def make_uncounted(counters: Counters) -> None:
        make(counters)
        counters.requests = _Uncounted()

    def add(_: Histogram, _value: Any) -> None:
        return None

    Histogram.add = Histogram.add_all = add  # type: ignore[assignment,method-assign]  # as above
    Counters.__init__ = make_uncounted  # type: ignore[assignment,method-assign]  # as above


if __name__ == "__main__":
    match sys.argv.pop(1):
        case "slow":
            slow_down(float(sys.argv.pop(1)))
        case "uncounted":
            count_nothing()
        case other:
            sys.exit(f"There is no variant {other}: it is slow or uncounted.")
    main()
