"""Request bodies → arrays and documents, every size and shape checked before anything is queued."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service import npy
from service.call import Call
from service.errors import InvalidInput, Problem, TooLarge, UnreadableBody, UnsupportedMediaType
from service.images import FORMATS, Fit, open_image, to_array
from service.schemas import LATENT_BOUND

FloatArray = npt.NDArray[np.float32]
Document = TypeVar("Document", bound=BaseModel)

JSON = "application/json"
MULTIPART = "multipart/form-data"
INLINE_PIXELS = 256 * 256
"""Larger pictures are decoded in a thread: they take milliseconds."""
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


@dataclass(frozen=True)
class Batch:
    """Rows (N, …) float32; `single` where the caller sent one item, not a batch of one."""

    rows: FloatArray
    single: bool


async def read_images(call: Call, limits: Limits, shape: tuple[int, int, int], *, fit: Fit, invert: bool) -> Batch:
    """One image, several in a multipart body, or an npy array → (N, C, H, W) in [0, 1]."""
    content_type = call.media_type
    if content_type not in (*FORMATS, MULTIPART, npy.MEDIA_TYPE):
        raise _unsupported(content_type, (*FORMATS, MULTIPART, npy.MEDIA_TYPE))
    body = await call.read(limits.body)
    if content_type == npy.MEDIA_TYPE:
        return _images_of_array(npy.read_npy(body), limits, shape)
    pictures = await _parts(call, body, limits) if content_type == MULTIPART else [("The body", body)]

    def decode(image: Image, name: str) -> FloatArray:
        return to_array(image, shape, fit=fit, invert=invert, name=name)

    def decode_all() -> FloatArray:
        return np.stack([decode(open_image(picture, limits.image_pixels, name), name) for name, picture in pictures])

    if len(pictures) == 1:
        name, picture = pictures[0]
        image = open_image(picture, limits.image_pixels, name)
        small = image.width * image.height <= INLINE_PIXELS
        pixels = decode(image, name) if small else await asyncio.to_thread(decode, image, name)
        return Batch(pixels[np.newaxis], single=True)
    return Batch(await asyncio.to_thread(decode_all), single=False)


async def read_latents(call: Call, limits: Limits, latent_dim: int) -> Batch:
    """JSON `[…]`, `[[…], …]` or either as `{"z": …}`, or an npy array → (N, D), finite."""
    content_type = call.media_type
    if content_type not in (JSON, npy.MEDIA_TYPE):
        raise _unsupported(content_type, (JSON, npy.MEDIA_TYPE))
    body = await call.read(limits.body)
    if content_type == npy.MEDIA_TYPE:
        array = npy.read_npy(body)
        if array.ndim not in (1, 2) or array.shape[-1] != latent_dim or not array.size:
            wanted = f"({latent_dim},) or (N, {latent_dim})"
            raise InvalidInput(Problem("body", "", f"The array has the shape {array.shape}; {wanted} is wanted."))
        limits.check_batch(array.size // latent_dim)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            rows = array.astype(np.float32)
        if not (np.abs(rows) <= LATENT_BOUND).all():
            raise InvalidInput(
                Problem("body", "", f"The array holds numbers that are not finite or beyond ±{LATENT_BOUND:g}.")
            )
        return Batch(rows.reshape(-1, latent_dim), single=array.ndim == 1)
    return _latents_of_json(_parse_json(body), limits, latent_dim)


async def read_document(call: Call, limits: Limits, document: type[Document]) -> Document:
    """A JSON body → `document`, or InvalidInput with a pointer for each bad field."""
    content_type = call.media_type
    if content_type != JSON:
        raise _unsupported(content_type, (JSON,))
    try:
        return document.model_validate(_parse_json(await call.read(limits.body)))
    except ValidationError as error:
        raise invalid("body", error) from error


def invalid(place: str, error: ValidationError) -> InvalidInput:
    """What pydantic complains of in the body or the query, each field named."""
    return InvalidInput(*(_problem(place, complaint) for complaint in error.errors()[:MANY_PROBLEMS]))


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
    return UnsupportedMediaType(f"{sent}; this route takes {', '.join(taken)}.")


def _parse_json(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=True)  # NaN is told as a wrong value, not as bad JSON
    except ValueError as error:
        raise UnreadableBody(f"The body is not JSON: {error}.") from error


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
        yield body
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


def _images_of_array(array: npt.NDArray[Any], limits: Limits, shape: tuple[int, int, int]) -> Batch:
    grey = shape[0] == 1
    single = array.shape == shape or (grey and array.shape == shape[1:])
    batch = array.shape[1:] == shape or (grey and array.shape[1:] == shape[1:])
    if not (single or batch) or not array.size:
        c, h, w = shape
        wanted = f"({c}, {h}, {w}) or (N, {c}, {h}, {w})" + (f", or ({h}, {w}) or (N, {h}, {w})," if grey else "")
        raise InvalidInput(Problem("body", "", f"The array has the shape {array.shape}; {wanted} is wanted."))
    limits.check_batch(1 if single else len(array))
    if array.dtype == np.uint8:
        rows = array.astype(np.float32) / np.float32(255)
    elif (array >= 0).all() and (array <= 1).all():
        rows = array.astype(np.float32)
    else:
        raise InvalidInput(Problem("body", "", "The array holds numbers outside [0, 1]; scale it, or send uint8."))
    return Batch(rows.reshape(-1, *shape), single=single)


def _latents_of_json(document: Any, limits: Limits, latent_dim: int) -> Batch:
    pointer = ""
    if isinstance(document, dict):
        if unknown := sorted(document.keys() - {"z"})[:MANY_PROBLEMS]:
            problem = "{} is no field of this object; 'z' is its only one."
            raise InvalidInput(*(Problem("body", f"/{_escape(name)}", problem.format(brief(name))) for name in unknown))
        document, pointer = document.get("z"), "/z"
    if not isinstance(document, list) or not document:
        raise InvalidInput(Problem("body", pointer, f"A latent of {latent_dim} numbers, or a list of them, is wanted."))
    single = not isinstance(document[0], list)
    vectors = [document] if single else document
    limits.check_batch(len(vectors))
    problems: list[Problem] = []
    for index, vector in enumerate(vectors):
        problems += _vector_problems(vector, pointer if single else f"{pointer}/{index}", latent_dim)
        if len(problems) >= MANY_PROBLEMS:
            break
    if problems:
        raise InvalidInput(*problems[:MANY_PROBLEMS])
    return Batch(np.array(vectors, np.float32), single=single)


def _vector_problems(vector: Any, pointer: str, latent_dim: int) -> list[Problem]:
    if not isinstance(vector, list) or len(vector) != latent_dim:
        came = f"a list of {len(vector)}" if isinstance(vector, list) else "no list"
        return [Problem("body", pointer, f"A latent of {latent_dim} numbers is wanted; {came} came.")]
    return [
        Problem("body", f"{pointer}/{i}", f"{brief(value)} is not a finite number within ±{LATENT_BOUND:g}.")
        for i, value in enumerate(vector)
        if type(value) not in (int, float) or not -LATENT_BOUND <= value <= LATENT_BOUND
    ]
