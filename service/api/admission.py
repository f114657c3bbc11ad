"""Who is let in and for how long: the one place that counts requests in flight and says no."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Literal, Self, cast

from service.errors import DeadlineExceeded, ShareExceeded, Unavailable

RETRY = {"Retry-After": "1"}


class Admission:
    """Bounds the requests in flight, each key's share of them, and the time that each may take.

    The place of a request whose body is still to come is lent to others: who sends slowly keeps nobody out.
    """

    def __init__(self, *, queue_limit: int, keys: int, deadline: float) -> None:
        """With several keys each may hold an equal share of `queue_limit` places; `deadline` is in seconds."""
        self.status: Literal["starting", "ok", "draining"] = "starting"
        self._limit = queue_limit
        self._share = max(1, queue_limit // max(1, keys))
        self._deadline = deadline
        self._due: dict[Slot, float] = {}  # until when; the first to come is the first to be overdue
        self._taken = 0
        self._taken_by: dict[bytes, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.loop: asyncio.AbstractEventLoop
        """On which requests are answered."""

    def start(self) -> None:
        """Let requests in, on the running event loop: that of an earlier lifespan may be closed."""
        self.loop = asyncio.get_running_loop()
        self._timer = None
        self.status = "ok"

    @property
    def in_flight(self) -> int:
        """Requests let in and not yet answered."""
        return len(self._due)

    @property
    def taken(self) -> int:
        """Those of them whose places are not lent."""
        return self._taken

    def slot(self, key: bytes, *, provisional: bool = False) -> Slot:
        """A place to hold while a request is answered, or, if `provisional`, from when it is taken.

        Entering it, and taking it, raise Unavailable or ShareExceeded.
        """
        return Slot(self, key, self._deadline, provisional)

    def enter(self, slot: Slot) -> None:
        """Let in, or raise."""
        if self.status != "ok":
            raise Unavailable(f"The service is {self.status}; try again in a moment.", self.status)
        if slot.provisional:
            self._check(slot.key)
        else:
            self.take(slot)
        self._due[slot] = time.monotonic() + self._deadline
        if self._timer is None:
            self._timer = self.loop.call_later(self._deadline, self._end_overdue)

    def take(self, slot: Slot) -> None:
        """Lend it no longer, or raise."""
        self._check(slot.key)
        self._taken += 1
        self._taken_by[slot.key] = self._taken_by.get(slot.key, 0) + 1
        slot.provisional = False

    def leave(self, slot: Slot) -> None:
        """Give the place back."""
        del self._due[slot]
        if slot.provisional:
            return
        self._taken -= 1
        taken = self._taken_by.pop(slot.key)
        if taken > 1:
            self._taken_by[slot.key] = taken - 1

    def _check(self, key: bytes) -> None:
        if self._taken >= self._limit:
            raise Unavailable(f"All {self._limit} places in the queue are taken; try again in a moment.", "queue_full")
        if self._taken_by.get(key, 0) >= self._share:
            raise ShareExceeded(
                f"This key holds all {self._share} places of its share of the queue; wait for an answer first.",
                headers=RETRY,
            )

    def _end_overdue(self) -> None:
        """One timer for all: each request has the same time, so they fall due in the order in which they came."""
        for slot, due in self._due.items():
            if (left := due - time.monotonic()) > 0:
                self._timer = self.loop.call_later(left, self._end_overdue)
                return
            slot.end()
        self._timer = None


class Slot:
    """A request's place in the queue, held in a `with` block, which is cancelled when its time is over."""

    __slots__ = ("_admission", "_cancelling", "_deadline", "_ended", "_task", "key", "provisional")

    def __init__(self, admission: Admission, key: bytes, deadline: float, provisional: bool) -> None:
        self.key = key
        self.provisional = provisional
        """Is it others' as yet?"""
        self._admission = admission
        self._deadline = deadline
        self._ended = False

    def __enter__(self) -> Self:
        self._admission.enter(self)
        self._task = cast("asyncio.Task[object]", asyncio.current_task(self._admission.loop))
        self._cancelling = self._task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self)
        task = self._task
        del self._task  # a task that is cancelled holds this object, by its traceback
        if self._ended and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeadlineExceeded(f"No answer within {self._deadline:g} seconds.") from error

    def take(self) -> None:
        """Lend it no longer; raises Unavailable or ShareExceeded where others hold them all."""
        self._admission.take(self)

    def end(self) -> None:
        """Cancel the block, once: its time is over."""
        if not self._ended:
            self._ended = True
            self._task.cancel()
