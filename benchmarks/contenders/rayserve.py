"""Ray Serve: one replica, `@serve.batch`.

    python -m benchmarks.contenders.rayserve PORT

The replica takes more requests at once than its default of five: else no batch could grow beyond five.
"""

from __future__ import annotations

import sys

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.contenders import digits

BATCH_SIZE = 64
QUIET = {"enable_access_log": False}


@serve.deployment(num_replicas=1, max_ongoing_requests=2 * BATCH_SIZE)
class Decoder:
    """One replica."""

    def __init__(self) -> None:
        self.model = digits.load_model()

    @serve.batch(max_batch_size=BATCH_SIZE)  # type: ignore[untyped-decorator]  # of a venv of its own
    async def decode(self, z: list[list[float]]) -> list[bytes]:
        """Latents that arrived together to their PNGs."""
        return digits.decode(self.model, z)

    async def __call__(self, request: Request) -> Response:
        """One request."""
        body = await request.json()
        return Response(await self.decode(body["z"]), media_type="image/png")


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config=QUIET)
    application = Decoder.bind()  # type: ignore[attr-defined]  # as above
    serve.run(application, route_prefix="/decode", blocking=True, logging_config=QUIET)
