"""The client that waits for its answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


class Client:
    """A VAE service at `url`; may be shared by threads, and keeps its connections until it is closed.

    An image is an array or a tensor, uint8 (0 to 255) or floating (0 to 1), (H, W) or (C, H, W); a PIL image; a path;
    or the bytes of a picture or of an .npy file. A batch is an array or a tensor with N before that, or a list. A
    latent is an array, a tensor or a list of numbers, of the model's latent shape L (see `vae_client.answers`) or
    (N, *L), or an .npy file.

    Every method raises VAEError (see `vae_client.errors`).
    """

    def __init__(self, url: str, *, key: str | None = None, timeout: float = 60, retries: int = 5) -> None:
        """Connections are opened when they are needed.

        Args:
            url: Of the service, such as http://127.0.0.1:8000.
            key: API key in printable ASCII; white space around it is removed.
            timeout: Seconds for a call with all its attempts, about. A service that sends the head of an answer in
                drops is waited for longer, until it pauses for as long as was left; `AsyncClient` keeps to the time
                whatever comes.
            retries: Attempts after the first.

        Raises:
            ValueError: `url` or `key` cannot be used.

        """
        self._http = httpx.Client(**calls.connection(url, key))
        self._timeout = timeout
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def encode(
        self,
        images: ImageInput,
        *,
        fit: Fit | None = None,
        invert: bool = False,
        draw: bool = False,
        seed: int | None = None,
    ) -> Posterior:
        """Images to their posterior q(z|x).

        Pictures of another shape than the model's are brought to it as `fit` says: `contain` puts black bars beside
        them, `cover` crops them to their middle, `stretch` distorts them; None does as the training did. `invert` is
        for dark ink on white paper. `draw` adds a sample `z` of the posterior, which `seed` makes repeatable.
        """
        return self._send(calls.encode(images, fit=fit, invert=invert, draw=draw, seed=seed))

    def decode(self, z: LatentInput) -> Images:
        """Latents to images."""
        return self._send(calls.decode(z))

    @overload
    def reconstruct(
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
    def reconstruct(
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

    def reconstruct(
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
        """Images through the latent space and back; options as of `encode`.

        `losses` gives a Reconstruction, with the posterior, reconstruction loss and KL divergence; the answer then
        comes as JSON, three times as long. With `losses`, `draws` (2 or more) adds the ELBO, the mean over so many
        samples of the posterior. `draw` decodes a sample of the posterior in place of its mean.
        """
        options: dict[str, Any] = {"losses": losses, "fit": fit, "invert": invert, "draw": draw, "draws": draws}
        return self._send(calls.reconstruct(images, **options, seed=seed))

    def sample(self, n: int = 1, *, seed: int | None = None, temperature: float = 1) -> Images:
        """`n` images decoded from draws of the prior N(0, temperature²·I), (n, C, H, W), and their seed."""
        return self._send(calls.sample(n, seed=seed, temperature=temperature))

    def interpolate(
        self,
        start: LatentInput,
        stop: LatentInput,
        *,
        steps: int = 8,
        method: Literal["linear", "spherical"] = "linear",
    ) -> Images:
        """Images (steps, C, H, W) on the way from one latent to another, both counted."""
        return self._send(calls.interpolate(start, stop, steps=steps, method=method))

    def traverse(
        self, at: LatentInput, dimensions: Sequence[int], *, low: float = -3, high: float = 3, steps: int = 15
    ) -> Images:
        """Images along one dimension, (steps, C, H, W), or over the grid of two, (steps², C, H, W), row by row.

        Of a model whose latents are maps the service gives none: NotFound.
        """
        return self._send(calls.traverse(at, dimensions, low=low, high=high, steps=steps))

    def model(self) -> Model:
        """What is being served."""
        return self._send(calls.model())

    def map(
        self,
        call: Callable[[Any], T],
        items: Iterable[Any],
        *,
        size: int = 1000,
        in_flight: int = 4,
        progress: bool = False,
    ) -> Iterator[T]:
        """`call` (such as `client.encode`) on batches of `items`; its answers in order, as they are asked for.

        `items` is an array or a tensor (N, …), or anything else that gives images or latents one by one, which is read
        no further than needed. A batch has at most `size` of them and 8 MiB; at most `in_flight` are under way or wait
        to be taken, so that memory does not grow with N. `progress` shows a bar. A `seed` given to `call` would be the
        same for each batch.
        """
        check_bounds(size, in_flight)
        under_way: deque[tuple[int, Future[T]]] = deque()

        def take() -> T:
            count, future = under_way.popleft()
            answer = future.result()
            advance(count)
            return answer

        with progress_bar(items, shown=progress) as advance, ThreadPoolExecutor(in_flight) as pool:
            try:
                for batch in split(items, size):
                    under_way.append((len(batch), pool.submit(call, batch)))
                    if len(under_way) == in_flight:
                        yield take()
                while under_way:
                    yield take()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, call: Call[T]) -> T:
        course = Course(self._timeout, self._retries)
        while True:
            try:
                return call.read(self._exchange(call, course))
            except VAEError as error:
                pause = course.pause_after(error)
            time.sleep(pause)

    def _exchange(self, call: Call[T], course: Course) -> Reply:
        pieces: list[bytes] | None = None
        try:
            extensions = course.extensions()
            with self._http.stream(call.method, call.path, **call.request, extensions=extensions) as response:
                pieces = []
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    course.left()
                return Reply(response.status_code, response.headers, b"".join(pieces))
        except httpx.RequestError as error:
            raise calls.failure(error, course.timed_out(), answered=pieces is not None) from error
