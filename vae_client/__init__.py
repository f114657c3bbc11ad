"""A client of the VAE service: `Client`, and `AsyncClient` for asyncio. Imports only httpx and NumPy.

torch, Pillow and tqdm are imported when one of their objects is requested, not before.
"""

from typing import TYPE_CHECKING

from vae_client.async_client import AsyncClient
from vae_client.client import Client
from vae_client.errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    FieldProblem,
    GatewayTimeoutError,
    IncompleteResponseError,
    InternalServerError,
    NotAcceptableError,
    NotFoundError,
    Problem,
    RateLimitError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServiceUnavailableError,
    UnprocessableEntityError,
    UnsupportedMediaTypeError,
)
from vae_client.results import Health, Images, Latents, Model, Posterior, Reconstruction, Scores
from vae_client.version import __version__ as __version__

if not TYPE_CHECKING:
    from vae_client.errors import __getattr__  # noqa: F401 - the old names of errors

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "FieldProblem",
    "GatewayTimeoutError",
    "Health",
    "Images",
    "IncompleteResponseError",
    "InternalServerError",
    "Latents",
    "Model",
    "NotAcceptableError",
    "NotFoundError",
    "Posterior",
    "Problem",
    "RateLimitError",
    "Reconstruction",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "Scores",
    "ServiceUnavailableError",
    "UnprocessableEntityError",
    "UnsupportedMediaTypeError",
]
