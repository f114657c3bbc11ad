"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

import httpx

from vae_client import calls
from vae_client.batches import map_threads
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


class Client:
    """A client of one VAE service, for any number of threads. It keeps connections open until it is closed.

    An image is an array or a tensor (H, W) or (C, H, W), of uint8 (0 to 255) or floating (0 to 1); a PIL image; a path;
    or the content of a picture or an .npy file. A batch of images is an array or a tensor (N, H, W) or (N, C, H, W), or
    a list of images. A latent or a batch of them is an array, a tensor, nested lists of numbers or an .npy file, of
    shape L or (N, *L), where L is the model's latent shape (see `vae_client.results`).

    Each method that sends a request raises:
        APIError: The call failed; `vae_client.errors` lists the subclasses.
        TypeError, ValueError, OSError: An argument cannot be sent, or its file cannot be read.
    """

    def __init__(
        self,
        base_url: str | httpx.URL | None = None,
        *,
        api_key: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
        http_client: httpx.Client | None = None,
        **renamed: Unpack[RenamedOptions],
    ) -> None:
        """Create a client without connecting yet.

        Args:
            base_url: URL of the service, such as http://127.0.0.1:8000; VAE_BASE_URL of the environment if None.
            api_key: API key, printable ASCII; surrounding white space is removed. VAE_API_KEY of the environment if
                None; an empty string sends no key.
            timeout: Seconds for a call with all its attempts. A call can take longer while the status line and headers
                of a response arrive a few bytes at a time; `AsyncClient` has no such exception. An httpx.Timeout limits
                the phases of each attempt instead; None sets no limit. Calls that time out are not tried again.
            max_retries: Maximum number of attempts after the first.
            default_headers: Headers of every request, which replace those of the client with the same name, such as
                User-Agent.
            http_client: Sends the requests, with its proxies, certificates, authentication and connection limits;
                `timeout` replaces its timeouts. `close` closes it.
            **renamed: Old names of arguments.

        Raises:
            ValueError: An argument is not valid, or there is neither `base_url` nor VAE_BASE_URL.

        """
        self._options = read_options(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=default_headers,
            renamed=renamed,
        )
        self._http = http_client or httpx.Client(limits=calls.LIMITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, also those of `http_client` and of clients that `with_options` returned."""
        self._http.close()

    def with_options(self, **options: Unpack[ClientOptions]) -> Self:
        """Return a client with other options that shares the connections of this one.

        Args:
            **options: `base_url`, `api_key`, `timeout`, `max_retries` and `default_headers`, as of `Client`. Headers
                are added to those that there are.

        Raises:
            ValueError: An option is not valid.

        """
        client = copy(self)
        client._options = self._options.changed(options)
        return client

    def encode(
        self,
        images: ImageInput,
        *,
        fit: Fit | None = None,
        invert: bool = False,
        draw: bool = False,
        seed: int | None = None,
    ) -> Posterior:
        """Encode images to their posterior q(z|x).

        Args:
            images: One image or a batch.
            fit: How to bring pictures of another shape to the model's: `contain` pads with black, `cover` crops to the
                centre, `stretch` distorts; None does what the training did.
            invert: Invert pictures first, for dark ink on white paper.
            draw: Add a sample `z` of the posterior.
            seed: Seed of that sample, 0 to 2⁶⁴ − 1; random if None.

        Returns:
            The posterior, its arrays L or (N, *L).

        """
        return self._send(calls.encode(images, fit=fit, invert=invert, draw=draw, seed=seed))

    def decode(self, z: LatentInput) -> Images:
        """Decode one latent or a batch to images (C, H, W) or (N, C, H, W)."""
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
        """Encode images and decode them again.

        Args:
            images: One image or a batch.
            losses: Return the posterior and the losses too; the response is then JSON, three times as large.
            fit: As of `encode`.
            invert: As of `encode`.
            draw: Decode a sample of the posterior instead of its mean.
            draws: With `losses`, estimate the ELBO from so many samples of the posterior, at least 2.
            seed: Seed of the samples, 0 to 2⁶⁴ − 1; random if None.

        Returns:
            Images (C, H, W) or (N, C, H, W); with `losses` a Reconstruction.

        """
        options: dict[str, Any] = {"losses": losses, "fit": fit, "invert": invert, "draw": draw, "draws": draws}
        return self._send(calls.reconstruct(images, **options, seed=seed))

    def score(
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
        """Tell how unusual images are for the model.

        The scores of an image do not depend on others, so that the same call gives the same numbers.

        Args:
            images: One image or a batch.
            draws: Samples of the posterior for the ELBO, at least 2; 10 if None.
            samples: Importance samples for a bound of log p(x); those of the model's calibration if None, or else 0.
            seed: Seed of the samples, 0 to 2⁶⁴ − 1; 0 if None.
            level: Percentile above which an image is anomalous, 0 to 1; 0.99 if None.
            pixel_losses: Return the loss of each pixel too.
            fit: As of `encode`.
            invert: As of `encode`.

        Returns:
            The scores, () or (N,) each.

        """
        options: dict[str, Any] = {"draws": draws, "samples": samples, "seed": seed, "level": level}
        return self._send(calls.score(images, **options, pixel_losses=pixel_losses, fit=fit, invert=invert))

    def sample(self, n: int = 1, *, seed: int | None = None, temperature: float = 1) -> Images:
        """Decode latents drawn from N(0, temperature²·I).

        Args:
            n: Number of images.
            seed: Seed of the latents, 0 to 2⁶⁴ − 1; random if None.
            temperature: Standard deviation of the latents, 0 to 100; 1 is the prior.

        Returns:
            Images (n, C, H, W), with the seed.

        """
        return self._send(calls.sample(n, seed=seed, temperature=temperature))

    def interpolate(
        self,
        start: LatentInput,
        stop: LatentInput,
        *,
        steps: int = 8,
        method: Literal["linear", "spherical"] = "linear",
    ) -> Images:
        """Decode latents on the path from one latent to another.

        Args:
            start: First latent, L.
            stop: Last latent, L.
            steps: Number of images, both ends included.
            method: `linear`, or `spherical` (slerp).

        Returns:
            Images (steps, C, H, W).

        """
        return self._send(calls.interpolate(start, stop, steps=steps, method=method))

    def traverse(
        self, at: LatentInput, dimensions: Sequence[int], *, low: float = -3, high: float = 3, steps: int = 15
    ) -> Images:
        """Decode latents that differ from one latent in one or two dimensions.

        Args:
            at: The latent, (D,).
            dimensions: Indices of one or two of its dimensions.
            low: First value of each dimension.
            high: Last value.
            steps: Number of values.

        Returns:
            Images (steps, C, H, W); for two dimensions (steps², C, H, W), where the first varies fastest.

        Raises:
            NotFoundError: The model's latents are maps.

        """
        return self._send(calls.traverse(at, dimensions, low=low, high=high, steps=steps))

    def model(self) -> Model:
        """Return the description of the model that the service has loaded."""
        return self._send(calls.model())

    def latents(self) -> Latents:
        """Return the latents of the test set that lie beside the checkpoint.

        Raises:
            NotFoundError: The checkpoint has none.

        """
        return self._send(calls.latents())

    def health(self) -> Health:
        """Return whether the service accepts requests; a service that starts or drains does not."""
        return self._send(calls.health())

    def map(
        self,
        call: Callable[[Any], T],
        items: Iterable[Any],
        *,
        size: int = 1000,
        in_flight: int = 4,
        progress: bool = False,
    ) -> Iterator[T]:
        """Call a method on batches of many items, several at a time.

        Memory does not grow with the number of items. A `seed` passed on by `call` is the same for every batch.

        Args:
            call: A method that takes a batch, such as `client.encode`.
            items: An array or a tensor (N, …), or an iterable of images or latents, which is read only as needed.
            size: Maximum number of items of a batch, which also has at most 8 MiB.
            in_flight: Maximum number of batches that are being computed or whose results have not been taken yet.
            progress: Show a progress bar (needs tqdm: `pip install 'vae-client[progress]'`).

        Yields:
            The results of `call`, in the order of the items.

        Raises:
            ValueError: `size` or `in_flight` is less than 1.

        """
        return map_threads(call, items, size=size, in_flight=in_flight, progress=progress)

    def _send(self, call: Call[T]) -> T:
        deadline = Deadline(self._options.timeout, self._options.max_retries)
        while True:
            try:
                return call.parse(self._exchange(call, deadline))
            except APIError as error:
                delay = deadline.retry_delay(error)
            time.sleep(delay)

    def _exchange(self, call: Call[T], deadline: Deadline) -> httpx.Response:
        chunks: list[bytes] | None = None
        try:
            extensions = deadline.request_extensions()
            with self._http.stream(**self._options.request(call), extensions=extensions) as response:
                chunks = []
                for chunk in response.iter_raw():
                    chunks.append(chunk)
                    deadline.remaining()
                return calls.complete_response(response, b"".join(chunks))
        except httpx.RequestError as error:
            raise calls.translate_error(error, deadline.timeout_error(), response_started=chunks is not None) from error
