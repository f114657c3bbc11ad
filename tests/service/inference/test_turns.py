"""Short jobs go between the pieces of a long one."""

import threading
from collections.abc import Iterator

import pytest

from service.inference.turns import Turns


@pytest.fixture
def turns() -> Iterator[Turns]:
    turns = Turns(1, lambda: None)
    yield turns
    turns.close()


def test_short_jobs_that_wait_go_between_pieces_and_long_ones_after_each_other(turns: Turns) -> None:
    order: list[str] = []
    threads = set()
    submitted = threading.Event()

    def short(name: str) -> None:
        threads.add(threading.get_ident())
        order.append(name)

    def long(name: str) -> None:
        submitted.wait(10)
        for piece in range(2):
            order.append(f"{name}{piece}")
            turns.yield_turn()
            threads.add(threading.get_ident())

    jobs = [turns.long.submit(long, "A"), turns.long.submit(long, "B")]
    jobs += [turns.short.submit(short, name) for name in "ab"]
    submitted.set()
    for job in jobs:
        job.result(10)
    assert order == ["A0", "a", "b", "A1", "B0", "B1"]
    assert len(threads) == 1


def test_a_stream_of_short_jobs_does_not_stop_a_long_one(turns: Turns) -> None:
    order: list[str] = []
    submitted = threading.Event()

    def short() -> None:
        order.append("short")
        if order.count("short") < 5:
            turns.short.submit(short)  # its client asks again

    def long() -> None:
        submitted.wait(10)
        for _ in range(3):
            order.append("long")
            turns.yield_turn()

    job = turns.long.submit(long)
    turns.short.submit(short)
    submitted.set()
    job.result(10)
    assert order[:6] == ["long", "short"] * 3


def test_jobs_that_wait_at_the_end_or_come_later_are_cancelled() -> None:
    turns, begun, released = Turns(1, lambda: None), threading.Event(), threading.Event()
    queue = turns.short

    def compute() -> bool:
        begun.set()
        return released.wait(10)

    running, waiting = queue.submit(compute), queue.submit(compute)
    begun.wait(10)
    turns.close()
    released.set()
    assert running.result(10)
    assert waiting.cancelled()
    assert queue.submit(compute).cancelled()


def test_errors_are_those_of_the_job(turns: Turns) -> None:
    with pytest.raises(ZeroDivisionError):
        turns.short.submit(lambda: 1 // 0).result(10)
    assert turns.short.submit(lambda: 1).result(10) == 1
