"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import httpx

from vae_client import calls
from vae_client.answers import Images, Model, Posterior, Reconstruction
from vae_client.batches import check_bounds, progress_bar, split
from vae_client.calls import Call, Fit, Reply
from vae_client.course import Course
from vae_client.errors import VAEError

if TYPE_CHECKING:
    from vae_client.inputs import ImageInput, LatentInput

T = TypeVar("T")


class AsyncClient:
    """As `Client`, awaited; for any number of tasks of one event loop. Pictures are read and packed in a thread."""

    def __init__(self, url: str, *, key: str | None = None, timeout: float = 60, retries: int = 5) -> None:
        """As of `Client`; `timeout` is kept to."""
        self._http = httpx.AsyncClient(**calls.connection(url, key))
        self._timeout = timeout
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def encode(
        self,
        images: ImageInput,
        *,
        fit: Fit | None = None,
        invert: bool = False,
        draw: bool = False,
        seed: int | None = None,
    ) -> Posterior:
        """As `Client.encode`."""
        options: dict[str, Any] = {"fit": fit, "invert": invert, "draw": draw, "seed": seed}
        return await self._send(await asyncio.to_thread(calls.encode, images, **options))

    async def decode(self, z: LatentInput) -> Images:
        """As `Client.decode`."""
        return await self._send(calls.decode(z))

    @overload
    async def reconstruct(
        self,
        images: ImageInput,
        *,
        losses: Literal[False] = False,
        fit: Fit | None = None,
        invert: bool = False,
        draw: bool = False,
        seed: int | None = None,
    ) -> Images: ...

    @overload
    async def reconstruct(
        self,
        images: ImageInput,
        *,
        losses: Literal[True],
        fit: Fit | None = None,
        invert: bool = False,
        draw: bool = False,
        draws: int | None = None,
        seed: int | None = None,
    ) -> Reconstruction: ...

    async def reconstruct(
        self,
        images: ImageInput,
        *,
        losses: bool = False,
        fit: Fit | None = None,
        invert: bool = False,
        draw: bool = False,
        draws: int | None = None,
        seed: int | None = None,
    ) -> Images:
        """As `Client.reconstruct`."""
        options: dict[str, Any] = {
            "losses": losses,
            "fit": fit,
            "invert": invert,
            "draw": draw,
            "draws": draws,
            "seed": seed,
        }
        return await self._send(await asyncio.to_thread(calls.reconstruct, images, **options))

    async def sample(self, n: int = 1, *, seed: int | None = None, temperature: float = 1) -> Images:
        """As `Client.sample`."""
        return await self._send(calls.sample(n, seed=seed, temperature=temperature))

    async def interpolate(
        self,
        start: LatentInput,
        stop: LatentInput,
        *,
        steps: int = 8,
        method: Literal["linear", "spherical"] = "linear",
    ) -> Images:
        """As `Client.interpolate`."""
        return await self._send(calls.interpolate(start, stop, steps=steps, method=method))

    async def traverse(
        self, at: LatentInput, dimensions: Sequence[int], *, low: float = -3, high: float = 3, steps: int = 15
    ) -> Images:
        """As `Client.traverse`."""
        return await self._send(calls.traverse(at, dimensions, low=low, high=high, steps=steps))

    async def model(self) -> Model:
        """As `Client.model`."""
        return await self._send(calls.model())

    async def map(
        self,
        call: Callable[[Any], Awaitable[T]],
        items: Iterable[Any],
        *,
        size: int = 1000,
        in_flight: int = 4,
        progress: bool = False,
    ) -> AsyncIterator[T]:
        """As `Client.map`."""
        check_bounds(size, in_flight)
        under_way: deque[tuple[int, asyncio.Future[T]]] = deque()

        async def take() -> T:
            count, future = under_way[0]
            answer = await future
            under_way.popleft()
            advance(count)
            return answer

        with progress_bar(items, shown=progress) as advance:
            try:
                for batch in split(items, size):
                    under_way.append((len(batch), asyncio.ensure_future(call(batch))))
                    if len(under_way) == in_flight:
                        yield await take()
                while under_way:
                    yield await take()
            finally:
                for _, future in under_way:
                    future.cancel()
                await asyncio.gather(*(future for _, future in under_way), return_exceptions=True)

    async def _send(self, call: Call[T]) -> T:
        course = Course(self._timeout, self._retries)
        while True:
            try:
                return call.read(await self._exchange(call, course))
            except VAEError as error:
                pause = course.pause_after(error)
            await asyncio.sleep(pause)

    async def _exchange(self, call: Call[T], course: Course) -> Reply:
        answered = False
        try:
            async with (
                asyncio.timeout(course.left()),
                self._http.stream(call.method, call.path, **call.request) as response,
            ):
                answered = True
                return Reply(response.status_code, response.headers, await response.aread())
        except TimeoutError as error:
            raise course.timed_out() from error
        except httpx.RequestError as error:
            raise calls.failure(error, course.timed_out(), answered=answered) from error
