"""Request bodies → arrays and documents, every size and shape checked before anything is queued."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from math import prod
from reprlib import repr as brief
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.arrays import Format, wrong
from service.call import Call
from service.errors import InvalidInput, Problem, TooLarge, UnreadableBody, UnsupportedMediaType
from service.formats import ARRAY_FORMATS, missing
from service.images import FORMATS, Fit, open_image, to_array
from service.schemas import LATENT_BOUND, latents_check

FloatArray = npt.NDArray[np.float32]
Document = TypeVar("Document", bound=BaseModel)
Result = TypeVar("Result")

JSON = "application/json"
NDJSON = "application/x-ndjson"
"""A JSON value a line; https://github.com/ndjson/ndjson-spec has this type, none is registered."""
MULTIPART = "multipart/form-data"
IMAGE_TYPES = (*FORMATS, MULTIPART, *ARRAY_FORMATS)
LATENT_TYPES = (JSON, NDJSON, *ARRAY_FORMATS)
INLINE_PIXELS, INLINE_BYTES = 256 * 256, 2**15
"""Larger pictures are decoded in a thread: they take milliseconds, and much may be made of a few bytes."""
TURN_S = 0.05
"""So long the pictures of a form may keep a thread that others wait for."""
INLINE_JSON = 2**16
"""Larger bodies of latents are read in a thread; one as large as this holds fewer than JSON_VALUES."""
FORM_PIECE = 2**14
"""Bytes of a form that are parsed in one go: some hundred parts."""
JSON_VALUES = 50_000
"""Values in a JSON body, unless latents of as many images as may be given have more; wrong ones are slow to be told."""
MANY_PROBLEMS = 8
"""After so many bad fields the rest go unsaid."""


@dataclass(frozen=True)
class Limits:
    """What is refused with 413: bytes of a body, pixels of a picture, items of a batch."""

    body: int
    image_pixels: int
    batch: int

    def check_batch(self, count: int) -> None:
        """Raise TooLarge where `count` images or latents are more than one request may hold."""
        if count > self.batch:
            raise TooLarge(f"{brief(count)} items are asked for in one request; at most {self.batch} are taken.")

    def check_form(self, pixels: int) -> None:
        """Raise TooLarge where the pictures of a form have more pixels than one request may hold."""
        if pixels > self.image_pixels:
            raise TooLarge(f"The form's pictures have {pixels} pixels; at most {self.image_pixels} are taken.")

    def check_pixels(self, count: int, shape: tuple[int, int, int], what: str = "The images") -> None:
        """Raise TooLarge where `count` images of `shape` (C, H, W) have more pixels than one request may hold."""
        if (pixels := count * shape[1] * shape[2]) > self.image_pixels:
            raise TooLarge(f"{what} would have {pixels} pixels; at most {self.image_pixels} are given.")


class Batch(NamedTuple):
    """Rows (N, …) float32; `single` where the caller sent one item, not a batch of one."""

    rows: FloatArray
    single: bool


async def read_images(call: Call, limits: Limits, shape: tuple[int, int, int], *, fit: Fit, invert: bool) -> Batch:
    """One image, several in a multipart body, or an array → (N, C, H, W) in [0, 1]."""
    content_type = call.media_type
    if content_type not in IMAGE_TYPES:
        raise _unsupported(content_type, IMAGE_TYPES)
    body = await call.read(limits.body)
    if array_format := ARRAY_FORMATS.get(content_type):
        return _images_of_array(array_format, body, limits, shape)
    pictures = await _parts(call, body, limits) if content_type == MULTIPART else [("The body", body)]
    limits.check_pixels(len(pictures), shape)

    def read_header(name: str, picture: bytes) -> Image:
        return open_image(picture, limits.image_pixels, name)

    def decode(image: Image, name: str) -> FloatArray:
        return to_array(image, shape, fit=fit, invert=invert, name=name)

    single = len(pictures) == 1
    if single and len(pictures[0][1]) <= INLINE_BYTES:
        name, picture = pictures[0]
        image = read_header(name, picture)
        if prod(image.size) <= INLINE_PIXELS:
            return Batch(decode(image, name)[np.newaxis], single)
    if not single:  # what is opened is not kept: each may hold a profile of a megabyte
        limits.check_form(sum(await _in_turns(prod(read_header(*picture).size) for picture in pictures)))
    rows = await _in_turns(decode(read_header(name, picture), name) for name, picture in pictures)
    return Batch(np.stack(rows), single)


async def _in_turns(results: Iterator[Result]) -> list[Result]:
    """All of them, in a thread, which is left to others after each turn.

    Nobody can cancel a thread, but who has gone has no further turn.
    """
    gathered: list[Result] = []

    def take_turn() -> bool:
        over = time.monotonic() + TURN_S
        for result in results:
            gathered.append(result)
            if time.monotonic() > over:
                return True
        return False

    while await asyncio.to_thread(take_turn):
        pass
    return gathered


async def read_latents(call: Call, limits: Limits, shape: tuple[int, ...]) -> Batch:
    """JSON lists of `shape`, a list of such, or either as `{"z": …}`; such a line each; or an array → (N, *shape).

    All are finite.
    """
    content_type = call.media_type
    if content_type not in LATENT_TYPES:
        raise _unsupported(content_type, LATENT_TYPES)
    body = await call.read(limits.body)
    if array_format := ARRAY_FORMATS.get(content_type):
        return _latents_of_array(array_format, body, limits, shape)
    read = _latents_of_lines if content_type == NDJSON else _latents_of_json
    if len(body) <= INLINE_JSON:
        return read(body, limits, shape, JSON_VALUES)
    _, height, width = call.app.state.loaded.engine.config.image_shape
    most = min(limits.batch, limits.image_pixels // (height * width))
    return await asyncio.to_thread(read, body, limits, shape, max(JSON_VALUES, most * prod(shape)))


async def read_document(call: Call, limits: Limits, document: type[Document], values: int = JSON_VALUES) -> Document:
    """A JSON body of at most `values` values → `document`, or InvalidInput with a pointer for each bad field."""
    content_type = call.media_type
    if content_type != JSON:
        raise _unsupported(content_type, (JSON,))
    try:
        return document.model_validate(_parse_json(await call.read(limits.body), values))
    except ValidationError as error:
        raise invalid("body", error) from error


def invalid(place: str, error: ValidationError) -> InvalidInput:
    """What pydantic complains of in the body or the query, each field named."""
    complaints = error.errors(include_url=False, include_context=False, include_input=False)
    return InvalidInput(*(_problem(place, complaint) for complaint in complaints[:MANY_PROBLEMS]))


def _problem(place: str, complaint: ErrorDetails) -> Problem:
    location, message = complaint["loc"], complaint["msg"]
    if place == "query" and complaint["type"] == "extra_forbidden":
        message = "This route has no such parameter"
    name = ".".join(map(str, location)) or f"The {place}"
    return Problem(place, "".join(f"/{_escape(part)}" for part in location), f"{name}: {message}.")


def _escape(part: int | str) -> str:
    """RFC 6901, section 3."""
    return str(part).replace("~", "~0").replace("/", "~1")


def _unsupported(content_type: str, taken: tuple[str, ...]) -> UnsupportedMediaType:
    sent = f"The content type is {content_type!r}" if content_type else "The request has no content type"
    return UnsupportedMediaType(f"{sent}; this route takes {', '.join(taken)}.{missing(content_type)}")


def _parse_json(body: bytes, values: int = JSON_VALUES, name: str = "The body") -> Any:
    _check_values(body, values)
    try:
        return from_json(body, allow_inf_nan=True)  # NaN is told as a wrong value, not as bad JSON
    except ValueError as error:
        raise UnreadableBody(f"{name} is not JSON: {error}.") from error


def _check_values(body: bytes, values: int) -> None:
    if body.count(b",") > values:
        raise TooLarge(f"The body holds more than the {values} values that are taken.")


class _InMemoryParser(MultiPartParser):
    spool_max_size = 2**40  # the body is in memory already, and bounded: nothing is written to disk
    parts = 0
    whole = False

    def on_part_begin(self) -> None:
        self.parts += 1
        if self.parts > self.max_files:
            raise TooLarge(f"The form has too many parts; at most {self.max_files:g} are taken.")
        super().on_part_begin()

    def on_end(self) -> None:
        self.whole = True


async def _parts(call: Call, body: bytes, limits: Limits) -> list[tuple[str, bytes]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), FORM_PIECE):
            yield body[start : start + FORM_PIECE]
            await asyncio.sleep(0)
        if not parser.whole:
            raise UnreadableBody("The body is not a whole multipart form: its last boundary is missing.")

    parser = _InMemoryParser(call.headers, stream(), max_files=limits.batch, max_fields=limits.batch)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:  # ValueError: a charset that cannot decode
        raise UnreadableBody(f"The body is not a multipart form: {str(error).rstrip('.')}.") from error
    parts = []
    try:
        for number, (name, part) in enumerate(form.multi_items(), start=1):
            if name != "image" or not isinstance(part, UploadFile):
                kind = "a file" if isinstance(part, UploadFile) else "text"
                problem = f"Part {number} is {kind} named {name!r}; files named 'image' are wanted."
                raise InvalidInput(Problem("body", f"/{_escape(name)}", problem))
            parts.append((f"Part {number}", part.file.read()))
    finally:
        await form.close()
    if not parts:
        raise InvalidInput(Problem("body", "/image", "The form has no part named 'image'."))
    return parts


def _images_of_array(array_format: Format, body: bytes, limits: Limits, shape: tuple[int, int, int]) -> Batch:
    array = array_format.read(body, "pixels")
    grey = shape[0] == 1
    single = not array_format.is_table and (array.shape == shape or (grey and array.shape == shape[1:]))
    batch = array.shape[1:] == shape or (grey and array.shape[1:] == shape[1:])
    if not (single or batch) or not array.size:
        c, h, w = shape
        wanted = f"({c}, {h}, {w}) or (N, {c}, {h}, {w})" + (f", or ({h}, {w}) or (N, {h}, {w})," if grey else "")
        raise wrong(f"The array has the shape {array.shape}; {wanted} is wanted.")
    limits.check_batch(1 if single else len(array))
    if array.dtype == np.uint8:
        rows = array.astype(np.float32) / np.float32(255)
    elif (array >= 0).all() and (array <= 1).all():
        rows = array.astype(np.float32, copy=False)
    else:
        raise wrong("The array holds numbers outside [0, 1]; scale it, or send uint8.")
    return Batch(rows.reshape(-1, *shape), single=single)


def _latents_of_array(array_format: Format, body: bytes, limits: Limits, shape: tuple[int, ...]) -> Batch:
    array = array_format.read(body, "z")
    single = not array_format.is_table and array.shape == shape
    if not (single or array.shape[1:] == shape) or not array.size:
        wanted = f"{shape} or (N, {', '.join(map(str, shape))})"
        raise wrong(f"The array has the shape {array.shape}; {wanted} is wanted.")
    limits.check_batch(1 if single else len(array))
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        rows = array.astype(np.float32, copy=False)
    if not (np.abs(rows) <= LATENT_BOUND).all():
        raise wrong(f"The array holds numbers that are not finite or beyond ±{LATENT_BOUND:g}.")
    return Batch(rows.reshape(-1, *shape), single=single)


def _latents_of_lines(body: bytes, limits: Limits, shape: tuple[int, ...], values: int) -> Batch:
    _check_values(body, values)
    limits.check_batch(body.strip().count(b"\n") + 1)
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), start=1) if line.strip()]
    documents = [_parse_json(line, values, f"Line {number} of the body") for number, line in lines]
    found = [_z_of(document, f"/{index}") for index, document in enumerate(documents)]
    if not found:
        raise wrong("The body has no lines; a latent in each is wanted.")
    return Batch(_rows_of_json([z for z, _ in found], shape, lambda index: found[index][1]), single=False)


def _latents_of_json(body: bytes, limits: Limits, shape: tuple[int, ...], values: int) -> Batch:
    z, pointer = _z_of(_parse_json(body, values), "")
    if not isinstance(z, list) or not z:
        numbers = "×".join(map(str, shape))
        raise InvalidInput(Problem("body", pointer, f"A latent of {numbers} numbers, or a list of them, is wanted."))
    if _depth(z) <= len(shape):
        return Batch(_rows_of_json([z], shape, lambda _: pointer), single=True)
    limits.check_batch(len(z))
    return Batch(_rows_of_json(z, shape, lambda index: f"{pointer}/{index}"), single=False)


def _z_of(document: Any, pointer: str) -> tuple[Any, str]:
    """What is in a `{"z": …}`, or what has none around it, and where."""
    if not isinstance(document, dict):
        return document, pointer
    z = document.pop("z", None)
    if document:
        problem = "{} is no field of this object; 'z' is its only one."
        names = sorted(document)[:MANY_PROBLEMS]
        raise InvalidInput(
            *(Problem("body", f"{pointer}/{_escape(name)}", problem.format(brief(name))) for name in names)
        )
    return z, f"{pointer}/z"


def _rows_of_json(latents: list[Any], shape: tuple[int, ...], pointer: Callable[[int], str]) -> FloatArray:
    """Lists of `shape` → (N, *shape); `pointer` says where each is in the body. Raises InvalidInput."""
    try:
        latents_check(shape)(latents)
    except ValidationError:
        problems: list[Problem] = []
        for index, latent in enumerate(latents):
            problems += _latent_problems(latent, pointer(index), shape)
            if len(problems) >= MANY_PROBLEMS:
                break
        raise InvalidInput(*problems[:MANY_PROBLEMS]) from None
    return np.array(latents, np.float32)


def _depth(document: Any) -> int:
    """How many lists are in one another, by the first of each."""
    depth = 0
    while isinstance(document, list):
        depth += 1
        document = document[0] if document else None
    return depth


def _latent_problems(latent: Any, pointer: str, shape: tuple[int, ...]) -> list[Problem]:
    """Each that `latents_check` stops at the first of, in the service's words."""
    if not isinstance(latent, list) or len(latent) != shape[0]:
        came = f"a list of {len(latent)}" if isinstance(latent, list) else "no list"
        numbers = "×".join(map(str, shape))
        return [Problem("body", pointer, f"A latent of {numbers} numbers is wanted; {came} came.")]
    if len(shape) > 1:
        return [
            problem for i, part in enumerate(latent) for problem in _latent_problems(part, f"{pointer}/{i}", shape[1:])
        ]
    return [
        Problem("body", f"{pointer}/{i}", f"{brief(value)} is not a finite number within ±{LATENT_BOUND:g}.")
        for i, value in enumerate(latent)
        if type(value) not in (int, float) or not -LATENT_BOUND <= value <= LATENT_BOUND
    ]
