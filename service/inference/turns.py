"""The threads that compute batches, and the turns that long computations take with others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class _Job(NamedTuple):
    future: Future[Any]
    compute: Callable[[], Any]
    is_long: bool

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                result = self.compute()
            except BaseException as error:  # raised where the future is awaited
                self.future.set_exception(error)
            else:
                self.future.set_result(result)


class Turns:
    """Computes jobs in the order of arrival; a long one, in pieces, lets the short ones that wait go in between.

    All are computed by the same thread, so that a long and a short job never compete for a core, its caches and
    the memory. Short jobs wait for a piece at most, and a long one for the short jobs that had come by its last piece.
    """

    def __init__(self, threads: int, begin_thread: Callable[[], None]) -> None:
        """`begin_thread` is called in each thread before its first job."""
        self._jobs: deque[_Job] = deque()
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(threads, "engine", begin_thread)
        self.closed = False
        self.short: Executor = _Queue(self._submit, is_long=False)
        self.long: Executor = _Queue(self._submit, is_long=True)
        """Where jobs of either kind are submitted."""

    def yield_turn(self) -> None:
        """Compute the short jobs that wait now; to be called by a long job, between two of its pieces."""
        with self._lock:
            short = [job for job in self._jobs if not job.is_long]
            for job in short:
                self._jobs.remove(job)
        for job in short:
            job.run()

    def close(self) -> None:
        """End the threads after their jobs; those that wait, or come later, are cancelled."""
        self.closed = True
        with self._lock:
            while self._jobs:
                self._jobs.popleft().future.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        del self.short, self.long, self._threads  # cycles, by which the model would be freed much later

    def _submit(self, job: _Job) -> None:
        if self.closed:
            job.future.cancel()
            return
        with self._lock:
            self._jobs.append(job)
        self._threads.submit(self._run_next)

    def _run_next(self) -> None:
        with self._lock:
            job = self._jobs.popleft() if self._jobs else None  # it had its turn already
        if job:
            job.run()


class _Queue(Executor):
    """One end of the queue of `Turns`."""

    def __init__(self, submit: Callable[[_Job], None], *, is_long: bool) -> None:
        self._submit = submit
        self._is_long = is_long

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Queue a call."""
        future: Future[Result] = Future()
        self._submit(_Job(future, partial(fn, *args, **kwargs), self._is_long))
        return future
