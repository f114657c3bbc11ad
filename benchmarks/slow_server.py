"""vae-serve with a slow model.

    python -m benchmarks.slow_server PASS_S FLAG ...

Each batch takes PASS_S seconds to decode; the flags are those of vae-serve.
"""

from __future__ import annotations

import sys
import time

from service.__main__ import main
from service.inference.backend import FloatArray, OnnxBackend


def slow_down(pass_s: float) -> None:
    decode = OnnxBackend.decode

    def slow_decode(network: OnnxBackend, z: FloatArray) -> FloatArray:
        over = time.perf_counter() + pass_s
        logits = decode(network, z)
        time.sleep(max(0, over - time.perf_counter()))
        return logits

    OnnxBackend.decode = slow_decode  # type: ignore[assignment,method-assign]  # the one thing that is slow


if __name__ == "__main__":
    slow_down(float(sys.argv.pop(1)))
    main()
