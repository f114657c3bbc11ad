"""A hundred thousand bad inputs, each told by its number alone.

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
import zstandard
from PIL import Image

from tests.fuzz.inputs import STREAMS, TENSORS
from tests.soak.client import write_request
from tests.soak.mutations import mutate, mutate_chunk
from tests.soak.questions import BOUNDARY, JSON, NPY, PNG, digits, multipart, npy

ORIENTATION = 0x0112
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
IMAGE_TARGETS = ("/encode", "/reconstruct", "/encode?draw=true&seed=1", "/reconstruct?fit=cover&invert=true")
LATENT = b"[0.1, -0.2, 0.3]"
NDJSON, SAFETENSORS = "application/x-ndjson", "application/x-safetensors"
ARROW = "application/vnd.apache.arrow.stream"


class BadInput(NamedTuple):
    """Something is wrong with it, though it may by chance be right after all."""

    number: int
    kind: str
    data: bytes
    framed: bool
    """Does its end show? If not it takes a connection of its own, and the service may hang up on it."""


def bad_input(number: int) -> BadInput:
    """The same for the same number."""
    chance = random.Random(number)
    kind = list(MAKERS)[number % len(MAKERS)]
    make, framed = MAKERS[kind]
    return BadInput(number, kind, make(chance), framed)


def _image(chance: random.Random) -> bytes:
    kind, image = chance.choice(_images())
    if kind == "PNG" and chance.random() < 0.5:
        body = mutate_chunk(chance, image)
    elif chance.random() < 0.1:  # the beginning of one format, the rest of another
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
    """Bodies, sound and not, that are really compressed; then cut, mutated, doubled, or called by another's name."""
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
    target = chance.choice(["/sample", "/decode", "/encode", "/reconstruct", "/interpolate", "/model", "/latents"])
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
    """Each format, grey and coloured; PNGs of all depths; such as move, and such as are turned."""
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
NPY_HEADER: dict[str, Sequence[str]] = {
    "descr": (
        *("'<f4'", "'>f8'", "'|u1'", "'<f2'", "'|O'", "'<U5'", "'<c8'", "'<i8'", "'|V3'", "'<M8[s]'", "'<f16'", "''"),
        *("'x'", "[('a', '<f4')]", "[]", "None", "3", "'<f4' * 9", "(" * 300),
    ),
    "fortran_order": ("False", "False", "True", "None", "3", "'no'"),
    "shape": (
        *("(3,)", "(2, 3)", "(28, 28)", "(1, 28, 28)", "(0, 3)", "()", "(-1, 3)", "(3.5,)", "('a',)", "3", "None"),
        *("(True,)", f"({2**63}, 3)", f"({10**30}, 3)", f"({2**32}, {2**32})", f"({'1, ' * 100})", "((3,),)"),
        "(10001, 3)",
    ),
}
NUMBERS = (0, 1, 2, 2**15, 2**31 - 1, 2**40, 2**63 - 1, 2**64 - 1)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=1, mtime=0),
    "deflate": partial(zlib.compress, level=1),
    "zstd": zstandard.compress,
}
SIZES = (0, 1, 12, 24, 784, 3136, 5000)
DOCUMENTS: dict[str, Sequence[bytes]] = {
    "/decode": (LATENT, b'{"z": [0.1, -0.2, 0.3]}', b"[[0.1, -0.2, 0.3], [0.5, 0, 3]]"),
    "/interpolate": (
        b'{"from": [0.1, 0, 1], "to": [1, 0.5, 0], "steps": 3, "method": "linear"}',
        b'{"from": [0.1, 0, 1], "to": [1, 0.5, 0], "method": "spherical"}',
    ),
    "/traverse": (
        b'{"at": [0.1, 0, 0.5], "dimensions": [0, 1], "low": -0.5, "high": 0.5, "steps": 3}',
        b'{"at": [0.1, 0, 0.5], "dimensions": [0]}',
    ),
}
INFERENCES = (
    b'{"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0.1, 0, 1]}]}',
    b'{"id": "a", "inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], '
    b'"parameters": {"binary_data_size": 12}}], "outputs": [{"name": "image", "parameters": {"binary_data": true}}]}',
    b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 28, 28], "data": [%b0.1]}]}' % (b"0," * 783),
)
TENSOR_SHAPES = (("1", "3"), ("2", "3"), ("1", "1", "28", "28"), ("3",))
TENSOR_NAMES = ("dtype", "do_scaling", "scaling_factor", "shift_factor", "output_type", "image_format", "height", "")
TENSOR_VALUES = (
    "float32",
    "float16",
    "bfloat16",
    "pt",
    "pil",
    "png",
    "true",
    "0",
    "-1",
    "nan",
    "1e400",
    "9" * 4000,
    "%00",
)
JSON_VALUES = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "1e39", "-0", "0", "-1", "1000001", "true", "null"),
    *('""', '"NaN"', '"0.1"', r'"\ud800"', r'"\u0000"', "{}", "[]", "[[]]", "[[[0.1, 0.1, 0.1]]]", "[0.1, 0.1]", "01"),
    *("+1", "0x10", ".5", "1.", "1_0", "'a'", "nul", "\ufeff1", "9" * 400, "-" + "9" * 5000, "0." + "1" * 5000),
    *(
        "[" * 100,
        "[" * 100_000,
        '{"a":' * 20_000,
        "[" * 500 + "]" * 500,
        '"' + "x" * 50_000 + '"',
        "\ud800",
        "1 1",
        ",",
    ),
    *("[" + "0.1," * 10_000 + "0.1]", "[" + "[0,0,0]," * 10_001 + "[0,0,0]]", "10001", "1000000000000000000", "2.5"),
)
JSON_NAMES = (
    '"z"',
    '"at"',
    '"from"',
    '"to"',
    '"steps"',
    '"low"',
    '"__proto__"',
    '""',
    '"a/b~c"',
    r'"\u0000"',
    "z",
    "1",
)
QUERY_NAMES = (
    "n",
    "seed",
    "temperature",
    "columns",
    "scale",
    "fit",
    "invert",
    "draw",
    "steps",
    "z",
    "",
    "%00",
    "n%5B%5D",
)
QUERY_VALUES = (
    *("", "0", "1", "-1", "2", "7", "64", "65", "10001", "1e3", "1.0", "1.5", "+1", "%2B1", "0x1", "1_0", "%31", "%00"),
    *(
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e400",
        "1e-400",
        "1" + "0" * 18,
        "9" * 4301,
        "18446744073709551616",
        "true",
        "TRUE",
    ),
    *("cover", "stretch", "null", "None", "%F0%9F%92%A9", "%FF", "%ED%A0%80", "%0D%0Ax-a:1", "%", "%zz", "x" * 70_000),
)
METHODS = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PATCH",
    b"get",
    b"PRI",
    b"A" * 99,
)
TARGETS = (
    *(
        b"/",
        b"/encode",
        b"/decode",
        b"/sample",
        b"/model",
        b"/livez",
        b"/readyz",
        b"/metrics",
        b"/docs",
        b"/openapi.json",
    ),
    *(
        b"*",
        b"",
        b"//",
        b"//evil.example/",
        b"http://evil.example/",
        b"http://[::1",
        b"evil.example:80",
        b"?",
        b"#",
        b"/#a",
    ),
    *(b"/web/../../etc/passwd", b"/web/%2e%2e/%2e%2e/etc/passwd", b"/web/..%2f..%2fetc/passwd", b"/web//etc/passwd"),
    *(
        b"/web/main.js",
        b"/web/%00",
        b"/web/" + b"a" * 5000,
        b"/%ff%fe",
        b"/%",
        b"/a?b=c?d",
        b"/encode/",
        b"/" + b"a" * 70_000,
    ),
    *(
        b"/\x1b[31m",
        b"/a\tb",
        b"/a b",
        b"/\xff",
        b"/web/.",
        b"/web",
        b"/docs/oauth2-redirect",
        b"/static-offline-docs/x",
    ),
)
FIELDS = (
    *(
        b"content-length: 0",
        b"content-length: 5",
        b"content-length: -1",
        b"content-length: 1e3",
        b"content-length: +16",
    ),
    *(
        b"content-length: 99999999999999999999",
        b"content-length: 33554433",
        b"content-length: 16, 16",
        b"content-length:",
    ),
    *(b"transfer-encoding: chunked", b"transfer-encoding: xchunked", b"transfer-encoding: chunked, gzip"),
    *(
        b"transfer-encoding : chunked",
        b"\ttransfer-encoding: chunked",
        b"content-encoding: gzip",
        b"range: bytes=0-1,2-",
    ),
    *(
        b"content-type: ",
        b"content-type: image/png",
        b"content-type: application/pickle",
        b"content-type: multipart/form-data",
    ),
    *(
        b"content-type: application/json; charset=utf-16",
        b"content-type: application/x-npy",
        b"content-type: \xff/\xfe",
    ),
    *(
        b"accept: ",
        b"accept: text/html",
        b"accept: */*;q=nan",
        b"accept: image/png;q=2",
        b"accept: ;;,,;q",
        b"accept: *",
    ),
    *(b"accept: " + b"a/b;q=0.1," * 3000, b"authorization: Bearer \xff", b"authorization: Basic", b"x-api-key: \x00"),
    b"x: a\r\n" * 1000 + b"x: a",
    *(b"host: a/?x=", b"host: ", b"host: [", b"expect: 100-continue", b"expect: 200-ok", b"connection: upgrade"),
    *(b"upgrade: h2c", b"upgrade: websocket", b"connection: close", b"connection: \x0b", b"x: " + b"a" * 70_000),
    *(
        b"x-request-id: \x1b[31m",
        b"x-forwarded-for: 1.1.1.1",
        b'forwarded: for="',
        b": empty",
        b"no colon",
        b"a" * 70_000,
    ),
)
GREETINGS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-OpenSSH_9.0\r\n",
    b"\r\n\r\n",
    b"EHLO evil.example\r\n",
    b"\x00" * 50,
)


if __name__ == "__main__":
    sys.stdout.buffer.write(bad_input(int(sys.argv[1])).data)
