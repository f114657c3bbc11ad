"""vae-serve with a request that blocks the event loop: python -m tests.soak.blocking FLAGS"""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

from service.__main__ import main
from service.inference.backend import ByteArray, FloatArray
from service.inference.engine import Engine

ROWS = 7
"""Number of images whose request blocks the event loop for BLOCKED_S."""
BLOCKED_S = 40
PATH = f"/sample?n={ROWS}"

draw = Engine.decode_scanlines


async def block(engine: Engine, z: FloatArray, **options: Any) -> ByteArray:
    """As `Engine.decode_scanlines`."""
    if len(z) == ROWS:
        time.sleep(BLOCKED_S)  # noqa: ASYNC251 - this is the fault
    return await draw(engine, z, **options)


if __name__ == "__main__":
    with mock.patch.object(Engine, "decode_scanlines", block):
        main()
