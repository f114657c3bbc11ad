"""BentoML: one service, one worker.

    bentoml serve benchmarks.contenders.bento:Decoder

Without adaptive batching: a batchable method takes and gives lists, as JSON, so that pictures want a second service in
front of it. Those two together were measured at half the speed, and lost a fifth of the requests between them.
"""

from __future__ import annotations

from typing import Annotated

import bentoml  # type: ignore[import-not-found]  # in a venv of its own

from benchmarks.contenders import digits


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Decoder:
    """One request at a time."""

    def __init__(self) -> None:
        self.model = digits.load_model()

    @bentoml.api(route="/decode")  # type: ignore[untyped-decorator]  # as above
    def decode(self, z: list[float]) -> Annotated[bytes, bentoml.validators.ContentType("image/png")]:
        """A latent to its PNG."""
        return digits.decode(self.model, [z])[0]
