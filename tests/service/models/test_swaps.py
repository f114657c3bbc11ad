"""Versions that come in while requests run, on real sockets, with two workers."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest

from tests.live import LiveServer, live_server
from tests.service.models.small_models import put, write
from tests.service.processes.test_supervisor import workers
from tests.service.running import wait_until

pytestmark = pytest.mark.slow

SWAPS = 20
ROUTES = ("/decode", "/decode?scale=2", "/remote/decode?shape=1&shape=3&output_type=pt")
BODIES = (b"[0.3, 1.6, -2.4]", b'{"z": [[0.3, 1.6, -2.4], [0, 0, 0]]}', bytes(12))
HEADERS: tuple[dict[str, str], ...] = (
    {"content-type": "application/json"},
    {"content-type": "application/json", "accept": "application/json"},
    {"content-type": "tensor/binary"},
)
"""Small requests of the fast path, batches, and those of another protocol."""


@dataclass(frozen=True)
class Answer:
    sent: float
    received: float
    model: int


@dataclass
class Swaps:
    """When each content was put into place, and first answered."""

    put: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)

    def allowed(self, answer: Answer) -> set[int]:
        """The contents that may answer: all since the last one that had answered before the request was sent."""
        first = max((n for n, at in enumerate(self.seen) if at < answer.sent), default=0)
        return {n % 2 for n, at in enumerate(self.put) if n == first or (n > first and at < answer.received)}


class Client(Thread):
    """Asks for the model x until it is stopped, on one connection."""

    def __init__(self, server: LiveServer, kind: int, expected: dict[bytes, int], stopped: Event) -> None:
        super().__init__()
        self.answers: list[Answer] = []
        self.strange: list[httpx.Response] = []
        self._server, self._kind, self._expected, self._stopped = server, kind, expected, stopped

    def run(self) -> None:
        with httpx.Client(base_url=self._server.url, trust_env=False) as client:
            while not self._stopped.is_set():
                sent = time.monotonic()
                response = ask(client, "x", self._kind)
                model = self._expected.get(response.content)
                if response.status_code != 200 or model is None:
                    self.strange.append(response)
                else:
                    self.answers.append(Answer(sent, time.monotonic(), model))


def ask(client: httpx.Client, model: str, kind: int) -> httpx.Response:
    return client.post(f"/models/{model}{ROUTES[kind]}", content=BODIES[kind], headers=HEADERS[kind])


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1)]


@pytest.fixture
def repository(tmp_path: Path, sources: list[Path]) -> Path:
    """A folder of the models a and b, and x, which is a."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name, source in (("a", sources[0]), ("b", sources[1]), ("x", sources[0])):
        put(source, folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def server(repository: Path) -> Iterator[LiveServer]:
    with live_server("--models", str(repository), "--workers", "2") as server:
        wait_until(lambda: len(workers(server)) == 2)
        yield server


def models(server: LiveServer) -> dict[str, Any]:
    listed = server.get("/models").json()["models"]
    return {f"{each['name']}/{each['version']}": each for each in listed}


def test_no_answer_is_lost_mixed_or_stale(server: LiveServer, repository: Path, sources: list[Path]) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        expected = [
            {ask(client, name, kind).content: model for model, name in enumerate("ab")} for kind in range(len(ROUTES))
        ]
    assert [len(each) for each in expected] == [2] * len(ROUTES)
    stopped = Event()
    clients = [Client(server, number % len(ROUTES), expected[number % len(ROUTES)], stopped) for number in range(6)]
    swaps = Swaps(put=[0.0], seen=[0.0])
    for each in clients:
        each.start()
    try:
        for number in range(1, SWAPS + 1):
            wait_until(lambda: all(each.answers or each.strange for each in clients))
            swaps.put.append(time.monotonic())
            put(sources[number % 2], repository / "x.safetensors")
            server.process.send_signal(signal.SIGHUP)
            since = len(clients[0].answers)
            wait_until(lambda s=since, n=number: any(a.model == n % 2 for a in clients[0].answers[s:]))  # type: ignore[misc]
            swaps.seen.append(max(a.received for a in clients[0].answers if a.model == number % 2))
    finally:
        stopped.set()
        for each in clients:
            each.join()
    assert [each.strange for each in clients] == [[]] * len(clients)
    answers = [answer for each in clients for answer in each.answers]
    assert len(answers) > 10 * SWAPS
    assert {answer.model for answer in answers} == {0, 1}
    assert [answer for answer in answers if answer.model not in swaps.allowed(answer)] == []


def test_a_worker_that_is_killed_while_it_loads(server: LiveServer, repository: Path, sources: list[Path]) -> None:
    """The other one goes on; the replacement answers by what is committed."""
    killed, other = workers(server)
    os.kill(killed, signal.SIGSTOP)  # it cannot report
    before = models(server)["x/1"]["sha256"]
    put(sources[1], repository / "x.safetensors")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: models(server)["x/1"]["state"] == "loading")
    assert models(server)["x/1"]["sha256"] == before
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(workers(server)) == 3)
    after = models(server)["b/1"]["sha256"]
    wait_until(lambda: models(server)["x/1"]["sha256"] == after)
    os.kill(other, signal.SIGSTOP)
    try:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert ask(client, "x", 0).content == ask(client, "b", 0).content
    finally:
        os.kill(other, signal.SIGCONT)


def test_a_replacement_begins_with_what_is_committed(server: LiveServer, repository: Path, sources: list[Path]) -> None:
    put(sources[1], repository / "x.safetensors")
    after = models(server)["b/1"]["sha256"]
    wait_until(lambda: models(server)["x/1"]["sha256"] == after)
    for worker in workers(server):
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(workers(server)) == 4)
    for worker in workers(server)[2:]:
        os.kill(worker, signal.SIGSTOP)  # so that the other one answers
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert ask(client, "x", 0).content == ask(client, "b", 0).content
        os.kill(worker, signal.SIGCONT)


def test_bad_files_are_told_and_not_served(server: LiveServer, repository: Path, sources: list[Path]) -> None:
    good = sources[1].read_bytes()
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    name = "decoder.0.weight" if "decoder.0.weight" in header else "mean_layer.weight"
    wide = json.dumps(header | {name: header[name] | {"shape": header[name]["shape"][::-1]}}).encode()
    start = 8 + size + header[name]["data_offsets"][0]
    bad = {
        "it is not a complete safetensors file": good[: len(good) // 2],
        "header too large": b"\x80\x04\x95 a pickle" + bytes(500),
        "not finite": good[:start] + b"\x00\x00\xc0\x7f" + good[start + 4 :],
        "it must be": len(wide).to_bytes(8, "little") + wide + good[8 + size :],
        "other results": corrupt(good, 8 + size),
    }
    served = models(server)["x/1"]["sha256"]
    for sentence, content in bad.items():
        (repository.parent / "bad").write_bytes(content)
        put(repository.parent / "bad", repository / "x.safetensors")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda s=sentence: s in (models(server)["x/1"]["reason"] or ""), limit=60)  # type: ignore[misc]
        state = models(server)["x/1"]
        assert (state["state"], state["sha256"]) == ("failed", served)
        assert sentence in server.log
        assert 'vae_model_failed{model="x",version="1"} 1.0' in server.get("/metrics").text
    put(sources[1], repository / "x.safetensors")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: models(server)["x/1"]["state"] == "ready")
    assert models(server)["x/1"]["sha256"] != served
    assert 'vae_model_failed{model="x",version="1"} 0.0' in server.get("/metrics").text


def corrupt(content: bytes, start: int) -> bytes:
    """A checkpoint with the weights negated: finite, but not those of its probes."""
    data = bytearray(content)
    for index in range(start + 3, len(data), 4):
        data[index] ^= 0x80
    return bytes(data)


def test_a_file_that_is_half_written_is_served_once_it_is_whole(
    server: LiveServer, repository: Path, sources: list[Path]
) -> None:
    content = sources[1].read_bytes()
    with (repository / "y.safetensors").open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        wait_until(lambda: "not a complete" in (models(server).get("y/1", {}).get("reason") or ""))
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert ask(client, "y", 0).status_code == 404
        file.write(content[len(content) // 2 :])
    wait_until(lambda: models(server).get("y/1", {}).get("state") == "ready")
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert ask(client, "y", 0).content == ask(client, "b", 0).content
