"""Request bodies → the bytes of a tensor or a picture, which JSON has as base64."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Collection
from reprlib import repr as brief
from typing import Any, TypeVar

from pydantic import ValidationError

from service.api.bodies import JSON, invalid_input
from service.api.remote.options import TensorOptions
from service.api.request import Request
from service.errors import InvalidInput, Problem, UnreadableBody, UnsupportedMediaType
from service.formats.json_reader import VALUES, read_json
from service.limits import Limits
from service.memory_budget import Reserve

TENSOR, BASE64 = "tensor/binary", "tensor/base64"
GENERIC_TYPES = ("", "application/octet-stream")
"""Content types that do not describe a body; remote_encode sends none."""
BASE64_BYTE_S = 20e-9
"""Seconds per byte of a tensor that base64 is read or written in."""
PIECE = 2**18
"""Characters of base64 that are read in one call, which takes milliseconds; a multiple of 4."""
COPIES = 2
"""Copies of a JSON body: the bytes that it stands for, in pieces and joined."""
QUOTES = 200
"""Most quotation marks in a JSON body; a client's has about thirty."""
Options = TypeVar("Options", bound=TensorOptions)


async def read_body(
    request: Request, options: Options, limits: Limits, types: Collection[str]
) -> tuple[bytes, Options]:
    """Read a body of one of `types`, or JSON; return its bytes, and the options with the parameters of the JSON.

    JSON is `{"inputs": BASE64}`. Its `parameters`, if it has any, are as in the query, which takes precedence.
    """
    media_type = request.media_type
    if media_type in GENERIC_TYPES and options.input_tensor_type == "base64":
        media_type = BASE64
    if media_type not in (*types, BASE64, JSON, *GENERIC_TYPES):
        known = ", ".join((*types, BASE64, JSON))
        raise UnsupportedMediaType(f"The content type is {brief(media_type)}; this route takes {known}.")
    body = await request.read(limits.body)
    if media_type not in (BASE64, JSON):
        return body, options
    return await request.run(len(body) * BASE64_BYTE_S, _read_document, body, options, request.reserve)


def _read_document(body: bytes, options: Options, reserve: Reserve) -> tuple[bytes, Options]:
    text: memoryview | None = None
    if len(body) > VALUES:
        reserve(COPIES * len(body))
        body, text = _cut(body)
    document = read_json(body, reserve)
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, str) or (text and inputs):
        raise InvalidInput(Problem("body", "/inputs", 'inputs is not a text; {"inputs": BASE64} is expected.'))
    parameters = document.get("parameters")
    return _read_base64(text or inputs), options if parameters is None else _with_parameters(options, parameters)


def _cut(body: bytes) -> tuple[bytes, memoryview]:
    """Return a document without the characters of its longest string, and these: a parser would hold the GIL."""
    start = stop = position = 0
    quote = body.find(b'"')
    for _ in range(QUOTES):
        if quote < 0:
            return body[:start] + body[stop:], memoryview(body)[start:stop]
        position, quote = quote + 1, body.find(b'"', quote + 1)
        if quote - position > stop - start:
            start, stop = position, quote
    raise UnreadableBody(f'The body has more than {QUOTES} quotation marks; {{"inputs": BASE64}} has four.')


def _read_base64(text: str | memoryview) -> bytes:
    try:
        pieces = [a2b_base64(text[start : start + PIECE], strict_mode=True) for start in range(0, len(text), PIECE)]
    except ValueError as error:
        raise UnreadableBody(f"inputs is not base64: {error}.") from error
    return b"".join(pieces)


def _with_parameters(options: Options, parameters: Any) -> Options:
    """Return the options with the parameters of a body. Endpoints that took them there scaled latents always."""
    if not isinstance(parameters, dict):
        raise InvalidInput(Problem("body", "/parameters", "parameters is not an object of names and values."))
    try:
        return type(options).model_validate(
            {"do_scaling": True, **parameters, **options.model_dump(exclude_unset=True)}
        )
    except ValidationError as error:
        problems = invalid_input("body", error).problems
        raise InvalidInput(*(each._replace(pointer=f"/parameters{each.pointer}") for each in problems)) from error
