"""Requests built to block the event loop, to exhaust memory, or to be answered with 5xx.

python -m tests.soak.attacks [NAME]

lists their names, or writes the request of that name to standard output, as it goes over the wire.
"""

from __future__ import annotations

import gzip
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import zstandard
from pyarrow import ipc

from tests.soak import hostile_images
from tests.soak.client import write_request
from tests.soak.hostile_images import ASCII, BYTE, RATIONAL, SHORT, UNDEFINED
from tests.soak.hostile_images import hostile_images as all_hostile_images
from tests.soak.questions import JSON, NPY, PNG, npy

SIZE = 31_000_000
"""Bytes of a large body: just below the default limit of 32 MiB."""
KEPT_BYTES = 2**18
"""A request of at most so many bytes is kept once it is made."""
ANSWERED = frozenset({200, 204, 400, 404, 405, 406, 408, 411, 413, 414, 415, 422, 429, 431, 501, 503, 505})
"""Statuses of an answer that is not known beforehand: no 5xx but 503, and those of other HTTP than the service's."""
OK = frozenset({200, 503})
REFUSED = frozenset({400, 413, 415, 422, 503})
Z = b"[0.1, -0.2, 0.3]"
NDJSON, SAFETENSORS = "application/x-ndjson", "application/x-safetensors"
ARROW, TENSOR, FORM = "application/vnd.apache.arrow.stream", "tensor/binary", "multipart/form-data"
INFER = "/v2/models/mnist/infer"
IMAGE_TARGETS = ("/encode", "/reconstruct", "/remote/encode")
Make = Callable[[], bytes]


class Attack(NamedTuple):
    """A request, or several in one piece."""

    name: str
    make: Make
    statuses: frozenset[int] = ANSWERED
    """Of each answer."""
    answers: int = 1
    """Answers that must come; the service may close the connection after them."""
    times: int = 1
    """Connections that send it at once where it is sent as a flood."""
    framed: bool = True
    """Does its end show? If not, the service may wait for more and then hang up."""
    is_head: bool = False
    """Is it a HEAD request, whose answer has no body?"""
    brief: bool = False
    """Is it one of those that a short run sends?"""

    @property
    def data(self) -> bytes:
        """As it goes over the wire; small requests are made once."""
        if (kept := _kept.get(self.name)) is not None:
            return kept
        data = self.make()
        if len(data) <= KEPT_BYTES:
            _kept[self.name] = data
        return data


_kept: dict[str, bytes] = {}


@cache
def attacks() -> tuple[Attack, ...]:
    """All of them; no request is built before its `data` is read."""
    made = (
        *_known(),
        *_images(),
        *_forms(),
        *_json(),
        *_lines(),
        *_arrays(),
        *_heads(),
        *_costly(),
        *_pipelined(),
        *_bodies(),
    )
    names = [attack.name for attack in made]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two attacks have one name: {sorted(twice)}.")
    return made


def attack(name: str) -> Attack:
    """The one of that name."""
    return next(each for each in attacks() if each.name == name)


# Requests


def _post(target: str, body: bytes, content_type: str, accept: str = "*/*", **fields: str) -> bytes:
    return write_request("POST", target, body, content_type=content_type, accept=accept, **fields)


def _sent(target: str, body: Make, content_type: str, coding: str = "", **fields: str) -> bytes:
    """A POST whose body is made now and, where `coding` says so, compressed."""
    data = body()
    if coding:
        data = COMPRESS[coding](data)
        fields["content_encoding"] = coding.partition(" ")[0]
    return _post(target, data, content_type, **fields)


def _gzip_members(data: bytes) -> bytes:
    """Thousands of gzip members, one after the other."""
    size = max(1, len(data) // 9000)
    pieces = {start: data[start : start + size] for start in range(0, len(data), size)}
    packed: dict[bytes, bytes] = {}
    for piece in pieces.values():
        if piece not in packed:
            packed[piece] = gzip.compress(piece, 1, mtime=0)
    return b"".join(packed[piece] for piece in pieces.values())


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=6, mtime=0),
    "deflate": partial(zlib.compress, level=6),
    "zstd": zstandard.compress,
    "gzip in thousands of members": _gzip_members,
}


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"soak", preamble: bytes = b"") -> bytes:
    """A multipart body; each part is its head and its content."""
    body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts)
    return preamble + body + b"--%b--\r\n" % boundary


IMAGE_PART = b'content-disposition: form-data; name="image"; filename="a"'
TEXT_PART = b'content-disposition: form-data; name="a-"'
"""A name that can be decoded as punycode."""


def _image_form(make: Make, parts: int) -> bytes:
    return form(*[(IMAGE_PART, make())] * parts)


# Found from outside before


def _known() -> Iterator[Attack]:
    image = partial(_sent, content_type=PNG)
    large = hostile_images.large_png
    for target in IMAGE_TARGETS:
        request = partial(image, target, large)
        yield Attack(
            f"PNG of 49 million pixels to {target}", request, OK | {413}, times=30, brief=target == "/remote/encode"
        )
    for kind, told in (
        (BYTE, "BYTE"),
        (ASCII, "ASCII"),
        (UNDEFINED, "UNDEFINED"),
        (SHORT, "SHORT"),
        (RATIONAL, "RATIONAL"),
    ):
        count = (SIZE - 200) // hostile_images.SIZES[kind]
        for target in IMAGE_TARGETS:
            request = partial(image, target, partial(_exif_png, kind, count), coding="gzip")
            brief = (kind == RATIONAL and target != "/reconstruct") or (kind == ASCII and target == "/reconstruct")
            yield Attack(f"PNG, {count:,} {told} in eXIf, gzip, to {target}", request, times=4, brief=brief)
    for target in IMAGE_TARGETS:
        request = partial(image, target, hostile_images.text_png)
        yield Attack(f"PNG, 30 zTXt of a megabyte, to {target}", request, times=200, brief=target != "/reconstruct")
    request = partial(
        _sent, "/encode", partial(_text_form, b"a" * 10**6), f"{FORM}; boundary=soak; charset=punycode", "gzip"
    )
    yield Attack("form in punycode", request, brief=True)
    for target in ("/encode", "/reconstruct"):
        request = partial(_sent, target, partial(_npy_images, "u1"), NPY, "gzip")
        yield Attack(f"npy of 10,000 images, gzip, to {target}", request, OK, times=200, brief=target == "/encode")
    for target in IMAGE_TARGETS:
        request = partial(_sent, target, hostile_images.GIFS["coloured global, grey local palette"], "image/gif")
        yield Attack(f"GIF of two palettes to {target}", request, frozenset({200, 400, 503}), brief=True)
    whole = _post("/decode", Z, JSON)
    for name, junk in (
        ("letters", b"xxxx"),
        ("NUL", b"\0" * 9),
        ("half a request", b"GET /livez HT"),
        ("TLS", b"\x16\x03\x01"),
    ):
        yield Attack(
            f"whole request, then {name}", partial(bytes, whole + junk), OK, framed=False, brief=name == "letters"
        )
    closing = _post("/decode", Z, JSON, connection="close")
    yield Attack(
        "Connection: close, then a second request", partial(bytes, closing + whole), OK, framed=False, brief=True
    )
    warning = partial(image, "/encode", hostile_images.PNGS["eXIf warnings"])
    yield Attack("PNG whose EXIF makes Pillow warn", warning, times=13, brief=True)
    images = {"name": "image", "datatype": "UINT8", "shape": [10_000, 1, 28, 28]}
    body = partial(_infer_zeros, images, 7_840_000)
    yield Attack("10,000 images as JSON", partial(_sent, INFER, body, JSON), OK)
    yield Attack("Content-Encoding: Identity", partial(_post, "/decode", Z, JSON, content_encoding="Identity"), OK)
    version = _npy_header(_described("(3,)"), 4, bytes(12))
    yield Attack("npy of version 4.0", partial(_post, "/decode", version, NPY), frozenset({400, 503}))


def _exif_png(kind: int, count: int) -> bytes:
    return hostile_images.png(hostile_images.chunk(b"eXIf", hostile_images.orientation(kind, count)))


def _text_form(text: bytes, head: bytes = TEXT_PART) -> bytes:
    return form((head, text), (IMAGE_PART, hostile_images.smallest_png()))


# Images


REMOTE_TOO = ("PNG, cut in IDAT", "PNG, broken zlib", "PNG, raw profile that is no hex", "PNG, eXIf no TIFF")
"""Short runs send these to /remote/encode in any case."""


def _images() -> Iterator[Attack]:
    """Each goes to one of the targets in short runs, to all of them in long ones."""
    for number, (name, media_type, make) in enumerate(all_hostile_images()):
        makes: dict[str, Make] = {f"to {target}": partial(_sent, target, make, media_type) for target in IMAGE_TARGETS}
        for parts in (1, 2):
            body = partial(_image_form, make, parts)
            makes[f"in a form of {parts}"] = partial(_sent, "/encode", body, f"{FORM}; boundary=soak")
        for index, (where, request) in enumerate(makes.items()):
            brief = (index == number % len(makes) and not _is_slow(name)) or (
                where == "to /remote/encode" and name in REMOTE_TOO
            )
            yield Attack(f"{name}, {where}", request, brief=brief)
    small = [make for name, make in hostile_images.PNGS.items() if name.startswith("raw profile")]
    body = partial(_mixed_form, small)
    yield Attack("form of many hostile PNG", partial(_sent, "/encode", body, f"{FORM}; boundary=soak"))


def _is_slow(name: str) -> bool:
    """Does it take a second to build, to send or to answer?"""
    return any(part in name for part in ("MB", "million", "7000", "subnormal"))


def _mixed_form(makes: list[Make]) -> bytes:
    return form(*[(IMAGE_PART, make()) for make in makes])


# Forms

CODECS = (
    *("punycode", "idna", "utf-7", "unicode_escape", "raw_unicode_escape", "utf-16", "utf-32", "utf-8-sig", "rot13"),
    *("zlib", "bz2", "hex", "base64", "quopri", "uu", "undefined", "mbcs", "cp037", "iso2022_jp", "hz", "charmap"),
    *("encodings.punycode", "../punycode", "x" * 50_000, "utf-8\0", "UTF_8", "latin-1"),
)
BOUNDARIES = {
    "of one letter": b"a",
    "of 70 letters": b"b" * 70,
    "of 5,000 letters": b"b" * 5000,
    "of signs": b"'()+_,-./:=?",
    "of dashes": b"-" * 60,
    "that repeats itself": b"ab" * 35,
}


def _forms() -> Iterator[Attack]:
    pixel = hostile_images.smallest_png()
    sent = partial(_sent, "/encode", content_type=f"{FORM}; boundary=soak")
    for codec in CODECS:
        name, told = codec[:20].replace("\0", "NUL"), codec.replace("\0", "")
        text = partial(_text_form, b"a" * 10**6)
        by_form = partial(_sent, "/encode", text, f"{FORM}; boundary=soak; charset={told}", "gzip")
        yield Attack(f"charset of a form: {name}", by_form, brief=codec in ("idna", "utf-7", "zlib"))
        head = TEXT_PART + f"\r\ncontent-type: text/plain; charset={told}".encode()
        by_part = partial(sent, partial(_text_form, b"a" * 10**6, head), coding="gzip")
        yield Attack(f"charset of a part: {name}", by_part, brief=codec == "punycode")
        head = f"content-disposition: form-data; name=\"image\"; filename*={told}''{'%41' * 5000}".encode()
        yield Attack(f"charset of a file name: {name}", partial(sent, partial(_text_form, b"a", head)))
        by_type = partial(_sent, "/decode", partial(bytes, Z), f"{JSON}; charset={told}")
        yield Attack(f"charset of JSON: {name}", by_type)
        by_field = partial(
            sent,
            partial(
                form, (b'content-disposition: form-data; name="_charset_"', told.encode()), (TEXT_PART, b"a" * 10**6)
            ),
        )
        yield Attack(f"charset in the field _charset_: {name}", by_field)
    for count in (10_000, 10_001):
        yield Attack(
            f"form of {count:,} pixels",
            partial(sent, partial(form, *[(IMAGE_PART, pixel)] * count)),
            times=8,
            brief=count == 10_000,
        )
    for target in ("/encode", "/reconstruct"):
        body = partial(_sent, target, partial(form, *[(IMAGE_PART, pixel)] * 10_000), f"{FORM}; boundary=soak", "gzip")
        yield Attack(f"form of 10,000 pixels, gzip, to {target}", body, times=8)
    floods: dict[str, Make] = {
        "preamble of 30 MB": lambda: form((IMAGE_PART, pixel), preamble=b"x" * SIZE + b"\r\n"),
        "preamble of newlines": lambda: form((IMAGE_PART, pixel), preamble=b"\r\n" * (SIZE // 2)),
        "epilogue of 30 MB": lambda: form((IMAGE_PART, pixel)) + b"x" * SIZE,
        "newlines after its end": lambda: form((IMAGE_PART, pixel)) + b"\r\n" * (SIZE // 2),
        "head of 30 MB": lambda: form((IMAGE_PART + b"x" * SIZE, pixel)),
        "name of 30 MB": lambda: form((b'content-disposition: form-data; name="' + b"x" * SIZE + b'"', pixel)),
        "disposition of a million parameters": lambda: form((IMAGE_PART + b"; a=b" * MANY_PARAMETERS, pixel)),
        "disposition of backslashes": lambda: form((b'content-disposition: form-data; name="' + b"\\" * 2**20, pixel)),
        "disposition of quotes": lambda: form((b"content-disposition: form-data; " + b'"' * 2**20, pixel)),
        "a million heads": lambda: form((IMAGE_PART + b"\r\nx: y" * 1_000_000, pixel)),
        "text of 30 MB": lambda: form((TEXT_PART, b"x" * SIZE), (IMAGE_PART, pixel)),
        "file of line breaks": lambda: form((IMAGE_PART, b"\r\n" * (SIZE // 2))),
        "file of half boundaries": lambda: form((IMAGE_PART, b"\r\n--soa" * (SIZE // 7))),
        "file of carriage returns": lambda: form((IMAGE_PART, b"\r" * SIZE)),
        "forms in forms": lambda: form(
            (IMAGE_PART + b"\r\ncontent-type: multipart/mixed; boundary=soak", form((IMAGE_PART, pixel)))
        ),
        "base64": lambda: form((IMAGE_PART + b"\r\ncontent-transfer-encoding: base64", b"iVBORw0KGgo=")),
        "10,000 empty texts": lambda: form(*[(TEXT_PART, b"")] * 10_000),
        "10,000 parts without heads": lambda: b"--soak\r\n\r\n\r\n" * 10_000 + b"--soak--\r\n",
        "boundaries alone": lambda: b"--soak\r\n" * (SIZE // 8),
        "no end": lambda: form((IMAGE_PART, pixel))[:-12],
    }
    for name, make in floods.items():
        raw = name in ("preamble of 30 MB", "file of carriage returns")
        yield Attack(f"form, {name}", partial(sent, make), brief=raw)
        yield Attack(f"form, {name}, gzip", partial(sent, make, coding="gzip"), brief=not raw and "million" in name)
    for name, boundary in BOUNDARIES.items():
        content_type = f'{FORM}; boundary="{boundary.decode()}"'
        parts = partial(form, *[(IMAGE_PART, pixel)] * 100, boundary=boundary)
        yield Attack(f"form, a boundary {name}", partial(_sent, "/encode", parts, content_type))
        repeated = partial(
            form, (IMAGE_PART, (b"\r\n--" + boundary)[:-1] * (SIZE // (len(boundary) + 3))), boundary=boundary
        )
        yield Attack(
            f"form, a boundary {name}, nearly, gzip", partial(_sent, "/encode", repeated, content_type, "gzip")
        )


MANY_PARAMETERS = 200_000


# JSON


def _repeated(piece: bytes, begin: bytes = b"[", end: bytes = b"]") -> bytes:
    return begin + piece * (SIZE // len(piece) - 1) + piece.rstrip(b",") + end


VALUES: dict[str, Make] = {
    "[0],[0],…": partial(_repeated, b"[0],"),
    "{},{},…": partial(_repeated, b"{},"),
    '"","",…': partial(_repeated, b'"",'),
    "0,0,…": partial(_repeated, b"0,"),
    "null,null,…": partial(_repeated, b"null,"),
    "NaN,NaN,…": partial(_repeated, b"NaN,"),
    "1e400,1e400,…": partial(_repeated, b"1e400,"),
    "[0,0,0],[0,0,0],…": partial(_repeated, b"[0,0,0],"),
    "[[],[]],…": partial(_repeated, b"[[],[]],"),
    '{"a":0},…': partial(_repeated, b'{"a":0},'),
    "10,000 latents and spaces": lambda: b"[" + b",".join([b"[0,0,0]" + b" " * 3000] * 10_000) + b"]",
    "a number of 30 MB": lambda: b"[" + b"9" * SIZE + b"]",
    "a fraction of 30 MB": lambda: b"[0." + b"1" * SIZE + b"]",
    "an exponent of 30 MB": lambda: b"[1e" + b"9" * SIZE + b"]",
    "numbers of 4,000 digits": partial(_repeated, b"9" * 4000 + b","),
    "a string of 30 MB": lambda: b'["' + b"x" * SIZE + b'"]',
    "escapes": partial(_repeated, b"\\u0041", b'["', b'"]'),
    "pairs of surrogates": partial(_repeated, b"\\ud83d\\ude00", b'["', b'"]'),
    "lone surrogates": partial(_repeated, b"\\ud800", b'["', b'"]'),
    "a key of 30 MB": lambda: b'{"' + b"x" * SIZE + b'": 0}',
    "a key of 30 MB of NUL": partial(_repeated, b"\\u0000", b'{"', b'": 0}'),
    "a million keys": lambda: b"{" + b",".join(b'"%x":0' % number for number in range(1_000_000)) + b"}",
    "one key, millions of times": partial(_repeated, b'"z":0,', b"{", b"}"),
    "keys of a kilobyte": lambda: b"{" + b",".join(b'"%01000x":0' % number for number in range(30_000)) + b"}",
    "[[[[…": lambda: b"[" * SIZE,
    "[[[[…]]]]": lambda: b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "150 deep, many times": partial(_repeated, b"[" * 150 + b"]" * 150 + b","),
    '{"a":{"a":…': lambda: b'{"a":' * (SIZE // 5),
    "spaces": lambda: b" " * SIZE + Z,
    "line breaks": lambda: b"\r\n" * (SIZE // 2) + Z,
    "spaces after it": lambda: Z + b"\n" * SIZE,
    "bytes that are not UTF-8": lambda: b'["' + b"\xff" * SIZE + b'"]',
    "three bytes a letter": lambda: b'["' + "字".encode() * (SIZE // 3) + b'"]',
    "cut": lambda: b"[" + b"[0,0,0]," * (SIZE // 8),
}
"""JSON documents of about 31 MB."""
LISTS = ("[0],[0],…", "{},{},…", '"","",…', "0,0,…", "a number of 30 MB", "a string of 30 MB", "150 deep, many times")
"""Those that are sent as fields too."""
BRIEF_VALUES = (
    *("numbers of 4,000 digits", "a number of 30 MB", "escapes", "a key of 30 MB", "one key, millions of times"),
    *("150 deep, many times", "line breaks"),
)
"""Those that a short run sends to one of the routes."""
FIELDS: dict[str, tuple[str, bytes]] = {
    "z": ("/decode", b'{"z": %b}'),
    "from": ("/interpolate", b'{"from": %b, "to": [0, 0, 0]}'),
    "steps": ("/interpolate", b'{"from": [0, 0, 0], "to": [0, 0, 1], "steps": %b}'),
    "at": ("/traverse", b'{"at": %b, "dimensions": [0]}'),
    "dimensions": ("/traverse", b'{"at": [0, 0, 0], "dimensions": %b}'),
    "data": (INFER, b'{"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": %b}]}'),
    "shape": (INFER, b'{"inputs": [{"name": "z", "datatype": "FP32", "shape": %b, "data": [0, 0, 0]}]}'),
    "inputs": (INFER, b'{"inputs": %b}'),
    "outputs": (
        INFER,
        b'{"inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}], "outputs": %b}',
    ),
    "parameters": (INFER, b'{"parameters": {"a": %b}, "inputs": []}'),
    "id": (INFER, b'{"id": %b, "inputs": []}'),
}
JSON_TARGETS = ("/decode", "/interpolate", "/traverse", INFER)


def _json() -> Iterator[Attack]:
    for number, (name, make) in enumerate(VALUES.items()):
        chosen = JSON_TARGETS[number % len(JSON_TARGETS)]
        for target in JSON_TARGETS:
            known = name == "[0],[0],…" or (name == "a key of 30 MB" and target == "/decode")
            for coding in ("", "gzip"):
                told = f"JSON, {name}{coding and ', ' + coding}, to {target}"
                request = partial(_sent, target, make, JSON, coding)
                brief = (target == INFER and known) or (coding == "gzip" and target == chosen and name in BRIEF_VALUES)
                times = 6 if name == "[0],[0],…" else 1
                yield Attack(told, request, times=times, brief=brief)
        for coding in list(COMPRESS)[1:]:
            request = partial(_sent, chosen, make, JSON, coding)
            yield Attack(f"JSON, {name}, {coding}, to {chosen}", request, brief=coding == "zstd" and number == 0)
    for field, (target, document) in FIELDS.items():
        for name in LISTS:
            body = partial(_in_field, document, VALUES[name])
            request = partial(_sent, target, body, JSON, "gzip")
            brief = name == "[0],[0],…" and field in ("from", "dimensions", "data", "outputs")
            yield Attack(f"JSON, {name} as {field}, gzip, to {target}", request, brief=brief)
    z = {"name": "z", "datatype": "FP32", "shape": [10_000, 3]}
    request = partial(_sent, INFER, partial(_infer_zeros, z, 30_001), JSON)
    yield Attack("10,000 latents as JSON, one value too many", request, REFUSED)
    body = partial(_infer_outputs, {**z, "data": [0, 0, 0]}, 500_000)
    yield Attack("500,000 outputs", partial(_sent, INFER, body, JSON, "gzip"), REFUSED)


def _in_field(document: bytes, make: Make) -> bytes:
    return document % make()


def _infer(tensor: Mapping[str, object], data: bytes = b"", outputs: bytes = b"") -> bytes:
    """A request of the Open Inference Protocol; `data` and `outputs` are JSON already."""
    written = json.dumps(tensor).encode()
    if data:
        written = written[:-1] + b', "data": ' + data + b"}"
    return b'{"inputs": [' + written + b"]" + (b', "outputs": ' + outputs if outputs else b"") + b"}"


def _infer_zeros(tensor: Mapping[str, object], count: int) -> bytes:
    return _infer(tensor, data=b"[" + b"0," * (count - 1) + b"0]")


def _infer_outputs(tensor: Mapping[str, object], count: int) -> bytes:
    return _infer(tensor, outputs=b"[" + b'{"name":"image"},' * count + b'{"name":"image"}]')


# Lines


LINES: dict[str, bytes] = {
    "empty": b"\n",
    "of a carriage return": b"\r\n",
    "of a space": b" \n",
    "of one digit": b"0\n",
    "of [0]": b"[0]\n",
    "of {}": b"{}\n",
    "of an empty string": b'""\n',
    "of a bracket": b"[\n",
    "of a latent": b"[0,0,0]\n",
    "of NUL": b"\0\n",
}


def _lines() -> Iterator[Attack]:
    for name, line in LINES.items():
        body = partial(_repeated, line, b"", b"\n")
        for coding in ("", "gzip", "zstd"):
            request = partial(_sent, "/decode", body, NDJSON, coding)
            brief = coding == "gzip" and name in ("empty", "of [0]")
            yield Attack(f"lines {name}{coding and ', ' + coding}", request, REFUSED | {408}, brief=brief)
    sound = partial(bytes, b"[0,0,0]\n" * 10_000)
    yield Attack("10,000 lines", partial(_sent, "/decode", sound, NDJSON, accept=NDJSON), OK, times=16)
    long_line = partial(bytes, b"[0,0,0]\n" * 9_000 + b"[" + b"9" * 10_000_000 + b"]\n")
    yield Attack("9,000 lines and a long one", partial(_sent, "/decode", long_line, NDJSON, "gzip"), REFUSED)


# Arrays


def _npy_images(dtype: str, count: int = 10_000, order: str = "C", value: float = 0) -> bytes:
    array = np.full((count, 28, 28), value, dtype)
    return npy(np.asfortranarray(array) if order == "F" else array)


def _npy_header(header: bytes, version: int = 1, data: bytes = b"", length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    packed = struct.pack("<H" if version == 1 else "<I", size % (2**16 if version == 1 else 2**32))
    return b"\x93NUMPY" + bytes([version, 0]) + packed + header + data


def _described(shape: str, dtype: str = "<f4", order: str = "False") -> bytes:
    return f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}}}".encode()


NPYS: dict[str, Make] = {
    "10,000 images of float16": partial(_npy_images, "<f2"),
    "10,000 images of float32": partial(_npy_images, "<f4", 9_880),
    "4,900 images of float64": partial(_npy_images, "<f8", 4_900),
    "4,900 images of big-endian float64": partial(_npy_images, ">f8", 4_900),
    "4,900 images of float64, Fortran order": partial(_npy_images, "<f8", 4_900, "F"),
    "10,000 images of float16, Fortran order": partial(_npy_images, "<f2", 10_000, "F"),
    "10,000 images of bytes, Fortran order": partial(_npy_images, "u1", 10_000, "F"),
    "39,000 images of bytes": partial(_npy_images, "u1", 39_000),
    "4,900 images of NaN": partial(_npy_images, "<f8", 4_900, value=float("nan")),
    "9,880 images of subnormal numbers": partial(_npy_images, "<f4", 9_880, value=1e-40),
    "shape of a billion": partial(_npy_header, _described("(1000000000, 28, 28)", "|u1"), data=bytes(784)),
    "shape of 2**63": partial(_npy_header, _described("(9223372036854775808, 3)"), data=bytes(784)),
    "shape that overflows": partial(_npy_header, _described("(4294967296, 4294967296)"), data=bytes(784)),
    "a billion empty rows": partial(_npy_header, _described("(1000000000, 0, 28)")),
    "shape of 3,000 sides": partial(_npy_header, _described("(" + "1, " * 3_000 + ")"), data=bytes(4)),
    "shape of 4,000 digits": partial(_npy_header, _described("(" + "9" * 4_000 + ", 3)")),
    "brackets": partial(_npy_header, b"(" * 65_000),
    "minus signs": partial(_npy_header, b"-" * 60_000 + b"1"),
    "nested lists": partial(_npy_header, b"[" * 5_000 + b"]" * 5_000),
    "nested dtypes": partial(
        _npy_header, _described("(3,)").replace(b"'<f4'", b"[('a', " * 900 + b"'<f4'" + b")]" * 900)
    ),
    "header of 30 MB": partial(_npy_header, b" " * SIZE, 2),
    "header of 30 MB of nines": partial(_npy_header, b"9" * SIZE, 2),
    "header longer than the file": partial(_npy_header, b"", 2, length=2**32 - 1),
    "dtype of objects": partial(_npy_header, _described("(3,)", "|O"), data=b"cos\nsystem\n"),
    "dtype of 2**31 letters": partial(_npy_header, _described("(3,)", "<U2147483647"), data=bytes(99)),
}


def _arrays() -> Iterator[Attack]:
    for number, (name, make) in enumerate(NPYS.items()):
        for target in ("/encode", "/reconstruct", "/decode"):
            request = partial(_sent, target, make, NPY, "gzip")
            brief = target == ("/encode", "/reconstruct", "/decode")[number % 3] and not _is_slow(name)
            yield Attack(f"npy, {name}, gzip, to {target}", request, times=8, brief=brief)
    for name, make in _safetensors().items():
        yield Attack(f"safetensors, {name}", partial(_sent, "/decode", make, SAFETENSORS, "gzip"), brief="2**" in name)
        yield Attack(f"safetensors, {name}, to /encode", partial(_sent, "/encode", make, SAFETENSORS, "gzip"))
    for name, make in _arrow().items():
        yield Attack(f"Arrow, {name}", partial(_sent, "/decode", make, ARROW), brief="batches" in name)
        yield Attack(f"Arrow, {name}, to /encode", partial(_sent, "/encode", make, ARROW, "gzip"))
    for dtype, size in (("float32", 4), ("float16", 2), ("bfloat16", 2)):
        count = min(10_000, SIZE // (784 * size))
        target = f"/remote/encode?shape={count}&shape=1&shape=28&shape=28&dtype={dtype}"
        request = partial(_sent, target, partial(bytes, count * 784 * size), TENSOR, "gzip")
        yield Attack(f"tensor of {count:,} images of {dtype}", request, OK, times=8, brief=dtype == "float16")
        target = f"/remote/decode?shape=10000&shape=3&dtype={dtype}&output_type="
        for kind in ("pt", "pil&image_format=png", "pil", "pt&partial_postprocess=true"):
            request = partial(_sent, target + kind, partial(bytes, 30_000 * size), TENSOR)
            yield Attack(
                f"tensor of 10,000 latents of {dtype}, {kind}",
                request,
                OK | {413},
                times=4,
                brief=kind == "pil" and size == 4,
            )
    images = {"name": "image", "datatype": "UINT8", "shape": [10_000, 1, 28, 28]}
    header = _infer({**images, "parameters": {"binary_data_size": 7_840_000}})
    binary = partial(
        _sent,
        INFER,
        partial(bytes, header + bytes(7_840_000)),
        JSON,
        "gzip",
        inference_header_content_length=str(len(header)),
    )
    yield Attack("10,000 images in binary", binary, OK, times=8)
    for length in ("0", "1", str(2**63), "9" * 18, str(SIZE)):
        request = partial(_sent, INFER, VALUES["[0],[0],…"], JSON, "gzip", inference_header_content_length=length)
        yield Attack(f"JSON of {length} bytes, as its field says", request)


def _safetensors() -> dict[str, Make]:
    def file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
        return struct.pack("<Q", len(header) if length is None else length) + header + data

    tensor = b'{"dtype":"F32","shape":[%b],"data_offsets":[0,%d]}'
    return {
        "header of no bytes": lambda: file(b""),
        "header of 2**63": lambda: file(b"{}", length=2**63),
        "header of 2**64 - 1": lambda: file(b"{}", length=2**64 - 1),
        "header of 30 MB": lambda: file(b'{"z":' + b" " * SIZE),
        "half a million tensors": lambda: file(
            b"{" + b",".join(b'"%x":%b' % (number, tensor % (b"0", 0)) for number in range(500_000)) + b"}"
        ),
        "shape of a million": lambda: file(b'{"z":' + tensor % (b"1," * 1_000_000 + b"1", 4) + b"}", bytes(4)),
        "shape of 2**63": lambda: file(b'{"z":' + tensor % (b"9223372036854775807,9", 4) + b"}", bytes(4)),
        "empty lists": lambda: file(b'{"z":' + VALUES["[0],[0],…"]()),
        "offsets beyond the end": lambda: file(b'{"z":' + tensor % (b"1000000,3", 12_000_000) + b"}"),
        "metadata of a million keys": lambda: file(
            b'{"__metadata__":{' + b",".join(b'"%x":""' % number for number in range(1_000_000)) + b"}}"
        ),
        "10,000 images": lambda: file(
            b'{"pixels":{"dtype":"U8","shape":[10000,1,28,28],"data_offsets":[0,7840000]}}', bytes(7_840_000)
        ),
    }


def _arrow() -> dict[str, Make]:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(30_000, np.float32)), 3)

    def stream(columns: Mapping[str, object], batches: int = 1, compression: str | None = None) -> bytes:
        batch, sink = pa.record_batch(dict(columns)), pa.BufferOutputStream()
        with ipc.new_stream(sink, batch.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
            for _ in range(batches):
                writer.write_batch(batch)
        written: bytes = sink.getvalue().to_pybytes()
        return written

    def lying(position: int, value: int) -> bytes:
        data = bytearray(stream({"z": vectors[:3]}))
        struct.pack_into("<i", data, position, value)
        return bytes(data)

    def zeros(count: int) -> object:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * count, np.float32)), 3)

    return {
        "10,000 latents": lambda: stream({"z": vectors}),
        "ten million latents, zstd": lambda: stream({"z": zeros(10_000_000)}, compression="zstd"),
        "ten million latents, lz4": lambda: stream({"z": zeros(10_000_000)}, compression="lz4"),
        "20,000 batches of one": lambda: stream({"z": vectors[:1]}, 20_000),
        "990 empty batches": lambda: stream({"z": vectors[:0]}, 990),
        "20,000 empty batches": lambda: stream({"z": vectors[:0]}, 20_000),
        "5,000 columns": lambda: stream({f"a{number}": vectors[:1] for number in range(5_000)}),
        "a dictionary": lambda: stream({"z": vectors[:3], "a": pa.array(["x" * 1000] * 3).dictionary_encode()}, 1000),
        "metadata of 2**31": lambda: lying(4, 2**31 - 1),
        "metadata of -1": lambda: lying(4, -1),
        "schema that lies": lambda: lying(8, 2**30),
        "end at once": lambda: b"\xff\xff\xff\xff\0\0\0\0",
        "continuations": lambda: b"\xff\xff\xff\xff" * 5_000_000,
    }


# Heads


def _heads() -> Iterator[Attack]:
    for target in ("/livez", "/readyz", "/model", "/sample", "/metrics", "/docs", "/latents", "/openapi.json", "/v2"):
        yield Attack(
            f"HEAD {target}", partial(write_request, "HEAD", target), OK, is_head=True, brief=target == "/sample"
        )
    line = b"POST /decode HTTP/1.1\r\n"
    fields = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(Z), Z)
    bad = frozenset({400})
    hosts = {
        "no": b"",
        "two": b"host: a\r\nhost: b\r\n",
        "a Host that is none": b"host: a b/c@d\r\n",
        "an empty": b"host: \r\n",
    }
    for name, host in hosts.items():
        statuses = frozenset({200, 400}) if name == "an empty" else bad
        yield Attack(f"Host: {name}", partial(bytes, line + host + fields), statuses)
    version = (line + b"host: soak\r\n" + fields).replace(b"HTTP/1.1", b"HTTP/2.0")
    yield Attack("HTTP/2.0 in the request line", partial(bytes, version), frozenset({505}), framed=False)
    coded = line + b"host: soak\r\ncontent-type: application/json\r\ntransfer-encoding: gzip, chunked\r\n\r\n"
    coded += b"7\r\n[0,0,0]\r\n0\r\n\r\n"
    yield Attack("Transfer-Encoding: gzip, chunked", partial(bytes, coded), frozenset({400, 501}), framed=False)
    for quality in ("nan", "2", "inf", "-1", "1e-400", "0." + "0" * 5000):
        request = partial(_post, "/decode", Z, JSON, f"image/png;q={quality}")
        yield Attack(f"Accept of quality {quality[:9]}", request)
    for coding in ("gzip;q=0", "notgzip", "GZIP", "*;q=0", "identity;q=0", "gzip;q=nan"):
        yield Attack(
            f"Accept-Encoding: {coding}", partial(write_request, "GET", "/openapi.json", accept_encoding=coding)
        )
    for target in ("/sample", "/latents", "/model", "/livez", "/decode", "/encode", INFER):
        method, body = ("GET", b"") if target in ("/sample", "/latents", "/model", "/livez") else ("POST", Z)
        for name, query in QUERIES.items():
            request = partial(write_request, method, f"{target}?{query}", body, content_type=JSON)
            yield Attack(f"query of {name} to {target}", request, brief=target in ("/sample", "/decode"))
    for field in (
        "accept",
        "content_type",
        "accept_encoding",
        "x_request_id",
        "traceparent",
        "if_none_match",
        "cookie",
    ):
        for name, value in VALUES_OF_FIELDS.items():
            request = partial(write_request, "POST", "/decode", Z, **{field: value})
            yield Attack(f"{field} of {name}", request, brief=field in ("accept", "content_type"))
    yield Attack(
        "900 fields", partial(write_request, "GET", "/livez", b"", **{f"x{number}": "y" for number in range(900)})
    )
    yield Attack("path of 60 kB", partial(write_request, "GET", "/" + "a" * 60_000))
    yield Attack("path of 20,000 escapes", partial(write_request, "GET", "/" + "%41" * 20_000))
    yield Attack("path of 60,000 slashes", partial(write_request, "GET", "/" * 60_000))


QUERIES = {
    "60,000 letters": "a" * 60_000,
    "20,000 names": "&".join(["a"] * 20_000),
    "6,000 other names": "&".join(f"a{number}=1" for number in range(6_000)),
    "10,000 seeds": "&".join(["seed=1"] * 8_000),
    "20,000 escapes": "a=" + "%41" * 19_000,
    "a number of 60,000 digits": "n=" + "9" * 60_000,
    "60,000 ampersands": "&" * 60_000,
    "semicolons": "a;" * 30_000,
    "bytes that are not UTF-8": "seed=" + quote(b"\xff" * 19_000),
    "plus signs": "n=" + "+" * 60_000,
}
VALUES_OF_FIELDS = {
    "60,000 commas": "," * 60_000,
    "8,000 types": ",".join(["a/b"] * 15_000),
    "6,000 qualities": ",".join(["a/b;q=0.5"] * 6_000),
    "a type and 10,000 parameters": "image/png" + ";a=b" * 14_000,
    "60,000 semicolons": "application/json" + ";" * 60_000,
    "60,000 quotes": 'application/json; a="' + '"' * 60_000,
    "60,000 backslashes": 'application/json; a="' + "\\" * 60_000,
    "60,000 spaces": "application/json" + " " * 60_000 + "x",
    "60,000 stars": "*" * 60_000,
    "slashes": "a/" * 30_000,
}


# Much work for few bytes


def _costly() -> Iterator[Attack]:
    for name, shape in {"1L,1L,…": b"1L," * 3000, "1,1,…": b"1," * 4500, "((((…": b"(" * 9000}.items():
        body = partial(_npy_of_shape, shape)
        yield Attack(f"npy header, {name}", partial(_sent, "/encode", body, NPY), REFUSED, times=64, brief=True)
    form_type = f"{FORM}; boundary=soak"
    disposition = b'content-disposition: form-data; name="image"; filename="' + b";a" * 2000
    for parts in (2, 100):
        body = partial(form, *[(disposition, b"x")] * parts)
        request = partial(_sent, "/encode", body, form_type)
        yield Attack(f"form of {parts} parts, an open quotation mark", request, REFUSED, times=64, brief=True)
    z = {"name": "z", "datatype": "FP32", "shape": [10_000, 3]}
    request = partial(_sent, INFER, partial(_infer_zeros, z, 30_000), JSON)
    yield Attack("10,000 latents as JSON", request, OK, times=4, brief=True)
    request = partial(_sent, INFER, partial(_many_lists, 1900), JSON, "gzip")
    yield Attack("JSON, 1,900 short lists far apart, gzip", request, REFUSED, times=2, brief=True)
    for name, unit in (("FF 00", b"\xff\x00"), ("FF", b"\xff\xff")):
        body = partial(_long_jpeg, unit)
        yield Attack(f"JPEG, {name} for 31 MB", partial(_sent, "/encode", body, "image/jpeg", "gzip"), brief=True)
    target = "/remote/decode?shape=10000&shape=3"
    request = partial(_sent, target, partial(bytes, 120_000), TENSOR, accept=TENSOR)
    yield Attack("10,000 latents to tensors in RGB", request, OK, times=4, brief=True)
    for count in (1, 100):
        body = partial(_npy_images, "u1", count)
        request = partial(_sent, f"/reconstruct?draws={10_000 // count}", body, NPY, accept=JSON)
        yield Attack(f"10,000 draws of {count} images", request, OK, times=20, brief=True)
    head = b"GET /livez HTTP/1.1\r\nhost: a\r\n" + b"a:\r\n" * 16_000 + b"\r\n"
    yield Attack("head of 16,000 fields", partial(bytes, head), frozenset({431}), times=64, brief=True)


def _npy_of_shape(shape: bytes) -> bytes:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%b)}" % shape
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header


def _many_lists(count: int) -> bytes:
    return b"[" + b",".join([b" " * 2**14 + b"[0]", *[b'"",' * 27 + b'""'] * 1] * count) + b"]"


def _long_jpeg(unit: bytes) -> bytes:
    whole = hostile_images.jpeg()
    scan = whole.index(b"\xff\xda")
    return whole[: scan + 14] + unit * (SIZE // len(unit))


# Pipelined


def _pipelined() -> Iterator[Attack]:
    targets = {
        "/metrics": 10_000,
        "/openapi.json": 10_000,
        "/livez": 14_000,
        "/sample?n=64": 5_000,
        "/latents": 5_000,
        "/docs": 5_000,
        "/": 5_000,
        "/nothing": 10_000,
    }
    for target, count in targets.items():
        statuses = frozenset({404, 429, 503}) if target == "/nothing" else OK | {429}
        request = partial(_repeated_request, write_request("GET", target), count)
        brief = target in ("/metrics", "/openapi.json", "/livez")
        answers = 100 if target == "/metrics" else count  # each is rendered anew
        yield Attack(f"{count:,} times GET {target}", request, statuses, answers=answers, brief=brief)
    request = partial(_repeated_request, _post("/decode", Z, JSON), 10_000)
    yield Attack("10,000 times POST /decode", request, OK | {429}, answers=10_000)
    request = partial(_repeated_request, _post("/encode", b"no image", PNG), 10_000)
    yield Attack("10,000 times an image that is none", request, answers=10_000)
    head = write_request("HEAD", "/livez")
    yield Attack("10,000 times HEAD /livez", partial(_repeated_request, head, 10_000), OK | {429}, is_head=True)


def _repeated_request(request: bytes, count: int) -> bytes:
    return request * count


# Bodies


def _bodies() -> Iterator[Attack]:
    head = (
        b"POST /decode HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n%b\r\n"
    )
    plain, packed = head % b"", head % b"content-encoding: gzip\r\n"

    def chunked(body: bytes, size: int, extension: bytes = b"") -> bytes:
        pieces = (body[start : start + size] for start in range(0, len(body), size))
        return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n\r\n"

    yield Attack("a million chunks of one byte", lambda: plain + b"1\r\n \r\n" * 1_000_000 + b"0\r\n\r\n", brief=True)
    yield Attack(
        "chunks of one byte, gzip", lambda: packed + chunked(gzip.compress(VALUES["[0],[0],…"](), 9), 1), brief=True
    )
    yield Attack("chunks with extensions", lambda: plain + chunked(b" " * 10_000 + Z, 1, b";a=b"))
    yield Attack("chunks in capitals and zeros", lambda: plain + b"000000A\r\n[0,0,0]   \r\n0\r\n\r\n")
    yield Attack("1,000 trailers", lambda: plain + b"7\r\n[0,0,0]\r\n0\r\n" + b"x: y\r\n" * 1000 + b"\r\n")
    for coding in ("gzip", "deflate", "zstd"):
        bomb = partial(_bomb, coding)
        for target, media_type in (
            ("/decode", JSON),
            ("/encode", PNG),
            ("/encode", NPY),
            ("/encode", f"{FORM}; boundary=soak"),
        ):
            request = partial(_post_packed, target, media_type, coding, bomb)
            kind = media_type.partition(";")[0]
            yield Attack(f"{coding} of a gigabyte as {kind} to {target}", request, REFUSED, times=8, brief=kind == PNG)
        request = partial(_post_packed, "/decode", JSON, coding, partial(_twice_packed, coding))
        yield Attack(f"{coding} in {coding}", request, REFUSED)
    members = partial(_post_packed, "/decode", JSON, "gzip", lambda: gzip.compress(b"", mtime=0) * 500_000)
    yield Attack("500,000 gzip members of no bytes", members, REFUSED, brief=True)
    frames = partial(_post_packed, "/decode", JSON, "zstd", lambda: zstandard.compress(b"") * 500_000)
    yield Attack("500,000 zstd frames of no bytes", frames, REFUSED, brief=True)
    blocks = partial(_post_packed, "/decode", JSON, "deflate", _empty_blocks)
    yield Attack("deflate, millions of empty blocks", blocks, REFUSED)
    yield Attack("zstd of a window of 2 GB", partial(_post_packed, "/decode", JSON, "zstd", _wide_window), REFUSED)


def _post_packed(target: str, media_type: str, coding: str, make: Make) -> bytes:
    return _post(target, make(), media_type, content_encoding=coding)


@cache
def _bomb(coding: str) -> bytes:
    """A gigabyte of zeros, in pieces as far as the coding has them."""
    piece = bytes(SIZE)
    if coding == "deflate":
        packer = zlib.compressobj(9)
        first = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
        return first + (packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)) * 32
    return COMPRESS[coding](piece) * 33


def _twice_packed(coding: str) -> bytes:
    return COMPRESS[coding](_bomb(coding))


def _empty_blocks() -> bytes:
    return b"\x78\x9c" + b"\0\0\0\xff\xff" * 6_000_000


def _wide_window() -> bytes:
    return b"\x28\xb5\x2f\xfd\0" + b"\xa8" + b"\x01\0\0"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.buffer.write(attack(sys.argv[1]).data)
    else:
        sys.stdout.write("".join(f"{each.name}\n" for each in attacks()))
