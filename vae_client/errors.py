"""What can go wrong with a call, one tree.

VAEError
├── ConnectionFailed            no answer came: refused, reset, no such host
├── TimedOut                    the call's time ran out; a TimeoutError too
├── AnswerCut                   the connection broke in the middle of an answer
├── UnexpectedAnswer            what answered does not speak as the service does
└── Refused                     an error answer: `problem` is its document, `retry_after` in seconds
    ├── UnreadableBody          400
    ├── Unauthorized            401
    ├── NotFound                404
    ├── NotAcceptable           406
    ├── SlowCaller              408
    ├── TooLarge                413
    ├── UnsupportedMediaType    415
    ├── InvalidInput            422  `problem.errors` names each bad field
    ├── ShareExceeded           429
    ├── InternalError           500
    ├── Unavailable             503
    └── DeadlineExceeded        504

What cannot be sent at all, such as an object that is no image, is a TypeError or a ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import ClassVar

EXCERPT = 200
"""Characters of an error answer that is no problem document: some gateway's page."""


class VAEError(Exception):
    """Whatever keeps a call from its answer."""


class ConnectionFailed(VAEError):
    """No answer came."""


class TimedOut(VAEError, TimeoutError):
    """The call's time ran out."""


class AnswerCut(VAEError):
    """The connection broke in the middle of an answer."""


class UnexpectedAnswer(VAEError):
    """What answered does not speak as the service does."""


@dataclass(frozen=True)
class FieldProblem:
    """One bad field: `place` is body, query, path or header, `pointer` an RFC 6901 pointer into it."""

    place: str
    pointer: str
    detail: str


@dataclass(frozen=True)
class Problem:
    """The document of an error answer, RFC 9457; `detail` says how to mend the request."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldProblem, ...] = ()


class Refused(VAEError):
    """The service answered with an error."""

    status: ClassVar[int]

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        """`retry_after`: in how many seconds the service would be asked again."""
        super().__init__(problem, retry_after)
        self.problem = problem
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.problem.status} {self.problem.title}: {self.problem.detail}"


class UnreadableBody(Refused):
    """The body is no image, no JSON, no npy, or is cut short."""

    status = 400


class Unauthorized(Refused):
    """A key is wanted; none, or a wrong one, was sent."""

    status = 401


class NotFound(Refused):
    """There is nothing at this path."""

    status = 404


class NotAcceptable(Refused):
    """The service cannot give what the client reads."""

    status = 406


class SlowCaller(Refused):
    """The rest of the request did not come in time."""

    status = 408


class TooLarge(Refused):
    """Body, image dimensions or batch are over a limit."""

    status = 413


class UnsupportedMediaType(Refused):
    """The bytes are of no kind that the service takes."""

    status = 415


class InvalidInput(Refused):
    """Wrong length, wrong shape, NaN, infinity, out of range."""

    status = 422


class ShareExceeded(Refused):
    """The key is over its share of the queue."""

    status = 429


class InternalError(Refused):
    """The service failed."""

    status = 500


class Unavailable(Refused):
    """Queue full, starting, draining."""

    status = 503


class DeadlineExceeded(Refused):
    """The service did not answer within its own deadline."""

    status = 504


_BY_STATUS = {kind.status: kind for kind in Refused.__subclasses__()}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error that an answer tells."""
    return _BY_STATUS.get(status, Refused)(_problem(status, body), _seconds(headers.get("retry-after")))


def _problem(status: int, body: bytes) -> Problem:
    try:
        document = json.loads(body)
        errors = [FieldProblem(field["in"], field["pointer"], field["detail"]) for field in document.get("errors", ())]
        return Problem(document["type"], document["title"], status, document["detail"], tuple(errors))
    except (ValueError, LookupError, TypeError, AttributeError):  # a gateway's page
        title = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
        said = body[:EXCERPT].decode(errors="replace").strip()
        return Problem("about:blank", title, status, said or "The answer says no more.")


def _seconds(retry_after: str | None) -> float | None:
    """RFC 9110, section 10.2.3: seconds, or a date."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        when = parsedate_to_datetime(retry_after)
        return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
