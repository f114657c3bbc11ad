"""The client of a VAE service: `Client`, and `AsyncClient` for asyncio. Imports httpx and numpy alone.

torch, Pillow and tqdm are imported when one of their objects is asked for, never before.
"""

from vae_client.answers import Images, Model, Posterior, Reconstruction
from vae_client.async_client import AsyncClient
from vae_client.client import Client
from vae_client.errors import (
    AnswerCut,
    ConnectionFailed,
    DeadlineExceeded,
    FieldProblem,
    InternalError,
    InvalidInput,
    NotAcceptable,
    NotFound,
    Problem,
    Refused,
    ShareExceeded,
    SlowCaller,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    UnreadableBody,
    UnsupportedMediaType,
    VAEError,
)

__all__ = [
    "AnswerCut",
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "FieldProblem",
    "Images",
    "InternalError",
    "InvalidInput",
    "Model",
    "NotAcceptable",
    "NotFound",
    "Posterior",
    "Problem",
    "Reconstruction",
    "Refused",
    "ShareExceeded",
    "SlowCaller",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "UnreadableBody",
    "UnsupportedMediaType",
    "VAEError",
]
