"""Client.map: many items in several requests at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.client.clients import AnyClient, Connect
from tests.client.fake_server import MODEL, fake_server, response
from tests.service.pictures import Bytes, npy, png
from tests.service.running import Running
from vae_client import Client, UnprocessableEntityError
from vae_client.batches import BATCH_BYTES, split


def sizes(items: Any, size: int = 1000) -> list[int]:
    return [len(batch) for batch in split(items, size)]


def test_arrays_are_split_without_a_copy() -> None:
    items = np.zeros((2500, 28, 28), np.uint8)
    assert sizes(items) == [1000, 1000, 500]
    assert all(np.shares_memory(batch, items) for batch in split(items, 1000))
    assert [batch.shape for batch in split(items[:5], 2)] == [(2, 1, 28, 28), (2, 1, 28, 28), (1, 1, 28, 28)]
    assert sizes(torch.zeros(2500, 3)) == [1000, 1000, 500]
    assert sizes(items[:0]) == []


def test_large_items_are_in_small_batches(tmp_path: Path, images: Bytes) -> None:
    third = np.zeros((5, BATCH_BYTES // 3), np.uint8)
    assert sizes(third) == [3, 2]
    assert sizes(torch.from_numpy(third)) == [3, 2]
    assert sizes(list(third)) == [3, 2]
    assert sizes([torch.from_numpy(row) for row in third]) == [3, 2]
    assert sizes([row.tobytes() for row in third]) == [3, 2]
    (tmp_path / "large").write_bytes(third[0].tobytes())
    assert sizes([tmp_path / "large"] * 2 + [str(tmp_path / "large")] * 3) == [3, 2]
    assert sizes([Image.new("RGB", (1024, BATCH_BYTES // 1024 // 9))] * 5) == [3, 2]
    assert sizes(np.zeros((2, BATCH_BYTES + 1), np.uint8)) == [1, 1]
    assert sizes([bytes(BATCH_BYTES + 1)] * 2) == [1, 1]
    assert sizes([[0.0, 0.0, 0.0]] * 2500) == [1000, 1000, 500]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_results_are_in_order(client: AnyClient, images: Bytes, as_tensor: bool) -> None:
    many: Any = np.tile(images, (23, 1, 1))[:4501]
    many = torch.from_numpy(many) if as_tensor else many
    results = list(client.map("encode", many, size=500, in_flight=3))
    assert [len(result.mean) for result in results] == [500] * 9 + [1]
    one = client.call("encode", images).mean
    np.testing.assert_array_equal(np.concatenate([result.mean for result in results]), np.tile(one, (23, 1))[:4501])


def test_latents_and_reconstructions(connect: Connect, url: str, images: Bytes) -> None:
    client = connect(url)
    z = np.random.default_rng(0).standard_normal((2100, 3), np.float32)
    decoded = np.concatenate([result.pixels for result in client.map("decode", z)])
    np.testing.assert_array_equal(decoded, client.call("decode", z).pixels)
    pictures = [png(image) for image in images[:10]]
    assert [len(result.pixels) for result in client.map("reconstruct", pictures, size=3)] == [3, 3, 3, 1]


def test_items_are_read_as_needed(client: AnyClient) -> None:
    read = 0

    def items() -> Iterator[list[float]]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield [0.0, 0.0, 0.0]

    results = client.map("decode", items(), size=10, in_flight=3)
    for taken in range(1, 6):
        assert next(results).pixels.shape == (10, 1, 28, 28)
        assert read <= (taken + 3) * 10 + 1
    results.close()  # type: ignore[attr-defined]
    assert read <= 90


def test_in_flight_limits_the_requests(connect: Connect) -> None:
    body = response(npy(np.zeros((10, 1, 28, 28), np.float32)), media_type="application/x-npy")
    with fake_server((0.3, body)) as server:
        assert len(list(connect(server.url).map("decode", np.zeros((80, 3)), size=10, in_flight=4))) == 8
    assert server.max_in_flight == 4
    assert {request.connection for request in server.requests} == set(range(4))


def test_an_error_ends_the_iteration(client: AnyClient) -> None:
    z = np.zeros((1000, 3))
    z[450] = np.nan
    results = client.map("decode", z, size=100, in_flight=2)
    for _ in range(4):
        next(results)
    with pytest.raises(UnprocessableEntityError, match="not finite"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    assert client.call("model").latent_dim == 3


def test_the_progress_bar(connect: Connect, capsys: pytest.CaptureFixture[str]) -> None:
    z = np.zeros((200, 3))
    with fake_server((response(npy(np.zeros((50, 1, 28, 28), np.float32)), media_type="application/x-npy"),)) as server:
        client = connect(server.url)
        list(client.map("decode", z, size=50))
        assert "/200" not in capsys.readouterr().err  # a service in this process may have logged there
        list(client.map("decode", z, size=50, progress=True))
        assert "200/200" in capsys.readouterr().err
        list(client.map("decode", iter(z), size=50, progress=True))
        assert "200 items" in capsys.readouterr().err


def test_threads_share_a_client(served: Running, url: str) -> None:
    with Client(url) as client:
        names: list[str] = []
        threads = [threading.Thread(target=lambda: names.append(client.model().name)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(names) == 20


@pytest.mark.parametrize("name", ["size", "in_flight"])
def test_bounds_must_be_positive(client: AnyClient, name: str) -> None:
    bound: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        next(client.map("decode", [[0.0, 0.0, 0.0]], **bound))


def test_no_items(connect: Connect) -> None:
    with fake_server((MODEL,)) as server:
        assert list(connect(server.url).map("decode", [])) == []
    assert not server.requests
