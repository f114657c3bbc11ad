"""Attacks as multipart forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.soak import hostile_images
from tests.soak.attack_requests import FORM, IMAGE_PART, SIZE, TEXT_PART, Attack, Make, Z, form, sent, text_form
from tests.soak.exchanges import JSON

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


def form_attacks() -> Iterator[Attack]:
    pixel = hostile_images.smallest_png()
    encode = partial(sent, "/encode", content_type=f"{FORM}; boundary=soak")
    for codec in CODECS:
        name, told = codec[:20].replace("\0", "NUL"), codec.replace("\0", "")
        text = partial(text_form, b"a" * 10**6)
        by_form = partial(sent, "/encode", text, f"{FORM}; boundary=soak; charset={told}", "gzip")
        yield Attack(f"charset of a form: {name}", by_form, brief=codec in ("idna", "utf-7", "zlib"))
        head = TEXT_PART + f"\r\ncontent-type: text/plain; charset={told}".encode()
        by_part = partial(encode, partial(text_form, b"a" * 10**6, head), coding="gzip")
        yield Attack(f"charset of a part: {name}", by_part, brief=codec == "punycode")
        head = f"content-disposition: form-data; name=\"image\"; filename*={told}''{'%41' * 5000}".encode()
        yield Attack(f"charset of a file name: {name}", partial(encode, partial(text_form, b"a", head)))
        by_type = partial(sent, "/decode", partial(bytes, Z), f"{JSON}; charset={told}")
        yield Attack(f"charset of JSON: {name}", by_type)
        by_field = partial(
            encode,
            partial(
                form, (b'content-disposition: form-data; name="_charset_"', told.encode()), (TEXT_PART, b"a" * 10**6)
            ),
        )
        yield Attack(f"charset in the field _charset_: {name}", by_field)
    for count in (10_000, 10_001):
        yield Attack(
            f"form of {count:,} pixels",
            partial(encode, partial(form, *[(IMAGE_PART, pixel)] * count)),
            times=8,
            brief=count == 10_000,
        )
    for target in ("/encode", "/reconstruct"):
        body = partial(sent, target, partial(form, *[(IMAGE_PART, pixel)] * 10_000), f"{FORM}; boundary=soak", "gzip")
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
        yield Attack(f"form, {name}", partial(encode, make), brief=raw)
        yield Attack(f"form, {name}, gzip", partial(encode, make, coding="gzip"), brief=not raw and "million" in name)
    for name, boundary in BOUNDARIES.items():
        content_type = f'{FORM}; boundary="{boundary.decode()}"'
        parts = partial(form, *[(IMAGE_PART, pixel)] * 100, boundary=boundary)
        yield Attack(f"form, a boundary {name}", partial(sent, "/encode", parts, content_type))
        repeated = partial(
            form, (IMAGE_PART, (b"\r\n--" + boundary)[:-1] * (SIZE // (len(boundary) + 3))), boundary=boundary
        )
        yield Attack(f"form, a boundary {name}, nearly, gzip", partial(sent, "/encode", repeated, content_type, "gzip"))


MANY_PARAMETERS = 200_000
