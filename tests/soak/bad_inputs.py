"""A hundred thousand bad inputs, each generated from its number.

python -m tests.soak.bad_inputs NUMBER

writes the one of that number to standard output, as it goes over the wire.
"""

from __future__ import annotations

import gzip
import io
import random
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

import numpy as np
from PIL import Image

from tests.fuzz.inputs import STREAMS, TENSORS
from tests.soak.bad_values import (
    DOCUMENTS,
    FIELDS,
    GREETINGS,
    INFERENCES,
    JSON_NAMES,
    JSON_VALUES,
    LATENT,
    METHODS,
    NPY_HEADER,
    NUMBERS,
    QUERY_NAMES,
    QUERY_VALUES,
    SIZES,
    TARGETS,
    TENSOR_NAMES,
    TENSOR_SHAPES,
    TENSOR_VALUES,
)
from tests.soak.client import write_request
from tests.soak.exchanges import BOUNDARY, JSON, NPY, PNG, digits, multipart, npy
from tests.soak.mutations import mutate, mutate_chunk
from tests.zstandard import zstd

ORIENTATION = 0x0112
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
IMAGE_TARGETS = ("/encode", "/reconstruct", "/encode?draw=true&seed=1", "/reconstruct?fit=cover&invert=true", "/score")
NDJSON, SAFETENSORS = "application/x-ndjson", "application/x-safetensors"
ARROW = "application/vnd.apache.arrow.stream"


class BadInput(NamedTuple):
    """A request that is mutated, and may by chance still be valid."""

    number: int
    kind: str
    data: bytes
    framed: bool
    """Can the service know its end? If not, it gets its own connection, which the service may close."""


def bad_input(number: int) -> BadInput:
    """Generate the input of a number."""
    chance = random.Random(number)
    kind = list(MAKERS)[number % len(MAKERS)]
    make, framed = MAKERS[kind]
    return BadInput(number, kind, make(chance), framed)


def _image(chance: random.Random) -> bytes:
    kind, image = chance.choice(_images())
    if kind == "PNG" and chance.random() < 0.5:
        body = mutate_chunk(chance, image)
    elif chance.random() < 0.1:  # the start of one format, the rest of another
        cut = chance.randrange(64)
        body = image[:cut] + chance.choice(_images())[1][cut:]
    else:
        body = mutate(chance, image)
    claimed = chance.choice([kind] * 8 + list(KINDS))
    return write_request("POST", chance.choice(IMAGE_TARGETS), body, content_type=f"image/{claimed.lower()}")


def _form(chance: random.Random) -> bytes:
    pictures = [chance.choice(_images())[1] for _ in range(chance.randint(0, 3))]
    body, content_type = multipart(pictures)
    if chance.random() < 0.5:  # its lines alone
        pieces = body.split(b"\r\n")
        index = chance.randrange(len(pieces))
        pieces[index] = chance.choice([mutate(chance, pieces[index]), b"", pieces[index] * 50])
        body = b"\r\n".join(pieces)
    else:
        body = mutate(chance, body)
    boundary = chance.choice([BOUNDARY] * 6 + ["", '"', "x" * 100, "soa", "soak; charset=utf-7", "\xff"])
    content_type = content_type.replace(BOUNDARY, boundary)
    return write_request("POST", chance.choice(IMAGE_TARGETS), body, content_type=content_type)


def _npy(chance: random.Random) -> bytes:
    target = chance.choice(["/decode", *IMAGE_TARGETS])
    if chance.random() < 0.5:
        body = mutate(chance, chance.choice(_arrays()))
    else:
        header = "{" + ", ".join(f"'{name}': {chance.choice(values)}" for name, values in NPY_HEADER.items()) + "}"
        version = chance.choice([1, 1, 1, 2, 3, 9])
        size = len(header).to_bytes(2 if version == 1 else 4, "little")
        body = b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + chance.randbytes(chance.choice(SIZES))
    return write_request("POST", target, body, content_type=NPY, accept=chance.choice([JSON, NPY, PNG]))


def _json(chance: random.Random) -> bytes:
    target = chance.choice(list(DOCUMENTS))
    body = chance.choice(DOCUMENTS[target])
    if chance.random() < 0.7:
        value = _json_value(chance, 0).encode("utf-8", "surrogatepass")
        body = body.replace(chance.choice([b"0.1", b"0.5", b"[0, 1]", b"3", b"[0.1", b'"at"', b'"linear"']), value, 1)
    else:
        body = mutate(chance, body)
    return write_request("POST", target, body, content_type=JSON, accept=chance.choice([JSON, NPY, PNG]))


def _named(chance: random.Random) -> bytes:
    """Safetensors and Arrow: their bytes mutated, or the numbers of their metadata alone."""
    media_type, sound = chance.choice([(SAFETENSORS, TENSORS), (ARROW, STREAMS)])
    body = bytearray(chance.choice(sound))
    if chance.random() < 0.5:
        body = bytearray(mutate(chance, bytes(body)))
    else:
        for _ in range(chance.randint(1, 4)):
            size = chance.choice([2, 4, 8])
            start = chance.randrange(min(len(body), 1500) // size) * size
            body[start : start + size] = (chance.choice(NUMBERS) % 256**size).to_bytes(size, "little")
    target = chance.choice(["/decode", *IMAGE_TARGETS])
    accept = chance.choice([JSON, NPY, SAFETENSORS, ARROW])
    return write_request("POST", target, bytes(body), content_type=media_type, accept=accept)


def _lines(chance: random.Random) -> bytes:
    lines = [chance.choice([LATENT, b'{"z": [0.1, 0, 1]}']) for _ in range(chance.randint(1, 5))]
    lines[chance.randrange(len(lines))] = chance.choice(
        [mutate(chance, LATENT), _json_value(chance, 0).encode("utf-8", "surrogatepass"), b"", b"\r", b" " * 1000]
    )
    body = chance.choice([b"\n"] * 6 + [b"\r\n", b"\n\n", b"\r", b"\x1e"]).join(lines)
    return write_request("POST", "/decode", body, content_type=NDJSON, accept=chance.choice([JSON, NDJSON]))


def _compressed(chance: random.Random) -> bytes:
    """Compressed bodies, valid and not, that are then cut, mutated, doubled or labelled with another coding."""
    media_type, body = chance.choice(
        [(JSON, LATENT), (NPY, chance.choice(_arrays())), (PNG, chance.choice(_images())[1])]
    )
    coding = chance.choice(list(COMPRESS))
    packed = _bomb(coding, chance.choice([10**6, 40 * 10**6])) if chance.random() < 0.1 else COMPRESS[coding](body)
    if chance.random() < 0.7:
        packed = chance.choice(
            [mutate(chance, packed), packed[:-4], packed * 2, COMPRESS[coding](packed), packed + b"x"]
        )
    told = chance.choice([coding] * 8 + [*COMPRESS, "gzip, gzip", "br", "identity", "GZIP", ""])
    target = "/decode" if media_type != PNG else chance.choice(IMAGE_TARGETS)
    return write_request("POST", target, packed, content_type=media_type, accept=JSON, content_encoding=told)


def _json_value(chance: random.Random, depth: int) -> str:
    fate = chance.random()
    if fate < 0.6 or depth > 3:
        return chance.choice(JSON_VALUES)
    inner = [_json_value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    if fate < 0.8:
        return f"[{', '.join(inner)}]"
    return "{" + ", ".join(f"{chance.choice(JSON_NAMES)}: {value}" for value in inner) + "}"


def _tensor(chance: random.Random) -> bytes:
    shape = list(chance.choice(TENSOR_SHAPES))
    body = np.full([int(size) for size in shape], chance.choice([0, 0.5, np.nan, np.inf, 1e30]), np.float32).tobytes()
    if chance.random() < 0.5:
        shape[chance.randrange(len(shape))] = chance.choice([*QUERY_VALUES[:-1], "9" * 4000])
    pairs = [f"shape={size}" for size in shape * chance.choice([1, 1, 1, 2])]
    more = range(chance.randint(0, 3))
    pairs += [f"{chance.choice(TENSOR_NAMES)}={chance.choice(TENSOR_VALUES)}" for _ in more]
    target = chance.choice(["/remote/decode?", "/remote/encode?"]) + "&".join(pairs)
    if chance.random() < 0.5:
        body = chance.choice([mutate(chance, body), chance.choice(_images())[1]])
    return write_request("POST", target, body, content_type=chance.choice(["tensor/binary", "", PNG]), accept="*/*")


def _inference(chance: random.Random) -> bytes:
    body = chance.choice(INFERENCES)
    if chance.random() < 0.7:
        value = _json_value(chance, 0).encode("utf-8", "surrogatepass")
        body = body.replace(chance.choice([b"0.1", b"[1, 3]", b"3", b'"FP32"', b'"z"', b"[0.1, 0, 1]"]), value, 1)
    else:
        body = mutate(chance, body)
    length = {"inference_header_content_length": chance.choice(["", "0", "-1", "1e3", str(len(body)), str(2**63)])}
    if chance.random() < 0.5:
        body, length = body + chance.randbytes(12), {"inference_header_content_length": str(len(body))}
    model = chance.choice(["mnist"] * 6 + ["other", "mnist/versions/1", "mnist/versions/2", "%00", "%ff"])
    return write_request("POST", f"/v2/models/{model}/infer", body, content_type=JSON, **length)


def _query(chance: random.Random) -> bytes:
    target = chance.choice(
        ["/sample", "/decode", "/encode", "/reconstruct", "/score", "/interpolate", "/model", "/latents"]
    )
    pairs = []
    for _ in range(chance.randint(1, 4)):
        value = chance.choice(QUERY_VALUES)
        if chance.random() < 0.2:
            value = quote_from_bytes(chance.randbytes(chance.randint(1, 20)))
        pairs.append(f"{chance.choice(QUERY_NAMES)}{chance.choice(['=', '=', '=', '', '%3D', '=='])}{value}")
    target += "?" + chance.choice(["&", "&", "&", ";", "?"]).join(pairs)
    if target.startswith(("/sample", "/model", "/latents")):
        return write_request("GET", target)
    if target.startswith(("/decode", "/interpolate")):
        return write_request("POST", target, LATENT, content_type=JSON)
    return write_request("POST", target, chance.choice(_images())[1], content_type=PNG)


def _head(chance: random.Random) -> bytes:
    fields = [b"host: soak", b"content-type: application/json", b"content-length: %d" % len(LATENT)]
    for _ in range(chance.randint(1, 4)):
        field = chance.choice(FIELDS)
        if chance.random() < 0.3:
            field = mutate(chance, field)
        index = chance.randrange(len(fields) + 1)
        fields[index : index + chance.randint(0, 1)] = [field] * chance.choice([1, 1, 1, 2])
    end = chance.choice([b"\r\n"] * 6 + [b"\n", b"\r", b"\r\n "])
    return b"POST /decode HTTP/1.1" + end + end.join(fields) + b"\r\n\r\n" + LATENT


def _target(chance: random.Random) -> bytes:
    method = chance.choice(METHODS)
    target = chance.choice(TARGETS)
    if chance.random() < 0.4:
        target = mutate(chance, target)
    version = chance.choice([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"", b"ICE/1.0"])
    return b"%b %b %b\r\nhost: soak\r\nconnection: close\r\n\r\n" % (method, target, version)


def _raw(chance: random.Random) -> bytes:
    whole = write_request("POST", "/decode", LATENT, content_type=JSON)
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.randint(1, 2000))
        case 1:
            return chance.choice(GREETINGS) + chance.randbytes(chance.choice([0, 100]))
        case 2:
            return mutate(chance, whole)
        case 3:
            return mutate(chance, whole * chance.randint(2, 5))
        case _:
            chunked = whole[: whole.index(b"content-length")] + b"transfer-encoding: chunked\r\n\r\n"
            return mutate(chance, chunked + b"5\r\n[0.1,\r\nA\r\n -0.2, 0.3\r\n1\r\n]\r\n0\r\n\r\n")


@cache
def _images() -> Sequence[tuple[str, bytes]]:
    """Images of each format, grey and coloured; PNGs of all depths; animations; images with an orientation."""
    grey = Image.fromarray(digits()[0])
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (60, 90, 3), np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = {"append_images": [noise.rotate(90), noise.rotate(180)], "save_all": True}
    return [
        *((kind, _save(image, kind)) for kind in KINDS for image in (grey, noise)),
        *(("PNG", _save(noise.convert("L").convert(mode), "PNG")) for mode in ("1", "P", "LA", "RGBA", "I;16")),
        *((kind, _save(noise, kind, exif=exif)) for kind in ("JPEG", "PNG", "WEBP")),
        *((kind, _save(noise, kind, **turned)) for kind in ("GIF", "WEBP", "PNG")),
    ]


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def _bomb(coding: str, size: int) -> bytes:
    return COMPRESS[coding](bytes(size))


@cache
def _arrays() -> Sequence[bytes]:
    z, pixels = np.arange(6, dtype=np.float32).reshape(2, 3), digits()[:2]
    bad = [np.full((2, 3), value, np.float64) for value in (np.nan, np.inf, 1e300)]
    arrays = [z, z[0], z.astype(">f8"), np.asfortranarray(z), pixels, pixels / 255, pixels[0], pixels[:, None], *bad]
    return [npy(array) for array in arrays]


MAKERS: dict[str, tuple[Callable[[random.Random], bytes], bool]] = {
    "image": (_image, True),
    "JSON": (_json, True),
    "npy": (_npy, True),
    "named": (_named, True),
    "lines": (_lines, True),
    "compressed": (_compressed, True),
    "query": (_query, True),
    "tensor": (_tensor, True),
    "inference": (_inference, True),
    "form": (_form, True),
    "head": (_head, False),
    "target": (_target, False),
    "raw": (_raw, False),
}

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=1, mtime=0),
    "deflate": partial(zlib.compress, level=1),
    "zstd": zstd.compress,
}


if __name__ == "__main__":
    sys.stdout.buffer.write(bad_input(int(sys.argv[1])).data)
