import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.api.admission import Admission
from service.api.context import ModelContext
from service.errors import DeadlineExceeded, TooManyRequests, Unavailable
from service.models.catalogue import Entry
from service.models.registry import Model

MODEL: Model[ModelContext] = Model(Entry("digits", "1", Path("digits.safetensors")))


def make(queue_limit: int = 4, keys: int = 0, deadline: float = 10) -> Admission:
    return Admission(queue_limit=queue_limit, keys=keys, deadline=deadline)


def run(admission: Admission, test: Callable[[], Awaitable[None]]) -> None:
    """Run `test` on an event loop of its own, once `admission` lets requests in."""

    async def start() -> None:
        admission.start()
        await test()

    asyncio.run(start())


def hold(stack: ExitStack, admission: Admission, *keys: bytes) -> None:
    for key in keys:
        stack.enter_context(admission.slot(key, MODEL))


def test_nobody_is_let_in_before_the_start() -> None:
    async def come() -> None:
        with Admission(queue_limit=1, keys=0, deadline=1).slot(b"", MODEL):
            pytest.fail("let in")

    with pytest.raises(Unavailable, match="starting") as caught:
        asyncio.run(come())
    assert caught.value.headers == {"Retry-After": "1"}


def test_the_queue_is_bounded_and_empties() -> None:
    admission = make(queue_limit=2)

    async def come() -> None:
        with ExitStack() as stack:
            hold(stack, admission, b"", b"")
            assert admission.in_flight == 2
            with pytest.raises(Unavailable, match="All 2 places") as caught:
                hold(stack, admission, b"")
            assert caught.value.headers == {"Retry-After": "1"}
        assert admission.in_flight == 0
        with admission.slot(b"", MODEL):
            assert admission.in_flight == 1

    run(admission, come)


def test_a_key_holds_no_more_than_its_share() -> None:
    admission = make(queue_limit=5, keys=2)

    async def come() -> None:
        with ExitStack() as stack:
            hold(stack, admission, b"a", b"a")
            with pytest.raises(TooManyRequests, match="2 requests in flight, its share") as caught:
                hold(stack, admission, b"a")
            assert caught.value.headers == {"Retry-After": "1"}
            hold(stack, admission, b"b", b"b")
        with admission.slot(b"a", MODEL):
            assert admission.in_flight == 1

    run(admission, come)


def test_every_key_has_a_share_at_least_of_one() -> None:
    admission = make(queue_limit=1, keys=3)

    async def come() -> None:
        with admission.slot(b"a", MODEL):
            pass

    run(admission, come)


def test_who_drains_lets_nobody_in_and_lets_finish() -> None:
    admission = make()

    async def come() -> None:
        with admission.slot(b"", MODEL):
            admission.status = "draining"
            with pytest.raises(Unavailable, match="draining"):
                ExitStack().enter_context(admission.slot(b"", MODEL))
            assert admission.in_flight == 1
        assert admission.in_flight == 0

    run(admission, come)


def test_the_deadline_ends_what_takes_too_long() -> None:
    admission = make(deadline=0.02)

    async def come() -> None:
        with admission.slot(b"", MODEL):
            await asyncio.sleep(10)

    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.02 seconds"):
        run(admission, come)
    assert 0.02 <= time.monotonic() - begun < 1
    assert admission.in_flight == 0


def test_a_failure_gives_its_place_back() -> None:
    admission = make(queue_limit=1)

    async def come() -> None:
        with admission.slot(b"a", MODEL):
            raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            run(admission, come)
    assert admission.in_flight == 0


def test_a_place_that_is_lent_is_another_ones() -> None:
    admission = make(queue_limit=2, keys=2)

    async def come() -> None:
        with admission.slot(b"a", MODEL, provisional=True) as slot:
            with admission.slot(b"a", MODEL):
                assert admission.in_flight == 2
                with pytest.raises(TooManyRequests):
                    slot.confirm()
            slot.confirm()
            with pytest.raises(TooManyRequests):
                hold(ExitStack(), admission, b"a")
        assert admission.in_flight == 0
        with ExitStack() as stack:
            hold(stack, admission, b"a", b"b")
            with pytest.raises(Unavailable):
                stack.enter_context(admission.slot(b"a", MODEL, provisional=True))

    run(admission, come)
