"""Both clients, called alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from vae_client import AsyncClient, Client


class Caller(Protocol):
    """A client whose every method is called and has an answer, at once."""

    def ask(self, method: str, /, *arguments: Any, **options: Any) -> Any: ...

    def map(self, method: str, items: Any, /, **options: Any) -> Iterator[Any]: ...

    def close(self) -> None: ...


class Plain:
    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client(url, **options)

    def ask(self, method: str, /, *arguments: Any, **options: Any) -> Any:
        return getattr(self.client, method)(*arguments, **options)

    def map(self, method: str, items: Any, /, **options: Any) -> Iterator[Any]:
        yield from self.client.map(getattr(self.client, method), items, **options)

    def close(self) -> None:
        self.client.close()


class Awaited:
    def __init__(self, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncClient(url, **options)

    def ask(self, method: str, /, *arguments: Any, **options: Any) -> Any:
        return self.runner.run(getattr(self.client, method)(*arguments, **options))

    def map(self, method: str, items: Any, /, **options: Any) -> Iterator[Any]:
        answers = self.client.map(getattr(self.client, method), items, **options)
        try:
            while True:
                try:
                    yield self.runner.run(_next(answers))
                except StopAsyncIteration:
                    return
        finally:
            self.runner.run(_close(answers))

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()


async def _next(answers: Any) -> Any:
    return await anext(answers)


async def _close(answers: Any) -> None:
    await answers.aclose()


Connect = Callable[..., Caller]
