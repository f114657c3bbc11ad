import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from service.inference.batching import MicroBatcher
from service.telemetry.timing import Timing

Numbers = list[int]


class Recorder:
    """Doubles numbers, and records the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Numbers]] = []

    def __call__(self, items: Sequence[Numbers]) -> list[Numbers]:
        self.batches.append(list(items))
        return [[2 * number for number in item] for item in items]


def batcher(
    compute: Callable[[Sequence[Numbers]], Sequence[Numbers]], limit: int = 4, executor: Executor | None = None
) -> MicroBatcher[Numbers, Numbers]:
    return MicroBatcher(compute, limit=limit, size=len, executor=executor)


def submit(micro_batcher: MicroBatcher[Numbers, Numbers], *items: Numbers) -> list[Numbers]:
    async def submit_all() -> list[Numbers]:
        return list(await asyncio.gather(*map(micro_batcher.submit, items)))

    return asyncio.run(submit_all())


def test_items_of_one_tick_are_computed_in_one_call() -> None:
    recorder = Recorder()
    assert submit(batcher(recorder), [1], [2, 3], [4]) == [[2], [4, 6], [8]]
    assert recorder.batches == [[[1], [2, 3], [4]]]


def test_a_batch_is_at_most_the_limit_unless_it_is_one_item() -> None:
    recorder = Recorder()
    items = [[1, 1], [2], [3, 3], [4, 4, 4], [5, 5, 5, 5, 5, 5], [6]]
    assert submit(batcher(recorder), *items) == [[2 * number for number in item] for item in items]
    assert recorder.batches == [[[1, 1], [2]], [[3, 3]], [[4, 4, 4]], [[5, 5, 5, 5, 5, 5]], [[6]]]


def test_it_can_be_used_again_after_it_was_idle() -> None:
    recorder = Recorder()
    micro_batcher = batcher(recorder)

    async def twice() -> list[Numbers]:
        first = await micro_batcher.submit([1])
        await asyncio.sleep(0.01)
        return [first, await micro_batcher.submit([2])]

    assert asyncio.run(twice()) == [[2], [4]]
    assert recorder.batches == [[[1]], [[2]]]


@pytest.mark.parametrize("threaded", [False, True])
def test_a_failure_reaches_its_batch_alone(threaded: bool) -> None:
    def fails_on_zero(items: Sequence[Numbers]) -> list[Numbers]:
        if [0] in items:
            raise ZeroDivisionError
        return list(items)

    async def some() -> list[Numbers | BaseException]:
        micro_batcher = batcher(fails_on_zero, limit=2, executor=pool if threaded else None)
        return await asyncio.gather(*map(micro_batcher.submit, [[0], [1], [2], [3]]), return_exceptions=True)

    with ThreadPoolExecutor(1) as pool:
        first, second, *others = asyncio.run(some())
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, ZeroDivisionError)
    assert others == [[2], [3]]


def test_an_exception_among_the_results_fails_its_item_alone() -> None:
    def compute(items: Sequence[Numbers]) -> list[Numbers | Exception]:
        return [ValueError("odd") if item[0] % 2 else item for item in items]

    async def submit_all() -> list[Numbers | BaseException]:
        submit = MicroBatcher(compute, limit=4, size=len).submit
        return await asyncio.gather(*(submit([number]) for number in range(4)), return_exceptions=True)

    even, odd = (results := asyncio.run(submit_all()))[::2], results[1::2]
    assert even == [[0], [2]]
    assert all(isinstance(result, ValueError) for result in odd)


@pytest.mark.parametrize("fails", [False, True])
def test_a_receiver_that_raises_keeps_no_other_from_its_result(fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(asyncio.Future[Numbers]):
        def set_result(self, result: Numbers) -> None:
            raise RuntimeError("no use")

        def set_exception(self, error: object) -> None:
            raise RuntimeError("no use")

    def compute(items: Sequence[Numbers]) -> list[Numbers | Exception]:
        return [ValueError() if fails and item == [0] else item for item in items]

    async def submit_all() -> list[Numbers]:
        micro_batcher = MicroBatcher(compute, limit=4, size=len)
        micro_batcher.submit_for(Faulty(), [0], Timing())
        first = await micro_batcher.submit([1])
        return [first, await micro_batcher.submit([2])]

    async def in_time() -> list[Numbers]:
        return await asyncio.wait_for(submit_all(), 5)

    assert asyncio.run(in_time()) == [[1], [2]]
    assert "RuntimeError: no use" in caplog.text


def test_too_few_results_are_a_failure() -> None:
    with pytest.raises(ValueError, match="0 results were computed for 1 items"):
        submit(batcher(lambda _: []), [1])


@pytest.mark.parametrize("threaded", [False, True])
def test_a_failure_cancels_the_waiting_items_of_its_request(threaded: bool) -> None:
    recorder = Recorder()

    def fails_on_zero(items: Sequence[Numbers]) -> list[Numbers]:
        if [0] in recorder(items):
            raise ZeroDivisionError
        return list(items)

    async def two_requests() -> list[Numbers | BaseException]:
        micro_batcher = batcher(fails_on_zero, limit=1, executor=pool if threaded else None)
        first, second = Timing(), Timing()
        items = [([0], first), ([1], second), ([2], first), ([3], second)]
        futures = [micro_batcher.submit(item, timing) for item, timing in items]
        return await asyncio.gather(*futures, return_exceptions=True)

    with ThreadPoolExecutor(1) as pool:
        failed, one, cancelled, three = asyncio.run(two_requests())
    assert isinstance(failed, ZeroDivisionError)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert (one, three) == ([1], [3])
    assert recorder.batches == [[[0]], [[1]], [[3]]]


@pytest.mark.parametrize("threaded", [False, True])
def test_an_error_while_counting_stops_no_batch(threaded: bool, caplog: pytest.LogCaptureFixture) -> None:
    def observe(*_: object) -> None:
        raise ZeroDivisionError

    async def some() -> list[Numbers]:
        executor = pool if threaded else None
        micro_batcher = MicroBatcher(Recorder(), limit=2, size=len, executor=executor, observe=observe)
        first = await asyncio.wait_for(micro_batcher.submit([1]), 5)
        await asyncio.sleep(0.01)
        others = asyncio.gather(*map(micro_batcher.submit, [[2], [3], [4]]))
        return [first, *await asyncio.wait_for(others, 5)]

    with ThreadPoolExecutor(1) as pool:
        assert asyncio.run(some()) == [[2], [4], [6], [8]]
    assert [record.name for record in caplog.records] == 3 * ["vae-service"]


def test_a_cancelled_item_is_not_computed() -> None:
    recorder = Recorder()
    micro_batcher = batcher(recorder)

    async def cancel_one() -> Numbers:
        cancelled = micro_batcher.submit([1])
        kept = micro_batcher.submit([2])
        await asyncio.sleep(0)
        cancelled.cancel()
        return await kept

    assert asyncio.run(cancel_one()) == [4]
    assert recorder.batches == [[[2]]]


def test_a_cancellation_during_the_computation_spoils_nothing(caplog: pytest.LogCaptureFixture) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(items: Sequence[Numbers]) -> list[Numbers]:
        entered.set()
        go_on.wait(10)
        return list(items)

    async def cancel_one() -> Numbers:
        micro_batcher = batcher(slow, executor=pool)
        cancelled = micro_batcher.submit([1])
        kept = micro_batcher.submit([2])
        await asyncio.to_thread(entered.wait, 10)
        cancelled.cancel()
        await asyncio.sleep(0)
        go_on.set()
        return await kept

    with ThreadPoolExecutor(1) as pool:
        assert asyncio.run(cancel_one()) == [2]
    assert not caplog.records


def test_a_batch_may_outlast_the_event_loop(caplog: pytest.LogCaptureFixture) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(items: Sequence[Numbers]) -> list[Numbers]:
        entered.set()
        go_on.wait(10)
        return list(items)

    async def leave() -> None:
        batcher(slow, executor=pool).submit([1])
        await asyncio.to_thread(entered.wait, 10)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(leave())
        go_on.set()
    assert not caplog.records


def test_with_a_thread_the_next_batch_collects_meanwhile() -> None:
    """Up to the limit, in which items of several rows count as their rows."""
    recorder = Recorder()
    entered, go_on = threading.Event(), threading.Event()

    def slow(items: Sequence[Numbers]) -> list[Numbers]:
        entered.set()
        go_on.wait(10)
        return recorder(items)

    async def under_load() -> list[Numbers]:
        micro_batcher = batcher(slow, executor=pool)
        first = micro_batcher.submit([1])
        await asyncio.to_thread(entered.wait, 10)
        others = []
        for item in ([2], [3, 3], [4], [5, 5, 5, 5], [6]):
            others.append(micro_batcher.submit(item))
            await asyncio.sleep(0)  # the event loop is free
        go_on.set()
        return await asyncio.gather(first, *others)

    with ThreadPoolExecutor(1) as pool:
        assert asyncio.run(under_load()) == [[2], [4], [6, 6], [8], [10, 10, 10, 10], [12]]
    assert recorder.batches == [[[1]], [[2], [3, 3], [4]], [[5, 5, 5, 5]], [[6]]]


def test_with_a_thread_clients_that_ask_again_at_once_join_those_that_wait() -> None:
    """Clients that wait for their results form one batch, not two halves by turns."""
    recorder = Recorder()
    entered, go_on = threading.Event(), threading.Event()

    def slow(items: Sequence[Numbers]) -> list[Numbers]:
        entered.set()
        go_on.wait(10)
        return recorder(items)

    async def client(micro_batcher: MicroBatcher[Numbers, Numbers]) -> None:
        for _ in range(3):
            await micro_batcher.submit([1])

    async def load() -> None:
        micro_batcher = batcher(slow, limit=8, executor=pool)
        clients = [asyncio.create_task(client(micro_batcher)) for _ in range(4)]
        await asyncio.to_thread(entered.wait, 10)
        clients += [asyncio.create_task(client(micro_batcher)) for _ in range(4)]
        await asyncio.sleep(0)  # until these have submitted
        go_on.set()
        await asyncio.gather(*clients)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(load())
    assert [len(batch) for batch in recorder.batches] == [4, 8, 8, 4]


def test_full_batches_are_computed_concurrently() -> None:
    recorder = Recorder()
    both = threading.Barrier(2, timeout=10)

    def meet(items: Sequence[Numbers]) -> list[Numbers]:
        if len(items) == 2:
            both.wait()
        return recorder(items)

    async def load() -> list[Numbers]:
        micro_batcher = MicroBatcher(meet, limit=2, size=len, executor=pool, max_concurrent_batches=2)
        results = []
        for number in range(5):
            results.append(micro_batcher.submit([number]))
            await asyncio.sleep(0)
        return await asyncio.gather(*results)

    with ThreadPoolExecutor(2) as pool:
        assert asyncio.run(load()) == [[0], [2], [4], [6], [8]]
    assert sorted(recorder.batches[:2]) == [[[0], [1]], [[2], [3]]]
    assert recorder.batches[2:] == [[[4]]]


def test_a_batch_that_is_not_full_starts_alone() -> None:
    """Also if it was full until some of its items were cancelled."""
    recorder = Recorder()
    may_end = [threading.Event(), threading.Event()]

    def slow(items: Sequence[Numbers]) -> list[Numbers]:
        if items[0][0] < 2:
            may_end[items[0][0]].wait(10)
        return recorder(items)

    async def load() -> list[Numbers]:
        micro_batcher: MicroBatcher[Numbers, Numbers]
        micro_batcher = MicroBatcher(slow, limit=2, size=sum, executor=pool, max_concurrent_batches=2)
        computed = [micro_batcher.submit([0, 2]), micro_batcher.submit([1, 1])]
        await asyncio.sleep(0.01)
        gone = [micro_batcher.submit([2]), micro_batcher.submit([2])]
        for future in gone:
            future.cancel()
        may_end[0].set()
        await computed[0]
        computed.append(micro_batcher.submit([1]))
        await asyncio.sleep(0.01)
        assert micro_batcher.waiting == 1
        may_end[1].set()
        return list(await asyncio.gather(*computed))

    with ThreadPoolExecutor(2) as pool:
        assert asyncio.run(load()) == [[0, 4], [2, 2], [2]]
    assert recorder.batches == [[[0, 2]], [[1, 1]], [[1]]]
