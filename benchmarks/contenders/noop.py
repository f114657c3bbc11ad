"""FastAPI at its least: an endpoint with a pydantic body that does nothing."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel

BODY = bytes(400)


class Latent(BaseModel):
    """What is sent."""

    z: list[float]


app = FastAPI()


@app.post("/decode")
async def decode(_: Latent) -> Response:
    return Response(BODY, media_type="image/png")
