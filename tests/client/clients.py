"""One interface to both clients, so that each test runs with either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from vae_client import AsyncClient, Client


class AnyClient(Protocol):
    """A client whose methods are called by name and return their results."""

    def call(self, method: str, /, *arguments: Any, **options: Any) -> Any: ...

    def map(self, method: str, items: Any, /, **options: Any) -> Iterator[Any]: ...

    def close(self) -> None: ...


class Sync:
    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client(url, **options)

    def call(self, method: str, /, *arguments: Any, **options: Any) -> Any:
        return getattr(self.client, method)(*arguments, **options)

    def map(self, method: str, items: Any, /, **options: Any) -> Iterator[Any]:
        yield from self.client.map(getattr(self.client, method), items, **options)

    def close(self) -> None:
        self.client.close()


class Async:
    def __init__(self, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncClient(url, **options)

    def call(self, method: str, /, *arguments: Any, **options: Any) -> Any:
        return self.runner.run(getattr(self.client, method)(*arguments, **options))

    def map(self, method: str, items: Any, /, **options: Any) -> Iterator[Any]:
        results = self.client.map(getattr(self.client, method), items, **options)
        try:
            while True:
                try:
                    yield self.runner.run(_next(results))
                except StopAsyncIteration:
                    return
        finally:
            self.runner.run(_close(results))

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()


async def _next(results: Any) -> Any:
    return await anext(results)


async def _close(results: Any) -> None:
    await results.aclose()


Connect = Callable[..., AnyClient]
