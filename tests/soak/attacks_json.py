"""Attacks in JSON: documents, and lines of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial

from tests.soak.attack_requests import COMPRESS, INFER, NDJSON, OK, REFUSED, SIZE, Attack, Make, Z, sent
from tests.soak.exchanges import JSON


def repeated(piece: bytes, begin: bytes = b"[", end: bytes = b"]") -> bytes:
    return begin + piece * (SIZE // len(piece) - 1) + piece.rstrip(b",") + end


VALUES: dict[str, Make] = {
    "[0],[0],…": partial(repeated, b"[0],"),
    "{},{},…": partial(repeated, b"{},"),
    '"","",…': partial(repeated, b'"",'),
    "0,0,…": partial(repeated, b"0,"),
    "null,null,…": partial(repeated, b"null,"),
    "NaN,NaN,…": partial(repeated, b"NaN,"),
    "1e400,1e400,…": partial(repeated, b"1e400,"),
    "[0,0,0],[0,0,0],…": partial(repeated, b"[0,0,0],"),
    "[[],[]],…": partial(repeated, b"[[],[]],"),
    '{"a":0},…': partial(repeated, b'{"a":0},'),
    "10,000 latents and spaces": lambda: b"[" + b",".join([b"[0,0,0]" + b" " * 3000] * 10_000) + b"]",
    "a number of 30 MB": lambda: b"[" + b"9" * SIZE + b"]",
    "a fraction of 30 MB": lambda: b"[0." + b"1" * SIZE + b"]",
    "an exponent of 30 MB": lambda: b"[1e" + b"9" * SIZE + b"]",
    "numbers of 4,000 digits": partial(repeated, b"9" * 4000 + b","),
    "a string of 30 MB": lambda: b'["' + b"x" * SIZE + b'"]',
    "escapes": partial(repeated, b"\\u0041", b'["', b'"]'),
    "pairs of surrogates": partial(repeated, b"\\ud83d\\ude00", b'["', b'"]'),
    "lone surrogates": partial(repeated, b"\\ud800", b'["', b'"]'),
    "a key of 30 MB": lambda: b'{"' + b"x" * SIZE + b'": 0}',
    "a key of 30 MB of NUL": partial(repeated, b"\\u0000", b'{"', b'": 0}'),
    "a million keys": lambda: b"{" + b",".join(b'"%x":0' % number for number in range(1_000_000)) + b"}",
    "one key, millions of times": partial(repeated, b'"z":0,', b"{", b"}"),
    "keys of a kilobyte": lambda: b"{" + b",".join(b'"%01000x":0' % number for number in range(30_000)) + b"}",
    "[[[[…": lambda: b"[" * SIZE,
    "[[[[…]]]]": lambda: b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "150 deep, many times": partial(repeated, b"[" * 150 + b"]" * 150 + b","),
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


def json_attacks() -> Iterator[Attack]:
    for number, (name, make) in enumerate(VALUES.items()):
        chosen = JSON_TARGETS[number % len(JSON_TARGETS)]
        for target in JSON_TARGETS:
            for coding in ("", "gzip"):
                told = f"JSON, {name}{coding and ', ' + coding}, to {target}"
                request = partial(sent, target, make, JSON, coding)
                known = target == INFER and name == "[0],[0],…"
                brief = coding == "gzip" and (known or (target == chosen and name in BRIEF_VALUES))
                times = 6 if name == "[0],[0],…" else 1
                yield Attack(told, request, times=times, brief=brief)
        for coding in list(COMPRESS)[1:]:
            request = partial(sent, chosen, make, JSON, coding)
            yield Attack(f"JSON, {name}, {coding}, to {chosen}", request, brief=coding == "zstd" and number == 0)
    for field, (target, document) in FIELDS.items():
        for name in LISTS:
            body = partial(_in_field, document, VALUES[name])
            request = partial(sent, target, body, JSON, "gzip")
            brief = name == "[0],[0],…" and field in ("from", "dimensions", "data")
            yield Attack(f"JSON, {name} as {field}, gzip, to {target}", request, brief=brief)
    z = {"name": "z", "datatype": "FP32", "shape": [10_000, 3]}
    request = partial(sent, INFER, partial(infer_zeros, z, 30_001), JSON)
    yield Attack("10,000 latents as JSON, one value too many", request, REFUSED)
    body = partial(infer_outputs, {**z, "data": [0, 0, 0]}, 500_000)
    yield Attack("500,000 outputs", partial(sent, INFER, body, JSON, "gzip"), REFUSED)


def _in_field(document: bytes, make: Make) -> bytes:
    return document % make()


def infer(tensor: Mapping[str, object], data: bytes = b"", outputs: bytes = b"") -> bytes:
    """A request of the Open Inference Protocol; `data` and `outputs` are JSON already."""
    written = json.dumps(tensor).encode()
    if data:
        written = written[:-1] + b', "data": ' + data + b"}"
    return b'{"inputs": [' + written + b"]" + (b', "outputs": ' + outputs if outputs else b"") + b"}"


def infer_zeros(tensor: Mapping[str, object], count: int) -> bytes:
    return infer(tensor, data=b"[" + b"0," * (count - 1) + b"0]")


def infer_outputs(tensor: Mapping[str, object], count: int) -> bytes:
    return infer(tensor, outputs=b"[" + b'{"name":"image"},' * count + b'{"name":"image"}]')


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


def line_attacks() -> Iterator[Attack]:
    for name, line in LINES.items():
        body = partial(repeated, line, b"", b"\n")
        for coding in ("", "gzip", "zstd"):
            request = partial(sent, "/decode", body, NDJSON, coding)
            brief = coding == "gzip" and name in ("empty", "of [0]")
            yield Attack(f"lines {name}{coding and ', ' + coding}", request, REFUSED | {408}, brief=brief)
    sound = partial(bytes, b"[0,0,0]\n" * 10_000)
    yield Attack("10,000 lines", partial(sent, "/decode", sound, NDJSON, accept=NDJSON), OK, times=16)
    long_line = partial(bytes, b"[0,0,0]\n" * 9_000 + b"[" + b"9" * 10_000_000 + b"]\n")
    yield Attack("9,000 lines and a long one", partial(sent, "/decode", long_line, NDJSON, "gzip"), REFUSED)
