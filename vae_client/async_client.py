"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

import httpx

from vae_client import calls
from vae_client.batches import check_bounds, progress_bar, split
from vae_client.calls import Call, Fit
from vae_client.deadline import Deadline
from vae_client.errors import APIError
from vae_client.options import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT_S,
    ClientOptions,
    RenamedOptions,
    Timeout,
    read_options,
)
from vae_client.results import Health, Images, Latents, Model, Posterior, Reconstruction, Scores

if TYPE_CHECKING:
    from vae_client.inputs import ImageInput, LatentInput

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio, for any number of tasks of one event loop. Images are read and encoded in a thread."""

    def __init__(
        self,
        base_url: str | httpx.URL | None = None,
        *,
        api_key: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
        http_client: httpx.AsyncClient | None = None,
        **renamed: Unpack[RenamedOptions],
    ) -> None:
        """Create a client as `Client` does; its calls never exceed a `timeout` in seconds."""
        self._options = read_options(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=default_headers,
            renamed=renamed,
        )
        self._http = http_client or httpx.AsyncClient(limits=calls.LIMITS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections, also those of `http_client` and of clients that `with_options` returned."""
        await self._http.aclose()

    def with_options(self, **options: Unpack[ClientOptions]) -> Self:
        """Return a client with other options that shares the connections of this one; see `Client.with_options`."""
        client = copy(self)
        client._options = self._options.changed(options)
        return client

    async def encode(
        self,
        images: ImageInput,
        *,
        fit: Fit | None = None,
        invert: bool = False,
        draw: bool = False,
        seed: int | None = None,
    ) -> Posterior:
        """Encode images to their posterior; see `Client.encode`."""
        options: dict[str, Any] = {"fit": fit, "invert": invert, "draw": draw, "seed": seed}
        return await self._send(await asyncio.to_thread(calls.encode, images, **options))

    async def decode(self, z: LatentInput) -> Images:
        """Decode latents to images; see `Client.decode`."""
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
        """Encode images and decode them again; see `Client.reconstruct`."""
        options: dict[str, Any] = {
            "losses": losses,
            "fit": fit,
            "invert": invert,
            "draw": draw,
            "draws": draws,
            "seed": seed,
        }
        return await self._send(await asyncio.to_thread(calls.reconstruct, images, **options))

    async def score(
        self,
        images: ImageInput,
        *,
        draws: int | None = None,
        samples: int | None = None,
        seed: int | None = None,
        level: float | None = None,
        pixel_losses: bool = False,
        fit: Fit | None = None,
        invert: bool = False,
    ) -> Scores:
        """Tell how unusual images are for the model; see `Client.score`."""
        options: dict[str, Any] = {
            "draws": draws,
            "samples": samples,
            "seed": seed,
            "level": level,
            "pixel_losses": pixel_losses,
            "fit": fit,
            "invert": invert,
        }
        return await self._send(await asyncio.to_thread(calls.score, images, **options))

    async def sample(self, n: int = 1, *, seed: int | None = None, temperature: float = 1) -> Images:
        """Decode latents drawn from the prior; see `Client.sample`."""
        return await self._send(calls.sample(n, seed=seed, temperature=temperature))

    async def interpolate(
        self,
        start: LatentInput,
        stop: LatentInput,
        *,
        steps: int = 8,
        method: Literal["linear", "spherical"] = "linear",
    ) -> Images:
        """Decode latents on the path from one latent to another; see `Client.interpolate`."""
        return await self._send(calls.interpolate(start, stop, steps=steps, method=method))

    async def traverse(
        self, at: LatentInput, dimensions: Sequence[int], *, low: float = -3, high: float = 3, steps: int = 15
    ) -> Images:
        """Decode latents that differ in one or two dimensions; see `Client.traverse`."""
        return await self._send(calls.traverse(at, dimensions, low=low, high=high, steps=steps))

    async def model(self) -> Model:
        """Return the description of the model; see `Client.model`."""
        return await self._send(calls.model())

    async def latents(self) -> Latents:
        """Return the latents of the test set that lie beside the checkpoint; see `Client.latents`."""
        return await self._send(calls.latents())

    async def health(self) -> Health:
        """Return whether the service accepts requests; see `Client.health`."""
        return await self._send(calls.health())

    async def map(
        self,
        call: Callable[[Any], Awaitable[T]],
        items: Iterable[Any],
        *,
        size: int = 1000,
        in_flight: int = 4,
        progress: bool = False,
    ) -> AsyncIterator[T]:
        """Call a method on batches of many items, several at a time; see `Client.map`."""
        check_bounds(size, in_flight)
        pending: deque[tuple[int, asyncio.Future[T]]] = deque()

        async def next_result() -> T:
            count, future = pending[0]
            result = await future
            pending.popleft()
            advance(count)
            return result

        with progress_bar(items, shown=progress) as advance:
            try:
                for batch in split(items, size):
                    pending.append((len(batch), asyncio.ensure_future(call(batch))))
                    if len(pending) == in_flight:
                        yield await next_result()
                while pending:
                    yield await next_result()
            finally:
                for _, future in pending:
                    future.cancel()
                await asyncio.gather(*(future for _, future in pending), return_exceptions=True)

    async def _send(self, call: Call[T]) -> T:
        deadline = Deadline(self._options.timeout, self._options.max_retries)
        while True:
            try:
                return call.parse(await self._exchange(call, deadline))
            except APIError as error:
                delay = deadline.retry_delay(error)
            await asyncio.sleep(delay)

    async def _exchange(self, call: Call[T], deadline: Deadline) -> httpx.Response:
        response_started = False
        try:
            async with (
                asyncio.timeout(deadline.remaining()),
                self._http.stream(
                    **self._options.request(call), extensions={"timeout": deadline.phase_limits}
                ) as response,
            ):
                response_started = True
                return calls.complete_response(response, b"".join([chunk async for chunk in response.aiter_raw()]))
        except TimeoutError as error:
            raise deadline.timeout_error() from error
        except httpx.RequestError as error:
            raise calls.translate_error(error, deadline.timeout_error(), response_started=response_started) from error
