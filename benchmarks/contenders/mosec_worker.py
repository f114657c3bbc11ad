"""mosec: HTTP in Rust, and one worker process of Python that gets batches over a socket.

python -m benchmarks.contenders.mosec_worker --address 127.0.0.1 --port PORT
"""

from __future__ import annotations

import orjson
from mosec import Server, Worker  # type: ignore[import-not-found]  # in a venv of its own

from benchmarks.contenders.onnx_digits import decode, load_backend


class Decoder(Worker):  # type: ignore[misc]  # as above
    """The steps as mosec documents them."""

    resp_mime_type = "image/png"

    def __init__(self) -> None:
        super().__init__()
        self._backend = load_backend()

    def deserialize(self, data: bytes) -> list[float]:
        """The body to a latent."""
        z: list[float] = orjson.loads(data)["z"]
        return z

    def forward(self, data: list[list[float]]) -> list[bytes]:
        """A batch of latents to PNGs."""
        return decode(self._backend, data)

    def serialize(self, data: bytes) -> bytes:
        """A PNG to the answer."""
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decoder, max_batch_size=64, max_wait_time=1, route="/decode")
    server.run()
