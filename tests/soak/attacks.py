"""Requests that try to block the event loop, to exhaust memory, or to cause a 5xx.

python -m tests.soak.attacks [NAME]

lists their names, or writes the request of that name to standard output, as it goes over the wire.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from functools import cache, partial
from urllib.parse import quote

from tests.soak import hostile_images
from tests.soak.attack_requests import (
    COMPRESS,
    FORM,
    IMAGE_PART,
    IMAGE_TARGETS,
    INFER,
    OK,
    REFUSED,
    SIZE,
    TENSOR,
    Attack,
    Make,
    Z,
    form,
    image_form,
    is_slow,
    post,
    sent,
    text_form,
)
from tests.soak.attacks_arrays import array_attacks, described, npy_header, npy_images
from tests.soak.attacks_forms import form_attacks
from tests.soak.attacks_json import VALUES, infer_zeros, json_attacks, line_attacks
from tests.soak.client import write_request
from tests.soak.exchanges import JSON, NPY, PNG
from tests.soak.hostile_exif import ASCII, BYTE, RATIONAL, SHORT, SIZES, UNDEFINED, orientation
from tests.soak.hostile_images import hostile_images as all_hostile_images
from tests.zstandard import zstd


@cache
def attacks() -> tuple[Attack, ...]:
    """All attacks; no request is built before its `data` is read."""
    made = (
        *_known(),
        *_images(),
        *form_attacks(),
        *json_attacks(),
        *line_attacks(),
        *array_attacks(),
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
    """Return the attack of that name."""
    return next(each for each in attacks() if each.name == name)


# Faults of earlier versions


def _known() -> Iterator[Attack]:
    image = partial(sent, content_type=PNG)
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
        count = (SIZE - 200) // SIZES[kind]
        for target in IMAGE_TARGETS:
            request = partial(image, target, partial(_exif_png, kind, count), coding="gzip")
            brief = (kind == RATIONAL and target != "/reconstruct") or (kind == ASCII and target == "/reconstruct")
            yield Attack(f"PNG, {count:,} {told} in eXIf, gzip, to {target}", request, times=4, brief=brief)
    for target in IMAGE_TARGETS:
        request = partial(image, target, hostile_images.text_png)
        yield Attack(f"PNG, 30 zTXt of a megabyte, to {target}", request, times=200, brief=target != "/reconstruct")
    request = partial(
        sent, "/encode", partial(text_form, b"a" * 10**6), f"{FORM}; boundary=soak; charset=punycode", "gzip"
    )
    yield Attack("form in punycode", request, brief=True)
    for target in ("/encode", "/reconstruct"):
        request = partial(sent, target, partial(npy_images, "u1"), NPY, "gzip")
        yield Attack(f"npy of 10,000 images, gzip, to {target}", request, OK, times=200, brief=target == "/encode")
    for target in IMAGE_TARGETS:
        request = partial(sent, target, hostile_images.GIFS["coloured global, grey local palette"], "image/gif")
        yield Attack(f"GIF of two palettes to {target}", request, frozenset({200, 400, 503}), brief=True)
    whole = post("/decode", Z, JSON)
    for name, junk in (
        ("letters", b"xxxx"),
        ("NUL", b"\0" * 9),
        ("half a request", b"GET /livez HT"),
        ("TLS", b"\x16\x03\x01"),
    ):
        yield Attack(
            f"whole request, then {name}", partial(bytes, whole + junk), OK, framed=False, brief=name == "letters"
        )
    closing = post("/decode", Z, JSON, connection="close")
    yield Attack(
        "Connection: close, then a second request", partial(bytes, closing + whole), OK, framed=False, brief=True
    )
    warning = partial(image, "/encode", hostile_images.PNGS["eXIf warnings"])
    yield Attack("PNG whose EXIF makes Pillow warn", warning, times=13, brief=True)
    images = {"name": "image", "datatype": "UINT8", "shape": [10_000, 1, 28, 28]}
    body = partial(infer_zeros, images, 7_840_000)
    yield Attack("10,000 images as JSON", partial(sent, INFER, body, JSON), OK)
    yield Attack("Content-Encoding: Identity", partial(post, "/decode", Z, JSON, content_encoding="Identity"), OK)
    version = npy_header(described("(3,)"), 4, bytes(12))
    yield Attack("npy of version 4.0", partial(post, "/decode", version, NPY), frozenset({400, 503}))


def _exif_png(kind: int, count: int) -> bytes:
    return hostile_images.png(hostile_images.chunk(b"eXIf", orientation(kind, count)))


# Images


REMOTE_TOO = ("PNG, cut in IDAT", "PNG, broken zlib", "PNG, raw profile that is no hex", "PNG, eXIf no TIFF")
"""Short runs send these to /remote/encode in any case."""


def _images() -> Iterator[Attack]:
    """Short runs send each image to one of the targets, long runs to all."""
    for number, (name, media_type, make) in enumerate(all_hostile_images()):
        makes: dict[str, Make] = {f"to {target}": partial(sent, target, make, media_type) for target in IMAGE_TARGETS}
        for parts in (1, 2):
            body = partial(image_form, make, parts)
            makes[f"in a form of {parts}"] = partial(sent, "/encode", body, f"{FORM}; boundary=soak")
        for index, (where, request) in enumerate(makes.items()):
            brief = (index == number % len(makes) and not is_slow(name)) or (
                where == "to /remote/encode" and name in REMOTE_TOO
            )
            yield Attack(f"{name}, {where}", request, brief=brief)
    small = [make for name, make in hostile_images.PNGS.items() if name.startswith("raw profile")]
    body = partial(_mixed_form, small)
    yield Attack("form of many hostile PNG", partial(sent, "/encode", body, f"{FORM}; boundary=soak"))


def _mixed_form(makes: list[Make]) -> bytes:
    return form(*[(IMAGE_PART, make()) for make in makes])


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
        request = partial(post, "/decode", Z, JSON, f"image/png;q={quality}")
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
        yield Attack(f"npy header, {name}", partial(sent, "/encode", body, NPY), REFUSED, times=64, brief=True)
    form_type = f"{FORM}; boundary=soak"
    disposition = b'content-disposition: form-data; name="image"; filename="' + b";a" * 2000
    for parts in (2, 100):
        body = partial(form, *[(disposition, b"x")] * parts)
        request = partial(sent, "/encode", body, form_type)
        yield Attack(f"form of {parts} parts, an open quotation mark", request, REFUSED, times=64, brief=True)
    z = {"name": "z", "datatype": "FP32", "shape": [10_000, 3]}
    request = partial(sent, INFER, partial(infer_zeros, z, 30_000), JSON)
    yield Attack("10,000 latents as JSON", request, OK, times=4, brief=True)
    request = partial(sent, INFER, partial(_many_lists, 1900), JSON, "gzip")
    yield Attack("JSON, 1,900 short lists far apart, gzip", request, REFUSED, times=2, brief=True)
    for name, unit in (("FF 00", b"\xff\x00"), ("FF", b"\xff\xff")):
        body = partial(_long_jpeg, unit)
        yield Attack(f"JPEG, {name} for 31 MB", partial(sent, "/encode", body, "image/jpeg", "gzip"), brief=True)
    target = "/remote/decode?shape=10000&shape=3"
    request = partial(sent, target, partial(bytes, 120_000), TENSOR, accept=TENSOR)
    yield Attack("10,000 latents to tensors in RGB", request, OK, times=4, brief=True)
    for count in (1, 100):
        body = partial(npy_images, "u1", count)
        request = partial(sent, f"/reconstruct?draws={10_000 // count}", body, NPY, accept=JSON)
        yield Attack(f"10,000 draws of {count} images", request, OK, times=20, brief=True)
        request = partial(sent, f"/score?samples={10_000 // count}", body, NPY, accept=JSON)
        yield Attack(f"10,000 importance samples of {count} images", request, OK, times=20, brief=True)
    body = partial(npy_images, "u1", 10_000)
    request = partial(sent, "/score?map=true", body, NPY, accept=PNG)
    yield Attack("map of the losses of 10,000 images", request, OK, times=4, brief=True)
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
        answers = 100 if target == "/metrics" else count  # each is rendered again
        yield Attack(f"{count:,} times GET {target}", request, statuses, answers=answers, brief=brief)
    request = partial(_repeated_request, post("/decode", Z, JSON), 10_000)
    yield Attack("10,000 times POST /decode", request, OK | {429}, answers=10_000)
    request = partial(_repeated_request, post("/encode", b"no image", PNG), 10_000)
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
    frames = partial(_post_packed, "/decode", JSON, "zstd", lambda: zstd.compress(b"") * 500_000)
    yield Attack("500,000 zstd frames of no bytes", frames, REFUSED, brief=True)
    blocks = partial(_post_packed, "/decode", JSON, "deflate", _empty_blocks)
    yield Attack("deflate, millions of empty blocks", blocks, REFUSED)
    yield Attack("zstd of a window of 2 GB", partial(_post_packed, "/decode", JSON, "zstd", _wide_window), REFUSED)


def _post_packed(target: str, media_type: str, coding: str, make: Make) -> bytes:
    return post(target, make(), media_type, content_encoding=coding)


@cache
def _bomb(coding: str) -> bytes:
    """Compress a gigabyte of zeros, as several members if the coding has them."""
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
