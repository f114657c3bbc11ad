"""One exception tree, and its one translation to HTTP.

ServiceError
├── UnreadableBody         400  no image, no JSON, no array, or cut short
├── Unauthorized           401
├── NotFound               404
├── MethodNotAllowed       405
├── NotAcceptable          406
├── SlowCaller             408  the rest of the request did not come
├── TooLarge               413  body, image dimensions or batch over a limit
├── UnsupportedMediaType   415
├── InvalidInput           422  readable, but with wrong values; `problems` names each
├── ShareExceeded          429  one key over its share of the queue
├── HeadTooLarge           431  the request's line and header fields
├── InternalError          500  says nothing of the inside
├── UnsupportedTransferCoding  501
├── Unavailable            503  queue full, no memory, starting, draining
├── DeadlineExceeded       504
└── UnsupportedVersion     505  of HTTP

Every error is answered as `application/problem+json` (RFC 9457).
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar, NamedTuple

MEDIA_TYPE = "application/problem+json"


class Problem(NamedTuple):
    """One bad field: `place` is body, query, path or header, `pointer` an RFC 6901 pointer into it."""

    place: str
    pointer: str
    detail: str


class ServiceError(Exception):
    """What a caller is told; `detail` is a sentence from which the request can be mended."""

    status: ClassVar[HTTPStatus]
    reason: str = ""
    """By which it is counted, where it is a refusal of the service rather than a mistake of the caller."""

    def __init__(
        self, detail: str, *, problems: Sequence[Problem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = problems
        self.headers = dict(headers or {})


class UnreadableBody(ServiceError):
    """The body is no image, no JSON, no array, or is cut short."""

    status = HTTPStatus.BAD_REQUEST


class Unauthorized(ServiceError):
    """An API key is wanted; none, or a wrong one, was sent."""

    status = HTTPStatus.UNAUTHORIZED
    reason = "key"


class NotFound(ServiceError):
    """There is nothing at this path."""

    status = HTTPStatus.NOT_FOUND


class MethodNotAllowed(ServiceError):
    """The path is there, the method is not."""

    status = HTTPStatus.METHOD_NOT_ALLOWED


class NotAcceptable(ServiceError):
    """None of the media types asked for can be given."""

    status = HTTPStatus.NOT_ACCEPTABLE


class SlowCaller(ServiceError):
    """The rest of the request did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    reason = "slow_caller"


class TooLarge(ServiceError):
    """Body, image dimensions or batch are over a limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    reason = "too_large"


class UnsupportedMediaType(ServiceError):
    """The body's content type is not taken."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class InvalidInput(ServiceError):
    """The request can be read, but holds wrong values; `problems` names each."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, *problems: Problem) -> None:
        super().__init__(" ".join(problem.detail for problem in problems), problems=problems)


class ShareExceeded(ServiceError):
    """One key is over its share of the queue."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    reason = "share"


class HeadTooLarge(ServiceError):
    """The request's line and header fields are over the limit."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    reason = "too_large"


class InternalError(ServiceError):
    """The service failed; nothing of its inside is told."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self) -> None:
        super().__init__("The service failed at this request; its log says why.")


class UnsupportedTransferCoding(ServiceError):
    """The body comes in a transfer coding other than chunked."""

    status = HTTPStatus.NOT_IMPLEMENTED


class Unavailable(ServiceError):
    """The queue is full, the memory for requests is in use, or the service starts or stops."""

    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, detail: str, reason: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})
        self.reason = reason


class DeadlineExceeded(ServiceError):
    """Not answered in time."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    reason = "deadline"


class UnsupportedVersion(ServiceError):
    """The request is not of HTTP/1."""

    status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


def problem_document(error: ServiceError) -> bytes:
    """The body of the answer, RFC 9457."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": error.status.phrase,
        "status": int(error.status),
        "detail": error.detail,
    }
    if error.problems:
        document["errors"] = [
            {"in": problem.place, "pointer": problem.pointer, "detail": problem.detail} for problem in error.problems
        ]
    return json.dumps(document, ensure_ascii=False).encode(errors="replace")  # a half surrogate is no UTF-8
