"""Folders of diffusers among the models, and responses that are sent while they are computed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.api.test_events import HEADERS, read_events
from tests.service.api.test_videos import Paused, body_of, receive_until, request_of
from tests.service.models.small_models import put
from tests.service.pictures import read_mp4
from tests.service.running import Running, running, wait_until
from tests.vae.diffusion.networks import write_network

pytestmark = pytest.mark.slow

Z = [0.3, 1.6, -2.4]


@pytest.fixture
def mixed(folder: Path) -> Path:
    """The folder of models with a model of videos, wan."""
    write_network(folder / "wan", "AutoencoderKLWan")
    return folder


@pytest.fixture
def served(mixed: Path, impatient: None) -> Iterator[Running]:
    (mixed / "models.yaml").write_text("models: {wan: {dtype: bfloat16}}")
    with running(models=mixed) as service:
        yield service


def dtypes(service: Running) -> dict[str, str]:
    return {name: service.client.get(f"/models/{name}/model").json()["dtype"] for name in ("a", "wan")}


def test_a_model_has_a_dtype_of_its_own(served: Running) -> None:
    assert dtypes(served) == {"a": "float32", "wan": "bfloat16"}


def test_the_setting_is_that_of_folders_of_diffusers(mixed: Path) -> None:
    with running(models=mixed, dtype="bfloat16") as service:
        assert dtypes(service) == {"a": "float32", "wan": "bfloat16"}


def test_a_video_is_sent_to_its_end_by_the_model_that_began_it(served: Running, mixed: Path) -> None:
    models = served.app.state.models
    model = models.find("wan")
    paused = Paused(model.context.engine)
    request = request_of(np.zeros((4, 3, 2, 2), np.float32)).replace(b"/decode", b"/models/wan/decode")
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(request)
        received = receive_until(connection, b"moof")
        write_network(mixed / ".new", "AutoencoderKLWan", latents_mean=(1.0,) * 4)
        (mixed / "wan").rename(mixed / ".old")
        (mixed / ".new").rename(mixed / "wan")
        wait_until(lambda: any(each.name == "wan" and each is not model for each in models))
        assert (model.is_retired, model.requests) == (True, 1)
        assert model.context is not None
        paused.released.set()
        received += receive_until(connection, b"\r\n0\r\n\r\n")
    assert len(read_mp4(body_of(received))) == 9
    wait_until(lambda: model.context is None)


def test_events_end_with_the_result_of_the_model_that_began(served: Running, folder: Path, sources: list[Path]) -> None:
    models = served.app.state.models
    model = models.find("a")
    expected = served.client.post("/models/a/decode", json=Z, headers={"accept": "application/json"}).json()
    released, engine = Event(), model.context.engine
    decode = engine.decode

    async def decode_late(*arguments: Any, **options: Any) -> Any:
        await asyncio.to_thread(released.wait)
        return await decode(*arguments, **options)

    engine.decode = decode_late
    url = f"{served.client.base_url}/models/a/decode"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, url, json=Z, headers=HEADERS, timeout=20)
        wait_until(lambda: model.requests == 1)
        put(sources[2], folder / "a.safetensors")
        wait_until(lambda: models.find("a") is not model)
        assert (model.is_retired, model.context is None) == (True, False)
        released.set()
        assert read_events(waiting.result())[-1] == ("result", expected)
    wait_until(lambda: model.context is None)
