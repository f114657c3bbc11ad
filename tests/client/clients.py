"""One interface to both clients, so that each test runs with either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, ClassVar, Protocol

import httpx

from vae_client import AsyncClient, Client


class AnyClient(Protocol):
    """A client whose methods are called by name and return their results."""

    http_class: ClassVar[type[httpx.Client | httpx.AsyncClient]]
    """What sends its requests."""
    client: Client | AsyncClient

    def call(self, method: str, /, *arguments: Any, **options: Any) -> Any: ...

    def map(self, method: str, items: Any, /, **options: Any) -> Iterator[Any]: ...

    def with_options(self, **options: Any) -> AnyClient: ...

    def close(self) -> None: ...


class Sync:
    http_class: ClassVar[type[httpx.Client | httpx.AsyncClient]] = httpx.Client

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self.client: Any = Client(url, **options)

    def call(self, method: str, /, *arguments: Any, **options: Any) -> Any:
        return getattr(self.client, method)(*arguments, **options)

    def map(self, method: str, items: Any, /, **options: Any) -> Iterator[Any]:
        yield from self.client.map(getattr(self.client, method), items, **options)

    def with_options(self, **options: Any) -> AnyClient:
        other = copy(self)
        other.client = self.client.with_options(**options)
        return other

    def close(self) -> None:
        self.client.close()


class Async:
    http_class: ClassVar[type[httpx.Client | httpx.AsyncClient]] = httpx.AsyncClient

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self.client: Any = AsyncClient(url, **options)
        self.runner = asyncio.Runner()

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

    def with_options(self, **options: Any) -> AnyClient:
        other = copy(self)
        other.client = self.client.with_options(**options)
        return other

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()


async def _next(results: Any) -> Any:
    return await anext(results)


async def _close(results: Any) -> None:
    await results.aclose()


Connect = Callable[..., AnyClient]
