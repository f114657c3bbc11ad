"""Request bodies → arrays and JSON documents, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from math import prod
from reprlib import repr as brief
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pictures.opening import FORMATS
from service.api.context import model_context
from service.api.form import read_form
from service.api.offloading import FORM_BYTE_S, INLINE_S, JSON_BYTE_S, LONG_JSON_BYTE_S, VALUE_S
from service.api.pictures import PictureReader
from service.api.quoting import escape, shorten
from service.api.request import Request
from service.api.schemas import LATENT_BOUND, latents_check
from service.errors import InvalidInput, Problem, TooLarge, UnsupportedMediaType
from service.formats.arrays import Array, Format, wrong
from service.formats.json_reader import VALUES, count, count_values, read_json
from service.formats.registry import ARRAY_FORMATS, missing
from service.limits import Limits
from service.memory_budget import Reserve
from vae.metadata import Fit

FloatArray = npt.NDArray[np.float32]
Document = TypeVar("Document", bound=BaseModel)
Accepts = Callable[[tuple[int, ...]], bool]
"""Whether a video, or its latent, may have a shape."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
"""One JSON value per line; the type of https://github.com/ndjson/ndjson-spec, since none is registered."""
MULTIPART = "multipart/form-data"
IMAGE_TYPES = (*FORMATS, MULTIPART, *ARRAY_FORMATS)
LATENT_TYPES = (JSON, NDJSON, *ARRAY_FORMATS)
CONVERTED_BYTES = 7
"""Bytes per number that checking an array and converting it to float32 allocate."""
SMALLEST = 1e-20
"""Smaller pixels are set to 0: no image shows them, and their products with weights would be subnormal float32."""
BLANK_LINES = 4
"""Largest number of lines of NDJSON, including blank ones, in multiples of the batch limit."""
MAX_PROBLEMS = 8
"""Most wrong fields that an error lists."""


class Batch(NamedTuple):
    """Rows (N, …), float32; `single` if the request has one item instead of a batch of one."""

    rows: FloatArray
    single: bool


async def read_images(
    request: Request, limits: Limits, shape: tuple[int, ...], *, fit: Fit, invert: bool, accepts: Accepts | None = None
) -> Batch:
    """Read one image, several in a multipart form, or an array, as (N, C, H, W) in [0, 1].

    With `accepts`, read an array of videos (N, C, T, H, W) of any shape that it accepts.
    """
    content_type = request.media_type
    types = IMAGE_TYPES if accepts is None else tuple(ARRAY_FORMATS)
    if content_type not in types:
        raise _unsupported(content_type, types)
    body = await request.read(limits.body)
    if array_format := ARRAY_FORMATS.get(content_type):
        seconds = _seconds(array_format, body)
        return await request.run(seconds, _images_of_array, array_format, body, limits, shape, request.reserve, accepts)
    reader = PictureReader(request, limits, lambda *_: shape, fit=fit, invert=invert)
    if content_type != MULTIPART:
        limits.check_pixels(1, shape)
        return Batch(await reader.read(body), single=True)
    request.reserve(2 * len(body))  # its parts are copies, and are sliced once more
    pictures = await request.run(len(body) * FORM_BYTE_S, read_form, body, request.field(b"content-type"), limits.batch)
    return Batch(await reader.read_all(pictures), single=len(pictures) == 1)


async def read_latents(
    request: Request, limits: Limits, shape: tuple[int, ...], *, accepts: Accepts | None = None
) -> Batch:
    """Read latents as (N, *shape), finite: from JSON, NDJSON with one latent per line, or an array.

    JSON is a list of `shape`, a list of such lists, or either as `{"z": …}`. With `accepts`, an array may have any
    shape that it accepts.
    """
    content_type = request.media_type
    if content_type not in LATENT_TYPES:
        raise _unsupported(content_type, LATENT_TYPES)
    body = await request.read(limits.body)
    if array_format := ARRAY_FORMATS.get(content_type):
        seconds = _seconds(array_format, body)
        return await request.run(
            seconds, _latents_of_array, array_format, body, limits, shape, request.reserve, accepts
        )
    numbers = 0
    if len(body) > VALUES:  # it may have more values than a document without arrays
        pixels = prod(model_context(request).engine.config.image_shape[1:])
        numbers = min(limits.batch, limits.image_pixels // pixels) * prod(shape)
    read = _latents_of_lines if content_type == NDJSON else latents_of_json
    seconds = len(body) * (LONG_JSON_BYTE_S if numbers else JSON_BYTE_S)
    if seconds <= INLINE_S:  # saves a coroutine
        return read(body, limits, shape, request.reserve, numbers)
    return await request.run(seconds, read, body, limits, shape, request.reserve, numbers)


async def read_document(request: Request, limits: Limits, document: type[Document], values: int = VALUES) -> Document:
    """Read a JSON body of at most `values` values; raises InvalidInput with a pointer to each wrong field."""
    content_type = request.media_type
    if content_type != JSON:
        raise _unsupported(content_type, (JSON,))
    body = await request.read(limits.body)

    def read() -> Document:
        try:
            return document.model_validate(read_json(body, request.reserve, values=values))
        except ValidationError as error:
            raise invalid_input("body", error) from error

    return await request.run(len(body) * JSON_BYTE_S, read)


def invalid_input(location: str, error: ValidationError) -> InvalidInput:
    """Return pydantic's errors in the body or the query as ours."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return InvalidInput(*(_problem(location, each) for each in details[:MAX_PROBLEMS]))


def _problem(location: str, details: ErrorDetails) -> Problem:
    path, message = details["loc"], details["msg"]
    if location == "query" and details["type"] == "extra_forbidden":
        message = "This route has no such parameter"
    name = ".".join(map(shorten, path)) or f"The {location}"
    return Problem(location, "".join(f"/{escape(part)}" for part in path), f"{name}: {message}.")


def _unsupported(content_type: str, types: tuple[str, ...]) -> UnsupportedMediaType:
    sent = f"The content type is {content_type!r}" if content_type else "The request has no content type"
    return UnsupportedMediaType(f"{sent}; this route takes {', '.join(types)}.{missing(content_type)}")


def _seconds(array_format: Format, body: bytes) -> float:
    """Estimate the seconds to read an array; a table may consist of a thousand record batches."""
    return len(body) * VALUE_S + (2 * INLINE_S if array_format.is_table else 0)


def _item_shape(found: tuple[int, ...], shape: tuple[int, ...], accepts: Accepts | None) -> tuple[int, ...]:
    """Return the shape of the items of an array: its own where `accepts` has it, or else the expected one."""
    own = found[-len(shape) :]
    return own if accepts and len(own) == len(shape) and accepts(own) else shape


def _images_of_array(
    array_format: Format,
    body: bytes,
    limits: Limits,
    shape: tuple[int, ...],
    reserve: Reserve,
    accepts: Accepts | None,
) -> Batch:
    reserve(array_format.copies * len(body))
    array = array_format.read(body, "pixels")
    shape = _item_shape(array.shape, shape, accepts)
    grey = shape[0] == 1
    single = not array_format.is_table and (array.shape == shape or (grey and array.shape == shape[1:]))
    batch = array.shape[1:] == shape or (grey and array.shape[1:] == shape[1:])
    if not (single or batch) or not array.size:
        sizes = ", ".join(map(str, shape[1:]))
        expected = f"({shape[0]}, {sizes}) or (N, {shape[0]}, {sizes})"
        expected += f", or ({sizes}) or (N, {sizes})," if grey else ""
        raise wrong(f"The array has the shape {array.shape}; {expected} is expected{or_others(accepts)}.")
    limits.check_batch(1 if single else len(array))
    if accepts:
        limits.check_pixels(1 if single else len(array), shape, "The videos")
    reserve(CONVERTED_BYTES * array.size)
    if array.dtype == np.uint8:
        rows = array.astype(np.float32)
        rows /= np.float32(255)
    elif (array >= 0).all() and (array <= 1).all():
        rows = without_subnormals(array)
    else:
        raise wrong("The array has numbers outside [0, 1]; scale it, or send uint8.")
    return Batch(rows.reshape(-1, *shape), single=single)


def without_subnormals(array: Array) -> FloatArray:
    """Convert to float32 and set values below SMALLEST to 0: subnormal numbers are a hundred times as slow."""
    rows = array.astype(np.float32)
    rows[np.abs(rows) < SMALLEST] = 0
    return rows


def or_others(accepts: Accepts | None) -> str:
    """Return what an error says of shapes beside the nominal one."""
    return "" if accepts is None else ", or another number of frames, height or width by the strides that /model has"


def _latents_of_array(
    array_format: Format,
    body: bytes,
    limits: Limits,
    shape: tuple[int, ...],
    reserve: Reserve,
    accepts: Accepts | None,
) -> Batch:
    reserve(array_format.copies * len(body))
    array = array_format.read(body, "z")
    shape = _item_shape(array.shape, shape, accepts)
    single = not array_format.is_table and array.shape == shape
    return _latents_of_numbers(array, limits, shape, reserve, single=single, others=or_others(accepts))


def _latents_of_numbers(
    array: Array, limits: Limits, shape: tuple[int, ...], reserve: Reserve, *, single: bool, others: str = ""
) -> Batch:
    if not (single or array.shape[1:] == shape) or not array.size:
        expected = f"{shape} or (N, {', '.join(map(str, shape))})"
        raise wrong(f"The array has the shape {array.shape}; {expected} is expected{others}.")
    limits.check_batch(1 if single else len(array))
    reserve(CONVERTED_BYTES * array.size)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow gives infinity, which is refused
        rows = array.astype(np.float32, copy=False)
    if not (np.abs(rows) <= LATENT_BOUND).all():
        raise wrong(f"The array has numbers that are not finite or beyond ±{LATENT_BOUND:g}.")
    return Batch(rows.reshape(-1, *shape), single=single)


def _latents_of_lines(body: bytes, limits: Limits, shape: tuple[int, ...], reserve: Reserve, numbers: int) -> Batch:
    most = max(VALUES, numbers)
    if count(body, b",") > most or count_values(body) > 2 * most:
        raise TooLarge(f"The body has more than {most} values, the limit.")
    if count(body, b"\n") > BLANK_LINES * limits.batch:
        raise TooLarge(
            f"The body has more than {BLANK_LINES * limits.batch} lines; leave out blank ones, or send fewer items."
        )
    rows: list[FloatArray] = []
    size = max(1, VALUES // prod(shape))
    lines = ((number, line) for number, line in enumerate(body.split(b"\n"), start=1) if line.strip())
    while piece := list(islice(lines, size)):
        documents = [
            read_json(line, reserve, values=VALUES + prod(shape), name=f"Line {number} of the body")
            for number, line in piece
        ]
        first = len(rows) * size
        limits.check_batch(first + len(piece))
        found = [_z_of(document, f"/{first + index}") for index, document in enumerate(documents)]
        reserve(4 * len(found) * prod(shape))
        rows.append(_rows_of_json([z for z, _ in found], shape, [pointer for _, pointer in found].__getitem__))
    if not rows:
        raise wrong("The body has no lines; one latent per line is expected.")
    return Batch(np.concatenate(rows), single=False)


def latents_of_json(body: bytes, limits: Limits, shape: tuple[int, ...], reserve: Reserve, numbers: int = 0) -> Batch:
    """Read latents as `read_latents` does; at most `numbers` in long lists."""
    z, pointer = _z_of(read_json(body, reserve, numbers=numbers), "")
    if not isinstance(z, list) or not z:
        if isinstance(z, np.ndarray):
            return _latents_of_numbers(z, limits, shape, reserve, single=z.shape == shape)
        size = "×".join(map(str, shape))
        raise InvalidInput(Problem("body", pointer, f"A latent of {size} numbers, or a list of latents, is expected."))
    if _depth(z) <= len(shape):
        return Batch(_rows_of_json([z], shape, lambda _: pointer), single=True)
    limits.check_batch(len(z))
    return Batch(_rows_of_json(z, shape, lambda index: f"{pointer}/{index}"), single=False)


def _z_of(document: Any, pointer: str) -> tuple[Any, str]:
    """Return the latents in `{"z": …}` or in a bare list, and a pointer to them."""
    if not isinstance(document, dict):
        return document, pointer
    z = document.pop("z", None)
    if document:
        problem = "{} is not a field of this object; its only one is 'z'."
        names = sorted(document)[:MAX_PROBLEMS]
        raise InvalidInput(
            *(Problem("body", f"{pointer}/{escape(name)}", problem.format(brief(name))) for name in names)
        )
    return z, f"{pointer}/z"


def _rows_of_json(latents: list[Any], shape: tuple[int, ...], pointer: Callable[[int], str]) -> FloatArray:
    """Convert lists of `shape` to (N, *shape); `pointer` is the position of each. Raises InvalidInput."""
    try:
        latents_check(shape)(latents)
    except ValidationError:
        problems: list[Problem] = []
        for index, latent in enumerate(latents):
            problems += _latent_problems(latent, pointer(index), shape)
            if len(problems) >= MAX_PROBLEMS:
                break
        raise InvalidInput(*problems[:MAX_PROBLEMS]) from None
    return np.array(latents, np.float32)


def _depth(document: Any) -> int:
    """Return the depth of nested lists, along the first item of each."""
    depth = 0
    while isinstance(document, list):
        depth += 1
        document = document[0] if document else None
    return depth


def _latent_problems(latent: Any, pointer: str, shape: tuple[int, ...]) -> list[Problem]:
    """List all problems of a latent; `latents_check` stops at the first."""
    if not isinstance(latent, list) or len(latent) != shape[0]:
        received = f"a list of {len(latent)}" if isinstance(latent, list) else "not a list"
        size = "×".join(map(str, shape))
        return [Problem("body", pointer, f"A latent of {size} numbers is expected; this is {received}.")]
    if len(shape) > 1:
        return [
            problem for i, part in enumerate(latent) for problem in _latent_problems(part, f"{pointer}/{i}", shape[1:])
        ]
    return [
        Problem("body", f"{pointer}/{i}", f"{brief(value)} is not a finite number within ±{LATENT_BOUND:g}.")
        for i, value in enumerate(latent)
        if type(value) not in (int, float) or not -LATENT_BOUND <= value <= LATENT_BOUND
    ]
