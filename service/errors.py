"""The exceptions that become HTTP error responses.

ServiceError
├── UnreadableBody         400  not an image, JSON or array, or truncated
├── Unauthorized           401
├── NotFound               404
├── MethodNotAllowed       405
├── NotAcceptable          406
├── RequestTimeout         408  the client stopped sending the request
├── TooLarge               413  body, image dimensions or batch over a limit
├── UnsupportedMediaType   415
├── InvalidInput           422  readable, but with wrong values; `problems` lists them
├── TooManyRequests        429  one API key exceeds its share of the queue
├── HeadTooLarge           431  the request line and header fields
├── InternalError          500  reveals no internals
├── UnsupportedTransferCoding  501
├── Unavailable            503  queue full, no memory, starting, draining
├── DeadlineExceeded       504
└── UnsupportedVersion     505  of HTTP

The response to each is `application/problem+json` (RFC 9457).
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar, NamedTuple

MEDIA_TYPE = "application/problem+json"


class Problem(NamedTuple):
    """A wrong field: `location` is body, query, path or header, `pointer` an RFC 6901 pointer into it."""

    location: str
    pointer: str
    detail: str


class ServiceError(Exception):
    """An error that the client sees; `detail` is a sentence that says how to correct the request."""

    status: ClassVar[HTTPStatus]
    reason: str = ""
    """Label in the metric of refusals; empty for a mistake of the client, which is not counted there."""

    def __init__(
        self, detail: str, *, problems: Sequence[Problem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = problems
        self.headers = dict(headers or {})


class UnreadableBody(ServiceError):
    """The body is not an image, JSON or an array, or it is truncated."""

    status = HTTPStatus.BAD_REQUEST


class Unauthorized(ServiceError):
    """The API key is missing or wrong."""

    status = HTTPStatus.UNAUTHORIZED
    reason = "key"


class NotFound(ServiceError):
    """Nothing exists at this path."""

    status = HTTPStatus.NOT_FOUND


class MethodNotAllowed(ServiceError):
    """The path exists, but does not take this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED


class NotAcceptable(ServiceError):
    """The route can give none of the media types in the Accept header."""

    status = HTTPStatus.NOT_ACCEPTABLE


class RequestTimeout(ServiceError):
    """The client did not send the rest of the request in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    reason = "slow_caller"


class TooLarge(ServiceError):
    """The body, the dimensions of an image, or the batch exceed a limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    reason = "too_large"


class UnsupportedMediaType(ServiceError):
    """The route does not take this content type."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class InvalidInput(ServiceError):
    """The request is readable, but has wrong values; `problems` lists them."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, *problems: Problem) -> None:
        super().__init__(" ".join(problem.detail for problem in problems), problems=problems)


class TooManyRequests(ServiceError):
    """An API key exceeds its share of the queue."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    reason = "share"


class HeadTooLarge(ServiceError):
    """The request line and header fields exceed a limit."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    reason = "too_large"


class InternalError(ServiceError):
    """The service failed; the response reveals no internals."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self) -> None:
        super().__init__("The service failed on this request; its log says why.")


class UnsupportedTransferCoding(ServiceError):
    """The body has a transfer coding other than chunked."""

    status = HTTPStatus.NOT_IMPLEMENTED


class Unavailable(ServiceError):
    """The queue or the memory for requests is full, or the service is starting or stopping."""

    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, detail: str, reason: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})
        self.reason = reason


class DeadlineExceeded(ServiceError):
    """The request exceeded its deadline."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    reason = "deadline"


class UnsupportedVersion(ServiceError):
    """The request is not HTTP/1."""

    status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


def problem_document(error: ServiceError) -> bytes:
    """The response body (RFC 9457), UTF-8."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": error.status.phrase,
        "status": int(error.status),
        "detail": error.detail,
    }
    if error.problems:
        document["errors"] = [
            {"in": problem.location, "pointer": problem.pointer, "detail": problem.detail} for problem in error.problems
        ]
    return json.dumps(document, ensure_ascii=False).encode(errors="replace")  # a lone surrogate cannot be encoded
