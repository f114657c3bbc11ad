"""LitServe: one worker on the CPU, batches of as many requests as wait.

    python -m benchmarks.contenders.lit PORT BATCH_SIZE

With a batch size of 1 LitServe calls `predict` for each request, without `batch` and `unbatch`.
"""

from __future__ import annotations

import sys
from typing import Any

import litserve as ls  # type: ignore[import-not-found]  # in a venv of its own
from starlette.responses import Response

from benchmarks.contenders import digits


class Decoder(ls.LitAPI):  # type: ignore[misc]  # as above
    """The steps as LitServe documents them; batches are made and taken apart by its defaults."""

    def setup(self, device: str) -> None:
        """Load the model, once a worker."""
        self.model = digits.load_model()

    def decode_request(self, request: dict[str, list[float]]) -> list[float]:
        """The body to a latent."""
        return request["z"]

    def predict(self, x: Any) -> Any:
        """A batch, or the one latent where there are no batches, to PNGs."""
        if self.max_batch_size == 1:
            return digits.decode(self.model, [x])[0]
        return digits.decode(self.model, x)

    def encode_response(self, output: bytes) -> Response:
        """A PNG to the answer."""
        return Response(output, media_type="image/png")


if __name__ == "__main__":
    port, batch_size = map(int, sys.argv[1:])
    api = Decoder(max_batch_size=batch_size, api_path="/decode")
    ls.LitServer(api, accelerator="cpu").run(host="127.0.0.1", port=port, generate_client_file=False, access_log=False)
