"""Errors of the client.

APIError                               base class of the errors below
├── APIConnectionError                 no response: connection refused or reset, unknown host
├── APITimeoutError                    no complete response within the call's `timeout`; also a TimeoutError
├── IncompleteResponseError            the connection broke in the middle of a response
├── APIResponseValidationError         a response with status 200 that cannot be parsed
└── APIStatusError                     a response with another status, of which these have a class of their own:
    ├── BadRequestError            400
    ├── AuthenticationError        401
    ├── NotFoundError              404
    ├── NotAcceptableError         406
    ├── RequestTimeoutError        408
    ├── RequestTooLargeError       413
    ├── UnsupportedMediaTypeError  415
    ├── UnprocessableEntityError   422
    ├── RateLimitError             429
    ├── InternalServerError        500
    ├── ServiceUnavailableError    503
    └── GatewayTimeoutError        504

An argument that cannot be sent, such as an object that is not an image, raises TypeError or ValueError instead.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx

MAX_EXCERPT = 200
"""Bytes to show of an error response that is not a problem document, such as the page of a gateway."""


class APIError(Exception):
    """A call failed."""


class APIConnectionError(APIError):
    """No response arrived."""


class APITimeoutError(APIError, TimeoutError):
    """No complete response arrived within the call's `timeout`."""


class IncompleteResponseError(APIError):
    """The connection broke in the middle of a response."""


class APIResponseValidationError(APIError):
    """The response cannot be parsed: perhaps the URL is not that of a VAE service."""


@dataclass(frozen=True)
class FieldProblem:
    """One invalid field: `place` is body, query, path or header, `pointer` an RFC 6901 pointer into it."""

    place: str
    pointer: str
    detail: str


@dataclass(frozen=True)
class Problem:
    """The problem document of an error response (RFC 9457); `detail` says how to correct the request."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldProblem, ...] = ()


class APIStatusError(APIError):
    """The service responded with an error.

    Attributes:
        response: The response with its body. Its request has a method and a URL only: neither key nor body.
        status_code: Status of the response.
        request_id: The request's id in the service's logs, if the response has one.
        problem: The problem document.
        retry_after: Seconds after which to try again, if the response says so.

    """

    status_code: int

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response)
        self.response = response
        self.status_code = response.status_code
        self.request_id = response.headers.get("x-request-id")
        self.problem = _parse_problem(response.status_code, response.content)
        self.retry_after = _parse_retry_after(response.headers.get("retry-after"))

    @property
    def status(self) -> int:
        """Old name of `status_code`, which works until version 0.2."""
        message = "status is now status_code; the old name will be removed in version 0.2."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.status_code

    def __str__(self) -> str:
        return f"{self.problem.status} {self.problem.title}: {self.problem.detail}"


class BadRequestError(APIStatusError):
    """The body is truncated, or not an image, JSON or an array."""

    status_code = 400


class AuthenticationError(APIStatusError):
    """The API key is missing or wrong."""

    status_code = 401


class NotFoundError(APIStatusError):
    """The service, or its model, has no such route."""

    status_code = 404


class NotAcceptableError(APIStatusError):
    """The service cannot respond in a format that the client accepts."""

    status_code = 406


class RequestTimeoutError(APIStatusError):
    """The rest of the request did not arrive in time."""

    status_code = 408


class RequestTooLargeError(APIStatusError):
    """The body, an image or the batch exceeds a limit of the service."""

    status_code = 413


class UnsupportedMediaTypeError(APIStatusError):
    """The service does not accept this format."""

    status_code = 415


class UnprocessableEntityError(APIStatusError):
    """A value has the wrong shape or type, is out of range or not finite; `problem.errors` names the fields."""

    status_code = 422


class RateLimitError(APIStatusError):
    """The API key has used up its share of the queue."""

    status_code = 429


class InternalServerError(APIStatusError):
    """The service failed."""

    status_code = 500


class ServiceUnavailableError(APIStatusError):
    """The service is starting or shutting down, or its queue is full."""

    status_code = 503


class GatewayTimeoutError(APIStatusError):
    """The service could not compute the result within its own deadline."""

    status_code = 504


_BY_STATUS = {kind.status_code: kind for kind in APIStatusError.__subclasses__()}

_RENAMED: dict[str, type[APIError]] = {
    "AnswerCut": IncompleteResponseError,
    "ConnectionFailed": APIConnectionError,
    "DeadlineExceeded": GatewayTimeoutError,
    "InternalError": InternalServerError,
    "InvalidInput": UnprocessableEntityError,
    "NotAcceptable": NotAcceptableError,
    "NotFound": NotFoundError,
    "Refused": APIStatusError,
    "ShareExceeded": RateLimitError,
    "SlowCaller": RequestTimeoutError,
    "TimedOut": APITimeoutError,
    "TooLarge": RequestTooLargeError,
    "Unauthorized": AuthenticationError,
    "Unavailable": ServiceUnavailableError,
    "UnexpectedAnswer": APIResponseValidationError,
    "UnreadableBody": BadRequestError,
    "UnsupportedMediaType": UnsupportedMediaTypeError,
    "VAEError": APIError,
}
"""Old names, which work until version 0.2."""

if not TYPE_CHECKING:  # a module with __getattr__ has, for type checkers, every name

    def __getattr__(name: str) -> type[APIError]:
        """Return the class that had the name `name`; `vae_client` uses this function too."""
        if name not in _RENAMED:
            raise AttributeError(f"module 'vae_client' has no attribute {name!r}")
        renamed = _RENAMED[name]
        message = f"vae_client.{name} is now {renamed.__name__}; the old name will be removed in version 0.2."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return renamed


def status_error(response: httpx.Response) -> APIStatusError:
    """Return the error for a response whose status is not 200."""
    return _BY_STATUS.get(response.status_code, APIStatusError)(response)


def _parse_problem(status: int, body: bytes) -> Problem:
    try:
        document = json.loads(body)
        errors = [FieldProblem(field["in"], field["pointer"], field["detail"]) for field in document.get("errors", ())]
        return Problem(document["type"], document["title"], status, document["detail"], tuple(errors))
    except (ValueError, LookupError, TypeError, AttributeError):  # the page of a gateway
        title = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
        excerpt = body[:MAX_EXCERPT].decode(errors="replace").strip()
        return Problem("about:blank", title, status, excerpt or "The response has no body.")


def _parse_retry_after(field: str | None) -> float | None:
    """Return seconds from now, for seconds or a date (RFC 9110, section 10.2.3); None if it is neither."""
    if field is None:
        return None
    if field.isascii() and field.isdigit():
        return float(field)
    try:
        when = parsedate_to_datetime(field)
        return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
