"""vae-serve that counts nothing for /metrics; the flags are its own.

python -m benchmarks.uncounted_server FLAG ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from service.__main__ import main
from service.telemetry.counters import Counters, Histogram


class _Nothing(Counter[tuple[str, str, int, str]]):
    def __setitem__(self, _key: tuple[str, str, int, str], _count: int) -> None:
        return None


def count_nothing() -> None:
    def add(_: Histogram, _value: float) -> None:
        return None

    def add_all(_: Histogram, _values: Iterable[float]) -> None:
        return None

    make = Counters.__init__

    def make_without(counters: Counters) -> None:
        make(counters)
        counters.requests = _Nothing()

    Histogram.add, Histogram.add_all = add, add_all  # type: ignore[assignment,method-assign]  # what counting costs
    Counters.__init__ = make_without  # type: ignore[assignment,method-assign]  # as above


if __name__ == "__main__":
    count_nothing()
    main()
