"""What requests charge to the memory budget, and when it is released."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api import pictures
from service.api.offloading import INLINE_S, LONG_BACKLOG_S, LONG_S, Offloader
from service.errors import TooLarge, Unavailable
from service.formats.images import to_array
from service.memory_budget import RECEIVING_SHARE, SMALL_BODY, UNCOUNTED, MemoryBudget, Reservation
from tests.service.http.wire import connect
from tests.service.memory import LIMIT
from tests.service.problems import problem
from tests.service.running import Running, running, wait_until

MEGABYTE = 2**20


def test_too_large_requests_and_a_full_budget_are_different_errors() -> None:
    budget = MemoryBudget(10 * MEGABYTE)
    first, second = Reservation(budget), Reservation(budget)
    first.add(6 * MEGABYTE)
    with pytest.raises(Unavailable) as caught:
        second.add(5 * MEGABYTE)
    assert (caught.value.reason, caught.value.headers) == ("memory", {"Retry-After": "1"})
    with pytest.raises(TooLarge, match="about 12 MB of memory; 10 MB is the limit"):
        second.add(12_000_000)
    with pytest.raises(TooLarge, match="about 12 MB of memory; 10 MB is the limit"):  # both charges together
        first.add(5 * MEGABYTE + 200_000)
    first.close()
    second.add(5 * MEGABYTE)
    second.close()
    assert budget.used == 0


def test_small_allocations_are_not_charged() -> None:
    budget = MemoryBudget(MEGABYTE)
    reservation = Reservation(budget)
    reservation.add(UNCOUNTED)
    with reservation.hold(UNCOUNTED):
        assert budget.used == 0
    with reservation.hold(UNCOUNTED + 1):
        assert budget.used == UNCOUNTED + 1
    assert budget.used == 0


def test_incomplete_bodies_leave_room_for_others() -> None:
    budget = MemoryBudget(RECEIVING_SHARE * MEGABYTE)
    slow, other = Reservation(budget), Reservation(budget)
    slow.receive(MEGABYTE // 2)
    slow.receive(MEGABYTE)
    other.receive(SMALL_BODY)
    with pytest.raises(Unavailable):
        other.receive(SMALL_BODY + 1)
    slow.received(MEGABYTE + 100_000)
    other.receive(SMALL_BODY + 1)
    assert budget.used == MEGABYTE + 100_000 + SMALL_BODY + 1
    slow.close()
    other.close()
    assert budget.used == 0
    Reservation(budget).receive(MEGABYTE)  # the first two have left the share


def test_a_thread_that_cannot_be_cancelled_keeps_its_memory() -> None:
    budget, offloader, goes_on = MemoryBudget(MEGABYTE), Offloader(), Event()

    async def leave() -> None:
        reservation = Reservation(budget)
        reservation.add(MEGABYTE)
        work = asyncio.create_task(offloader.run(LONG_S, reservation, goes_on.wait))
        await asyncio.sleep(0.05)
        work.cancel()
        await asyncio.wait([work])
        reservation.close()
        assert budget.used == MEGABYTE
        goes_on.set()

    asyncio.run(leave())
    offloader.close()
    wait_until(lambda: budget.used == 0)


def test_short_work_does_not_wait_for_long_work_and_a_long_backlog_is_refused() -> None:
    offloader, goes_on = Offloader(), Event()

    async def come() -> None:
        requests = [Reservation(MemoryBudget(1)) for _ in range(10)]
        long = [asyncio.create_task(offloader.run(LONG_BACKLOG_S / 4, each, goes_on.wait)) for each in requests[:5]]
        await asyncio.sleep(0.02)
        with pytest.raises(Unavailable, match="waiting to be parsed"):
            await offloader.run(LONG_S + 1, requests[5], goes_on.wait)
        assert await offloader.run(LONG_S, requests[6], int, "7") == 7
        assert await offloader.run(INLINE_S, requests[7], int, "8") == 8
        again = asyncio.create_task(offloader.run(LONG_S + 1, requests[0], int, "9"))  # its first work ran in that pool
        goes_on.set()
        assert all(await asyncio.gather(*long))
        assert await again == 9
        assert await offloader.run(LONG_S + 1, requests[5], int, "5") == 5

    asyncio.run(come())
    offloader.close()


def test_failed_work_leaves_nothing_to_the_collector() -> None:
    """Its exception refers to arrays of a hundred megabytes."""
    offloader = Offloader()

    class Marked(Reservation):
        """Distinguishes this test's reservation."""

    def fail(reservation: Reservation) -> None:
        raise ValueError(reservation)

    async def come() -> None:
        reservation = Marked(MemoryBudget(1))
        try:
            await offloader.run(LONG_S, reservation, fail, reservation)
        except ValueError:
            reservation.close()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(come())
        assert not [each for each in gc.get_objects() if type(each) is Marked]
    finally:
        gc.enable()
        offloader.close()


# Over a socket.


@pytest.fixture(scope="module")
def tight() -> Any:
    """A service with little memory for requests."""
    with running(memory_limit=RECEIVING_SHARE * MEGABYTE * 2, body_limit=2 * MEGABYTE) as service:
        yield service


def used(service: Running) -> int:
    budget: MemoryBudget = service.app.state.memory
    return budget.used


def npy_of_zeros(count: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((count, 28, 28), np.uint8))
    return buffer.getvalue()


def post(client: httpx.Client, path: str, body: bytes, media_type: str, **headers: str) -> httpx.Response:
    return client.post(path, content=body, headers={"content-type": media_type, **headers})


NPY, JSON = "application/x-npy", "application/json"
LARGE: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "what a body unpacks to": (
        "/decode",
        gzip.compress(b" " * 10**7),
        {"content-type": JSON, "content-encoding": "gzip"},
    ),
    "arrays as float32": ("/encode", npy_of_zeros(2500), {"content-type": NPY}),
    "responses": ("/decode", b"[" + b"[0,0,0]," * 999 + b"[0,0,0]]", {"content-type": JSON, "accept": JSON}),
    "a PNG": ("/decode?scale=28", b"[[0,0,0],[0,0,0],[0,0,0],[0,0,0]]", {"content-type": JSON}),
    "values": ("/v2/models/mnist/infer", b"[" + b"0," * 900_000 + b"0]", {"content-type": JSON}),
}


@pytest.mark.parametrize("what", LARGE)
def test_each_kind_of_memory_is_charged(tight: Running, what: str) -> None:
    """A request that would take more than the whole limit is refused before it allocates."""
    path, body, headers = LARGE[what]
    response = tight.client.post(path, content=body, headers=headers)
    assert response.status_code == 413
    assert "memory" in response.text or "once decompressed" in response.text
    assert used(tight) == 0


def test_pixels_are_charged_while_a_picture_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        goes_on.wait(10)
        return to_array(*arguments, **options)

    monkeypatch.setattr(pictures, "to_array", slow)
    buffer = io.BytesIO()
    Image.new("RGBA", (2000, 2000)).save(buffer, "PNG")
    with running(memory_limit=40_000_000, body_limit=MEGABYTE) as service, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(post, service.client, "/encode", buffer.getvalue(), "image/png") for _ in range(2)]
        try:
            wait_until(lambda: used(service) > 20_000_000)
            wait_until(lambda: any(each.done() for each in asked))
        finally:
            goes_on.set()
        assert sorted(each.result().status_code for each in asked) == [200, 503]
        refused = next(each.result() for each in asked if each.result().status_code == 503)
        assert problem(refused, 503)["detail"].startswith("The memory for requests is in use")
        assert refused.headers["retry-after"] == "1"
        assert (
            'vae_refusals_total{model="mnist",reason="memory",version="1"} 1.0' in service.client.get("/metrics").text
        )
        assert used(service) == 0


def test_responses_that_wait_to_be_read_are_charged(served: Running) -> None:
    wait_until(lambda: used(served) == 0)
    with connect(served.port) as connection:
        connection.sendall(b"GET /sample?n=5000 HTTP/1.1\r\nhost: x\r\naccept: application/x-npy\r\n\r\n")
        size = 5000 * 28 * 28 * 4
        wait_until(lambda: served.admission.in_flight == 0 and 0.5 * size < used(served) <= size + 1000)
        assert f"vae_memory_bytes {used(served):.1f}"[:12] in served.client.get("/metrics").text
    wait_until(lambda: used(served) == 0)


def test_requests_that_wait_behind_others_are_charged(served: Running) -> None:
    """The service stops reading from a pipelining connection that does not read."""
    wait_until(lambda: used(served) == 0)
    request = b"GET /sample?n=2000 HTTP/1.1\r\nhost: x\r\naccept: application/x-npy\r\n\r\n"
    with connect(served.port) as connection:
        connection.sendall(request * 2000)
        wait_until(lambda: used(served) > 2000 * 28 * 28 * 4 + LIMIT)
    wait_until(lambda: used(served) == 0)
