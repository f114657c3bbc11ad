"""Admission control: how many requests are in flight, how many of each API key and model, and for how long."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Literal, Self, cast

from service.errors import DeadlineExceeded, TooManyRequests, Unavailable
from service.models.registry import Model

RETRY_AFTER = {"Retry-After": "1"}


class Admission:
    """Limits the requests in flight, each API key's and model's share of them, and the time that each may take.

    Where there are several models, one of them gets a place only if it has fewer than are free, so that a flood of
    requests for one leaves half of the places to the others, a flood for two a third, and so on. These are the dynamic
    thresholds of Choudhury and Hahne, https://doi.org/10.1109/90.664262.

    A request whose body is still to come has a provisional slot, which counts towards no limit: slow uploads keep
    nobody out.
    """

    def __init__(self, *, queue_limit: int, keys: int, deadline: float) -> None:
        """Share `queue_limit` slots equally between `keys` API keys; `deadline` is in seconds."""
        self.status: Literal["starting", "ok", "draining"] = "starting"
        self._limit = queue_limit
        self._share = max(1, queue_limit // max(1, keys))
        self._deadline = deadline
        self._deadlines: dict[Slot, float] = {}  # by the monotonic clock, in the order of arrival
        self._without_deadline = 0
        self._confirmed = 0
        self._confirmed_by_key: dict[bytes, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.are_several_models = False
        """Whether there are several models, which share the places."""
        self.loop: asyncio.AbstractEventLoop
        """The event loop of the requests."""

    def start(self) -> None:
        """Admit requests on the running event loop; an earlier lifespan's loop may be closed."""
        self.loop = asyncio.get_running_loop()
        self._timer = None
        self.status = "ok"

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return len(self._deadlines) + self._without_deadline

    @property
    def confirmed(self) -> int:
        """Requests in flight whose slots are not provisional."""
        return self._confirmed

    def slot(self, key: bytes, model: Model[Any], *, provisional: bool = False) -> Slot:
        """Return a slot for a request for `model` with the API key `key`.

        Entering it, and confirming a provisional one, raise Unavailable or TooManyRequests.
        """
        return Slot(self, key, model, self._deadline, provisional)

    def check_status(self) -> None:
        """Raise Unavailable where no requests are admitted, because the service starts or drains."""
        if self.status != "ok":
            raise Unavailable(f"The service is {self.status}; try again in a moment.", self.status)

    def enter(self, slot: Slot) -> None:
        """Admit the request of `slot`, or raise Unavailable or TooManyRequests."""
        self.check_status()
        if slot.provisional:
            self._check(slot.key, slot.model)
        else:
            self.confirm(slot)
        slot.model.enter()
        self._deadlines[slot] = time.monotonic() + self._deadline
        if self._timer is None:
            self._timer = self.loop.call_later(self._deadline, self._cancel_overdue)

    def confirm(self, slot: Slot) -> None:
        """Count `slot` towards the limits, or raise Unavailable or TooManyRequests."""
        self._check(slot.key, slot.model)
        self._count(slot.key, slot.model)
        slot.provisional = False

    def leave(self, slot: Slot) -> None:
        """Free `slot`."""
        del self._deadlines[slot]
        if not slot.provisional:
            self._uncount(slot.key, slot.model)
        slot.model.leave()

    def admit(self, key: bytes, model: Model[Any]) -> bool:
        """Admit a request that is computed at once, without a deadline; return False where none is admitted."""
        can_enter = (
            self.status == "ok"
            and self._confirmed < self._limit
            and self._confirmed_by_key.get(key, 0) < self._share
            and not (self.are_several_models and model.places >= self._limit - self._confirmed)
        )
        if can_enter:
            self._without_deadline += 1
            self._count(key, model)
            model.enter()
        return can_enter

    def release(self, key: bytes, model: Model[Any]) -> None:
        """Free the place of a request that `admit` has admitted."""
        self._without_deadline -= 1
        self._uncount(key, model)
        model.leave()

    def _uncount(self, key: bytes, model: Model[Any]) -> None:
        model.places -= 1
        self._confirmed -= 1
        if confirmed := self._confirmed_by_key[key] - 1:
            self._confirmed_by_key[key] = confirmed
        else:
            del self._confirmed_by_key[key]

    def _count(self, key: bytes, model: Model[Any]) -> None:
        model.places += 1
        self._confirmed += 1
        self._confirmed_by_key[key] = self._confirmed_by_key.get(key, 0) + 1

    def _check(self, key: bytes, model: Model[Any]) -> None:
        if self._confirmed >= self._limit:
            raise Unavailable(f"All {self._limit} places in the queue are taken; try again in a moment.", "queue_full")
        if self._confirmed_by_key.get(key, 0) >= self._share:
            raise TooManyRequests(
                f"This API key has {self._share} requests in flight, its share of the queue; wait for a response.",
                headers=RETRY_AFTER,
            )
        if self.are_several_models and model.places >= self._limit - self._confirmed:
            raise Unavailable(
                f"The model has {model.places} requests in flight, its share of the queue; try again in a moment.",
                "queue_full",
            )

    def _cancel_overdue(self) -> None:
        """Cancel requests that exceed the deadline: the same for all, so that one timer for the oldest suffices."""
        for slot, due in self._deadlines.items():
            if (left := due - time.monotonic()) > 0:
                self._timer = self.loop.call_later(left, self._cancel_overdue)
                return
            slot.cancel()
        self._timer = None


class Slot:
    """A request's slot in the queue: a context manager whose block is cancelled at the deadline."""

    __slots__ = (
        "_admission",
        "_cancelling",
        "_deadline",
        "_is_kept",
        "_task",
        "_timed_out",
        "key",
        "model",
        "provisional",
    )

    def __init__(self, admission: Admission, key: bytes, model: Model[Any], deadline: float, provisional: bool) -> None:
        self.key = key
        self.model = model
        self.provisional = provisional
        """Whether it counts towards no limit yet."""
        self._admission = admission
        self._deadline = deadline
        self._timed_out = False
        self._is_kept = False

    def __enter__(self) -> Self:
        self._admission.enter(self)
        self._task = cast("asyncio.Task[object]", asyncio.current_task(self._admission.loop))
        self._cancelling = self._task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_kept:
            self._is_kept = False
            return
        self._admission.leave(self)
        task = self._task
        del self._task  # the traceback of a cancelled task refers to this object: no reference cycle
        if self._timed_out and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeadlineExceeded(f"The request took longer than {self._deadline:g} seconds.") from error

    def confirm(self) -> None:
        """Count towards the limits; raises Unavailable or TooManyRequests where they are reached."""
        self._admission.confirm(self)

    def keep(self) -> None:
        """Stay in flight at the next call of `__exit__`: the response is sent after the block, and leaves it then."""
        self._is_kept = True

    def cancel(self) -> None:
        """Cancel the block, once: its deadline has passed."""
        if not self._timed_out:
            self._timed_out = True
            self._task.cancel()
