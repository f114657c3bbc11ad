"""FastAPI as most people write it: a `def` endpoint, a pydantic body, eager torch, Pillow."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.contenders import digits


class Latent(BaseModel):
    """What is sent."""

    z: list[float]


app = FastAPI()
model = digits.load_model()


@app.post("/decode")
def decode(latent: Latent) -> Response:
    (png,) = digits.decode(model, [latent.z])
    return Response(png, media_type="image/png")
