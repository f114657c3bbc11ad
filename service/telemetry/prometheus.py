"""The metrics of all workers, for Prometheus; `exposition` renders them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from mmap import PAGESIZE
from pathlib import Path

import orjson

from service.telemetry.counters import Counters, CountersByModel
from service.telemetry.shared_memory import SharedSnapshots

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PUBLISH_INTERVAL_S = 1
"""Seconds between two snapshots, and so the age of other workers' values in a scrape."""
CPU = "process_cpu_seconds_total"

Model = tuple[str, str]
"""Name and version of a model."""
NO_MODEL: Model = ("", "")
Gauge = tuple[str, Callable[[], Mapping[Model, float]]]
"""Help text, and the value for each model; for NO_MODEL alone if it belongs to none."""


class Metrics:
    """The metrics of one worker, which publishes them each second, so that every worker can give those of all."""

    def __init__(self, snapshots: SharedSnapshots, worker: int) -> None:
        """`worker` is an index into `snapshots`; its counters continue those of its predecessor."""
        self.by_model = CountersByModel()
        self.starts = 1
        """Starts of this worker and its predecessors."""
        self.gauges: dict[str, Gauge] = {}
        self.info: Callable[[], Iterable[Mapping[str, str]]] = lambda: ()
        """Returns the labels of vae_model_info, for each model."""
        self.failed: Callable[[], Mapping[Model, bool]] = dict
        """Returns whether the newest files of each model cannot be served."""
        self._snapshots = snapshots
        self._worker = worker
        self._process: dict[str, float] = {}
        """Latest values of the process; without a free file descriptor, only its processor time is newer."""
        self._cpu_before = 0.0
        """CPU seconds of this worker's predecessors."""
        self._is_rendering = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None
        """The rendering that waits for the current one."""
        if before := snapshots.read(worker):
            snapshot = orjson.loads(before)
            self.by_model.add(snapshot["counters"])
            self.starts += snapshot["starts"]
            self._cpu_before = snapshot["process"].get(CPU, 0)

    @property
    def counters(self) -> Counters:
        """The counters of what belongs to no model."""
        return self.by_model[NO_MODEL]

    def keep_publishing(self) -> None:
        """Publish now and each second, even if this time fails."""
        asyncio.get_running_loop().call_later(PUBLISH_INTERVAL_S, self.keep_publishing)
        self.publish()

    def publish(self) -> None:
        """Publish a snapshot for the other workers."""
        self._process |= _read_process()
        snapshot = {
            "counters": self.by_model.snapshot(),
            "starts": self.starts,
            "gauges": [[name, *model, n] for name, (_, value) in self.gauges.items() for model, n in value().items()],
            "process": self._process | {CPU: self._process[CPU] + self._cpu_before},
        }
        self._snapshots.publish(self._worker, orjson.dumps(snapshot))

    async def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format.

        They are rendered in a thread, once at a time; requests that arrive meanwhile share the next rendering.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._render_next())
        return await asyncio.shield(self._next)  # a client that disconnects does not cancel it for the others

    async def _render_next(self) -> bytes:
        async with self._is_rendering:
            self._next = None
            self.publish()
            state = list(self.info()), self.failed()
            return await asyncio.to_thread(self._render, self._snapshots.read_all(), *state)

    def _render(
        self, snapshots: Sequence[bytes], info: Sequence[Mapping[str, str]], failed: Mapping[Model, bool]
    ) -> bytes:
        from service.telemetry.exposition import render  # noqa: PLC0415 - slow, and not every service is scraped

        return render(snapshots, {name: text for name, (text, _) in self.gauges.items()}, info, failed)


def _read_process() -> dict[str, float]:
    """Return metrics of this process; without /proc, or a free file descriptor, its processor time alone."""
    values = {CPU: time.process_time()}
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        values["process_resident_memory_bytes"] = pages * PAGESIZE
        values["process_open_fds"] = len(list(Path("/proc/self/fd").iterdir()))
    return values
